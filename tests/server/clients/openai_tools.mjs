/** npm `openai` with tools, unchanged: calls whole, streamed, and run by the client itself. */
import assert from "node:assert/strict";
import process from "node:process";
import OpenAI from "openai";
import { zodFunction } from "openai/helpers/zod";
import { z } from "zod";

const { address, key, model, answer, degrees } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: key, maxRetries: 0 });
const parameters = {
  type: "object",
  properties: { place: { type: "string" } },
  required: ["place"],
};
const description = "The weather at a place";
const tools = [{ type: "function", function: { name: "get_weather", description, parameters } }];
const messages = [{ role: "user", content: "What's the weather like in Tokyo and Paris?" }];
const places = Object.keys(degrees);
const placesOf = (calls) => calls.map((call) => JSON.parse(call.function.arguments).place);

const whole = await client.chat.completions.create({ model, messages, tools });
assert.equal(whole.choices[0].finish_reason, "tool_calls");
assert.equal(whole.choices[0].message.content, null);
assert.deepEqual(placesOf(whole.choices[0].message.tool_calls), places);

// The client's own accumulation of deltas.
const stream = client.chat.completions.stream({ model, messages, tools, tool_choice: "auto" });
const done = [];
stream.on("tool_calls.function.arguments.done", ({ name, arguments: json }) => done.push([name, json]));
const final = await stream.finalChatCompletion();
assert.deepEqual(placesOf(final.choices[0].message.tool_calls), places);
assert.deepEqual(done.map(([name, json]) => [name, JSON.parse(json).place]), places.map((place) => [
  "get_weather",
  place,
]));

for (const streamed of [false, true]) {
  const asked = [];
  const runner = client.chat.completions.runTools({
    ...{ model, messages, stream: streamed },
    tools: [{
      type: "function",
      function: {
        ...{ name: "get_weather", description, parameters, parse: JSON.parse },
        function({ place }) {
          asked.push(place);
          return `${place}: ${degrees[place]} degrees`;
        },
      },
    }],
  });
  assert.equal(await runner.finalContent(), answer);
  assert.deepEqual(asked, places);
}

const forced = await client.chat.completions.create({
  ...{ model, messages, tools, tool_choice: { type: "function", function: { name: "get_weather" } } },
});
assert.deepEqual(placesOf(forced.choices[0].message.tool_calls), places.slice(0, 1));

// The client's helper makes functions strict, and parses their arguments.
const parsed = await client.chat.completions.parse({
  ...{ model, messages },
  tools: [zodFunction({ name: "get_weather", parameters: z.object({ place: z.string() }) })],
});
assert.deepEqual(
  parsed.choices[0].message.tool_calls.map((call) => call.function.parsed_arguments),
  places.map((place) => ({ place })),
);
