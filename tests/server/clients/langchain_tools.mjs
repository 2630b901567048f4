/** npm `@langchain/openai` and `@langchain/deepseek` with bindTools, unchanged. */
import assert from "node:assert/strict";
import process from "node:process";
import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatDeepSeek } from "@langchain/deepseek";
import { ChatOpenAI } from "@langchain/openai";

const { address, key, model, answer, degrees } = JSON.parse(process.argv[2]);
const options = { model, maxRetries: 0, apiKey: key, configuration: { baseURL: `${address}/v1` } };
const places = Object.keys(degrees);
const weather = tool(({ place }) => `${place}: ${degrees[place]} degrees`, {
  name: "get_weather",
  description: "The weather at a place",
  schema: { type: "object", properties: { place: { type: "string" } }, required: ["place"] },
});

for (const chat of [new ChatOpenAI(options), new ChatDeepSeek(options)]) {
  const bound = chat.bindTools([weather]);
  const question = new HumanMessage("What's the weather like in Tokyo and Paris?");
  const called = await bound.invoke([question]);
  assert.deepEqual(called.tool_calls.map(({ name, args }) => [name, args]), places.map((place) => [
    "get_weather",
    { place },
  ]));
  assert.equal(called.response_metadata.finish_reason, "tool_calls");

  let streamed;
  for await (const chunk of await bound.stream([question])) {
    streamed = streamed === undefined ? chunk : streamed.concat(chunk);
  }
  assert.deepEqual(streamed.tool_calls.map(({ args }) => args.place), places);
  assert.deepEqual(streamed.invalid_tool_calls ?? [], []);

  const structured = chat.withStructuredOutput(weather.schema, {
    name: "get_weather",
    method: "functionCalling",
  });
  assert.deepEqual(await structured.invoke([question]), { place: places[0] });

  const results = await Promise.all(called.tool_calls.map((call) => weather.invoke(call)));
  const { content } = await bound.invoke([question, called, ...results]);
  assert.equal(content, answer);
}
