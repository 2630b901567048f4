/**
 * Generates with backend ort-native in a worker: gets a prompt, answers with tokens.
 */
import { LLM } from "../../src/llm.ts";

const scope = self as unknown as {
  onmessage: (event: MessageEvent<string>) => void;
  postMessage(tokens: number[]): void;
};

scope.onmessage = async ({ data: prompt }) => {
  await using llm = await LLM.open(undefined, { backend: "ort-native" });
  const [result] = await llm.generate(prompt, { temperature: 0, maxTokens: 32 });
  scope.postMessage([...result!.outputs[0]!.tokenIds]);
};
