/**
 * Output of a form: OpenAI's `response_format` and vLLM's fields, over HTTP.
 */
import { strict as assert } from "node:assert";
import { ask, errorOf, serverOf, stream } from "./serving.ts";

const messages = [{ role: "user", content: "Who are you?" }];
const greedy = { temperature: 0, max_tokens: 300 };
const schema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 9 }, old: { type: "boolean" } },
  required: ["name", "old"],
  additionalProperties: false,
};

/** Checks a text by hand. */
function satisfies(text: string) {
  const value = JSON.parse(text);
  assert.deepEqual(Object.keys(value), ["name", "old"]);
  assert(
    value.name.length <= 9 && typeof value.name === "string" && typeof value.old === "boolean",
  );
}

Deno.test("chat completions: response_format json_schema, whole and as a stream", async () => {
  const server = await serverOf();
  const response_format = {
    type: "json_schema",
    json_schema: { name: "who", strict: true, schema },
  };
  const body = { messages, response_format, ...greedy };
  const { choices: [choice] } = await ask(server, "/v1/chat/completions", body);
  satisfies(choice.message.content);
  assert.equal(choice.finish_reason, "stop");
  const events = await stream(server, "/v1/chat/completions", { ...body, logprobs: true });
  const text = events.map(({ data }) => data.choices?.[0]?.delta.content ?? "").join("");
  assert.equal(text, choice.message.content);
});

Deno.test("chat completions: response_format json_object", async () => {
  const server = await serverOf();
  const { choices } = await ask(server, "/v1/chat/completions", {
    ...{ messages, response_format: { type: "json_object" }, n: 4, seed: 1, temperature: 1 },
    max_tokens: 1200,
  });
  const ended = choices.filter((choice: { finish_reason: string }) =>
    choice.finish_reason === "stop"
  );
  assert(ended.length > 0);
  for (const { message: { content } } of ended) {
    const value = JSON.parse(content);
    assert(typeof value === "object" && value !== null && !Array.isArray(value), content);
  }
});

Deno.test("completions: vLLM's fields, new and old", async () => {
  const server = await serverOf();
  const write = async (fields: object) => {
    const answer = await ask(server, "/v1/completions", { prompt: "Once", ...greedy, ...fields });
    assert.equal(answer.http, 200, JSON.stringify(answer));
    return answer.choices[0].text as string;
  };
  for (
    const [name, value, check] of [
      ["json", schema, satisfies],
      ["json", JSON.stringify(schema), satisfies],
      ["regex", "[0-9]{4}", (text: string) => assert.match(text, /^[0-9]{4}$/)],
      ["choice", ["red", "green"], (text: string) => assert.match(text, /^(red|green)$/)],
      ["grammar", 'start: "a" start "b" | "c"', (text: string) => assert.match(text, /^a*cb*$/)],
    ] as [string, unknown, (text: string) => void][]
  ) {
    const text = await write({ structured_outputs: { [name]: value } });
    check(text);
    assert.equal(await write({ [`guided_${name}`]: value }), text);
  }
  satisfies(await write({ response_format: { type: "json_schema", json_schema: { schema } } }));
});

Deno.test("responses: text.format, whole and as a stream", async () => {
  const server = await serverOf();
  const format = { type: "json_schema", name: "who", schema, strict: true };
  const body = { input: "Who are you?", temperature: 0, max_output_tokens: 300, text: { format } };
  const answer = await ask(server, "/v1/responses", body);
  satisfies(answer.output[0].content[0].text);
  assert.deepEqual(answer.text.format, format);
  const events = await stream(server, "/v1/responses", body);
  const text = events.map(({ event, data }) =>
    event === "response.output_text.delta" ? data.delta : ""
  ).join("");
  assert.equal(text, answer.output[0].content[0].text);
});

Deno.test("what is over a bound or can not be kept to gets 400, about the field that the client sent", async () => {
  const server = await serverOf();
  const format = (schema: unknown) => ({
    response_format: { type: "json_schema", json_schema: { schema } },
  });
  let deep: object = {};
  for (let i = 0; i < 70; i++) deep = { type: "array", items: deep };
  const cases: [string, object, RegExp][] = [
    ["response_format", format(deep), /nested 64 deep/],
    ["response_format", format({ type: "array", uniqueItems: true }), /uniqueItems/],
    ["response_format", format({ enum: Array(9000).fill("x") }), /8192 values/],
    ["response_format", format(undefined), /needs a schema/],
    ["response_format.type", { response_format: { type: "structural_tag" } }, /./],
    ["response_format.json_schema.schema", format([]), /./],
    ["guided_regex", { guided_regex: "(.{1,1000}){1,1000}" }, /too many/],
    ["guided_regex", { guided_regex: "a".repeat(5000) }, /4096 bytes/],
    ["guided_choice", { guided_choice: [] }, /4096 texts/],
    ["guided_choice", { guided_choice: [5] }, /4096 texts/],
    ["guided_json", { guided_json: "{" }, /JSON schema/],
    ["structured_outputs", { structured_outputs: {} }, /exactly one/],
    ["structured_outputs", { structured_outputs: { regex: "a", choice: ["a"] } }, /exactly one/],
    ["structured_outputs", { structured_outputs: { structural_tag: "x" } }, /structural_tag/],
    ["guided_regex", { guided_regex: "a", ...format({}) }, /beside response_format/],
    ["guided_whitespace_pattern", { guided_whitespace_pattern: " ?" }, /not supported/],
    ["ignore_eos", { guided_regex: "a", ignore_eos: true }, /ignore_eos/],
  ];
  for (const [param, fields, reason] of cases) {
    for (const streamed of [false, true]) {
      const body = { messages, stream: streamed, ...fields };
      const refusal = errorOf(await ask(server, "/v1/chat/completions", body));
      assert.deepEqual([refusal.status, refusal.param], [400, param], JSON.stringify(fields));
      assert.match(refusal.message, reason);
    }
  }
  const text = { format: { type: "json_schema", schema: { not: {} } } };
  const refusal = errorOf(await ask(server, "/v1/responses", { input: "Hi", text }));
  assert.deepEqual([refusal.status, refusal.param], [400, "text.format"]);
});

Deno.test("the API's description has the fields", async () => {
  const description = await ask(await serverOf(), "/openapi.json");
  const { properties } = description.components.schemas.ChatCompletionRequest;
  for (const field of ["response_format", "structured_outputs", "guided_json", "guided_choice"]) {
    assert(properties[field], field);
  }
});
