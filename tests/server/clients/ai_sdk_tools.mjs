/** npm `@ai-sdk/openai-compatible` and `@ai-sdk/deepseek` with tools that `ai` runs, unchanged. */
import assert from "node:assert/strict";
import process from "node:process";
import { createDeepSeek } from "@ai-sdk/deepseek";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";

const { address, key: apiKey, model, answer, degrees } = JSON.parse(process.argv[2]);
const baseURL = `${address}/v1`;
const compatible = createOpenAICompatible({ name: "hybridseek", baseURL, apiKey, includeUsage: true });
const places = Object.keys(degrees);
for (const chat of [compatible(model), createDeepSeek({ baseURL, apiKey })(model)]) {
  const options = {
    ...{ model: chat, prompt: "What's the weather like in Tokyo and Paris?", maxRetries: 0 },
    stopWhen: isStepCount(3),
    tools: {
      get_weather: tool({
        description: "The weather at a place",
        inputSchema: jsonSchema({
          ...{ type: "object", properties: { place: { type: "string" } }, required: ["place"] },
        }),
        execute: ({ place }) => `${place}: ${degrees[place]} degrees`,
      }),
    },
  };
  const placesOf = (steps) => steps[0].toolCalls.map(({ input }) => input.place);
  const whole = await generateText(options);
  assert.equal(whole.text, answer);
  assert.equal(whole.steps[0].finishReason, "tool-calls");
  assert.deepEqual(placesOf(whole.steps), places);
  const streamed = streamText(options);
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.equal(text, answer);
  assert.deepEqual(placesOf(await streamed.steps), places);
}
