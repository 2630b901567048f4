/** npm `@ai-sdk/openai-compatible` and `@ai-sdk/deepseek` with `ai`, unchanged. */
import assert from "node:assert/strict";
import process from "node:process";
import { createDeepSeek } from "@ai-sdk/deepseek";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText } from "ai";
import { z } from "zod";

const { address, key: apiKey, model, question, answer } = JSON.parse(process.argv[2]);
const baseURL = `${address}/v1`;
const compatible = createOpenAICompatible({ name: "hybridseek", baseURL, apiKey, includeUsage: true });
const schema = z.object({ name: z.string().max(12), age: z.number().int().min(0).max(150) });
const structured = createOpenAICompatible({ name: "hybridseek", baseURL, apiKey, supportsStructuredOutputs: true });
const { object } = await generateObject({
  ...{ model: structured(model), prompt: question, schema, temperature: 0, maxOutputTokens: 900, maxRetries: 0 },
});
assert.deepEqual(schema.parse(object), object);

const models = [compatible(model), createDeepSeek({ baseURL, apiKey })(model)];
for (const model of models) {
  const options = { model, prompt: question, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };
  const whole = await generateText(options);
  assert.equal(whole.text, answer);
  assert.equal(whole.finishReason, "stop");
  assert(whole.usage.inputTokens > 0 && whole.usage.outputTokens > 0);
  const streamed = streamText(options);
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.equal(text, answer);
  assert.equal(await streamed.finishReason, "stop");
  assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
}
