/**
 * `hybrid_program.ts <package> <options of LLM.open as JSON>...`: for each, generates from one prompt on backend
 * cuda with the native library of the environment. Prints the token ids and the plan's bytes, or the error, as
 * JSON lines.
 */
import { HybridseekError } from "../../src/errors.ts";
import { LLM } from "../../src/llm.ts";

const [folder, ...options] = Deno.args;
const prompt = { promptTokenIds: [1, 2, 3, 4, 5, 6, 7] };
for (const option of options) {
  try {
    await using llm = await LLM.open(folder, {
      backend: "cuda",
      contextLength: 256,
      ...JSON.parse(option),
    });
    const [result] = await llm.generate(prompt, { temperature: 0, maxTokens: 8, ignoreEos: true });
    console.log(JSON.stringify({ tokens: result!.outputs[0]!.tokenIds, bytes: llm.info.bytes }));
  } catch (error) {
    if (!(error instanceof HybridseekError)) throw error;
    console.log(JSON.stringify({ code: error.code, message: error.message }));
  }
}
