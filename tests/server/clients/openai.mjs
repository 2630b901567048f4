/** npm `openai`, unchanged. */
import assert from "node:assert/strict";
import process from "node:process";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { address, key, question, answer, prompt, story } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: key, maxRetries: 0 });
const [{ id: model }] = (await client.models.list()).data;
assert.equal((await client.models.retrieve(model)).id, model);
const messages = [{ role: "user", content: question }];
const chat = { model, messages, temperature: 0, max_tokens: 24 };

const whole = await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 3 });
assert.equal(whole.choices[0].message.content, answer);
assert.equal(whole.choices[0].logprobs.content[0].top_logprobs.length, 3);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let text = "";
let usage;
for await (
  const chunk of await client.chat.completions.create({
    ...chat,
    stream: true,
    stream_options: { include_usage: true },
  })
) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage ??= chunk.usage;
}
assert.equal(text, answer);
assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);

// The client's own accumulation of chunks finds them in order and complete.
const runner = client.chat.completions.stream({ ...chat, n: 2, seed: 1 });
const final = await runner.finalChatCompletion();
assert.deepEqual(final.choices.map(({ message }) => message.content), [answer, answer]);

// The client makes the schema, and checks what comes of it.
const Person = z.object({
  name: z.string().max(12),
  age: z.number().int().min(0).max(150),
  pets: z.array(z.enum(["cat", "dog"])).max(2),
  home: z.object({ town: z.string().max(9).nullable() }),
});
const bounded = { ...chat, temperature: 0, max_tokens: 900 };
const parsed = await client.chat.completions.parse({
  ...{ ...bounded, response_format: zodResponseFormat(Person, "person") },
});
assert.deepEqual(Person.parse(parsed.choices[0].message.parsed), parsed.choices[0].message.parsed);
assert.deepEqual(Object.keys(parsed.choices[0].message.parsed), ["name", "age", "pets", "home"]);
const parsedResponse = await client.responses.parse({
  ...{ model, input: question, temperature: 0, max_output_tokens: 900 },
  text: { format: zodTextFormat(Person, "person") },
});
assert.deepEqual(parsedResponse.output_parsed, parsed.choices[0].message.parsed);

const completion = await client.completions.create({
  ...{ model, prompt: [prompt, prompt], temperature: 0, max_tokens: 12 },
});
assert.deepEqual(completion.choices.map(({ text }) => text), [story, story]);

const response = await client.responses.create({
  ...{ model, input: question, temperature: 0, max_output_tokens: 24 },
});
assert.equal(response.output_text, answer);
let delta = "";
const events = await client.responses.create({
  ...{ model, input: question, temperature: 0, max_output_tokens: 24, stream: true },
});
for await (const event of events) if (event.type === "response.output_text.delta") delta += event.delta;
assert.equal(delta, answer);

const refused = async (promise, kind, code) => {
  const error = await promise.then(() => assert.fail("not refused"), (error) => error);
  assert(error instanceof kind, String(error));
  assert.equal(error.code, code);
};
await refused(
  client.completions.create({ model, prompt: "word ".repeat(5000) }),
  OpenAI.BadRequestError,
  "context_length_exceeded",
);
await refused(client.embeddings.create({ model, input: "x" }), OpenAI.NotFoundError, "unsupported");
await refused(client.chat.completions.create({ ...chat, model: "gpt-5" }), OpenAI.NotFoundError, "model_not_found");
const stranger = new OpenAI({ baseURL: `${address}/v1`, apiKey: "wrong", maxRetries: 0 });
await refused(stranger.models.list(), OpenAI.AuthenticationError, "invalid_api_key");

const controller = new AbortController();
const endless = await client.completions.create(
  { model, prompt, max_tokens: 2000, stream: true },
  { signal: controller.signal },
);
for await (const _ of endless) controller.abort();
