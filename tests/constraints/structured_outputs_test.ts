/**
 * What the embedded model writes under a constraint, held against ajv, JSON.parse and RegExp; and that nothing
 * else of a request or of the engine changes by it.
 */
import { strict as assert } from "node:assert";
import { Ajv2020 } from "npm:ajv@8.17.1/dist/2020.js";
import addFormats from "npm:ajv-formats@3.0.1";
import { LLM, type RequestOutput, type SamplingParams } from "../../mod.ts";
import { model } from "../server/serving.ts";

const PROMPT = "Once upon a time there was";
const SEEDS = [1, 2, 3, 4, 5, 6];

const ajv = new Ajv2020({ strict: false });
(addFormats as unknown as (ajv: Ajv2020) => void)(ajv);

/** An object that has all of these properties and no others. */
const object = (properties: object, rest = {}) => ({
  type: "object",
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
  ...rest,
});

const schemas: Record<string, object> = {
  "an object": object({
    name: { type: "string", maxLength: 12 },
    age: { type: "integer", minimum: 0, maximum: 150 },
  }),
  "bounds of numbers": object({
    a: { type: "integer", minimum: -3, maximum: 17 },
    b: { type: "number", exclusiveMinimum: 0.5, maximum: 2 },
    c: { type: "integer", multipleOf: 7, minimum: 0, maximum: 1000 },
  }),
  "bounds of texts": object({
    a: { type: "string", minLength: 3, maxLength: 5 },
    b: { type: "string", pattern: "^[A-Z][a-z]{1,7}-\\d{2}$" },
  }),
  "bounds of lists": {
    type: "array",
    items: { enum: ["red", "green", 3, null, true] },
    minItems: 2,
    maxItems: 4,
  },
  "a tuple": {
    type: "array",
    prefixItems: [{ const: "point" }, { type: "boolean" }],
    items: false,
    minItems: 2,
  },
  "optional properties": {
    type: "object",
    properties: { a: { type: "boolean" }, b: { type: "null" }, c: { enum: [1, 2] } },
    required: ["b"],
    additionalProperties: false,
  },
  "anyOf": { anyOf: [{ type: "boolean" }, object({ x: { enum: ["y", "z"] } })] },
  "oneOf of kinds": {
    oneOf: [
      object({ kind: { const: "cat" }, lives: { type: "integer", minimum: 1, maximum: 9 } }),
      object({ kind: { const: "dog" }, good: { type: "boolean" } }),
    ],
  },
  "allOf": {
    allOf: [
      { type: "object", properties: { a: { type: "integer", maximum: 9 } }, required: ["a"] },
      { type: "object", properties: { a: { minimum: 7 } }, additionalProperties: false },
    ],
  },
  "a recursion": {
    $defs: {
      tree: object({
        size: { enum: [1] },
        left: { anyOf: [{ $ref: "#/$defs/tree" }, { type: "null" }] },
      }),
    },
    $ref: "#/$defs/tree",
  },
  "formats": object({
    day: { type: "string", format: "date" },
    id: { type: "string", format: "uuid" },
    at: { type: "string", format: "ipv4" },
  }),
  "patterns of names": {
    type: "object",
    patternProperties: { "^x[0-9]$": { type: "boolean" } },
    additionalProperties: false,
    minProperties: 1,
    maxProperties: 2,
  },
  "a constant that is no ASCII": object({ "grüße": { const: '你好 😀 \\ "\n' } }),
};

for (const [name, json] of Object.entries(schemas)) {
  Deno.test(`what is written under a schema satisfies ajv: ${name}`, async () => {
    const llm = await model();
    const validate = ajv.compile(json);
    const all: SamplingParams[] = [{ temperature: 0 }, ...SEEDS.map((seed) => ({ seed }))];
    const outputs = await llm.generate(
      all.map(() => PROMPT),
      all.map((params) => ({
        temperature: 1,
        ...params,
        maxTokens: 1500,
        n: 1,
        structuredOutputs: { json },
      })),
    );
    for (const { outputs: [output] } of outputs) {
      const { text, finishReason } = output!;
      assert.equal(finishReason, "stop", text);
      assert(validate(JSON.parse(text)), `${text}: ${JSON.stringify(validate.errors)}`);
    }
  });
}

Deno.test("a schema is taken as an object, as its text, or as true", async () => {
  const llm = await model();
  const json = object({ b: { enum: [1, 2] }, a: { type: "boolean" } });
  const write = async (json: object | boolean | string) => {
    const params = { temperature: 0, maxTokens: 600, structuredOutputs: { json } };
    return (await llm.generate(PROMPT, params))[0]!.outputs[0]!.text;
  };
  const text = await write(json);
  assert.deepEqual(Object.keys(JSON.parse(text)), ["b", "a"]);
  assert.equal(await write(JSON.stringify(json)), text);
  const anything = await llm.generate(PROMPT, {
    ...{ seed: 1, temperature: 1, maxTokens: 30, structuredOutputs: { json: true } },
  });
  assert(anything[0]!.outputs[0]!.text.length > 0);
});

const regexes = [
  "[A-Z][a-z]{2,8}( [a-z]+){3}\\.",
  "(yes|no|perhaps)!{1,3}",
  "\\d{3}-\\d{4}",
  "é(ü|ö){2}😀",
];
for (const regex of regexes) {
  Deno.test(`what is written under a regex is matched as a whole: ${regex}`, async () => {
    const llm = await model();
    const params = {
      n: 8,
      seed: 4,
      temperature: 1.5,
      maxTokens: 200,
      structuredOutputs: { regex },
    };
    const [{ outputs }] = await llm.generate(PROMPT, params) as [RequestOutput];
    for (const { text, finishReason } of outputs) {
      assert.equal(finishReason, "stop");
      assert.match(text, new RegExp(`^(?:${regex})$`, "u"));
    }
    assert(regex.startsWith("é") || new Set(outputs.map(({ text }) => text)).size > 1);
  });
}

Deno.test("what is written under a list is one of its texts, also where one begins another", async () => {
  const llm = await model();
  const choice = ["a boy", "a boy named", "an old", " the", "<｜User｜>", 'q"\\'];
  const params = { n: 64, seed: 2, temperature: 3, maxTokens: 40, structuredOutputs: { choice } };
  const [{ outputs }] = await llm.generate(PROMPT, params) as [RequestOutput];
  const written = new Set(outputs.map(({ text }) => text));
  assert(written.size >= 3, [...written].join());
  for (const { text, tokenIds, finishReason } of outputs) {
    assert(choice.includes(text), text);
    assert.equal(finishReason, "stop");
    const controls = llm.tokenizer.controlIds();
    assert.equal(
      tokenIds.filter((id) => controls.has(id)).length,
      1,
      "only the end is a control token",
    );
  }
});

Deno.test("what is written under a grammar is of its language", async () => {
  const llm = await model();
  const grammar =
    'start: sum\nsum: term ("+" term)*\nterm: NUMBER | "(" sum ")"\nNUMBER: /[0-9]{1,3}/';
  const params = { n: 16, seed: 5, temperature: 1, maxTokens: 60, structuredOutputs: { grammar } };
  const [{ outputs }] = await llm.generate(PROMPT, params) as [RequestOutput];
  /** A parser by hand: the position behind a sum that begins here, or -1. */
  const sum = (text: string, at: number): number => {
    const term = (at: number): number => {
      const number = /^[0-9]{1,3}/.exec(text.slice(at));
      if (number) return at + number[0].length;
      if (text[at] !== "(") return -1;
      const end = sum(text, at + 1);
      return end >= 0 && text[end] === ")" ? end + 1 : -1;
    };
    let end = term(at);
    while (end >= 0 && text[end] === "+") end = term(end + 1);
    return end;
  };
  const ended = outputs.filter(({ finishReason }) => finishReason === "stop");
  assert(ended.length > 0);
  for (const { text } of ended) assert.equal(sum(text, 0), text.length, text);
  for (const { text } of outputs) assert.match(text, /^[0-9+()]+$/);
});

Deno.test("log-probabilities are the model's own, tokens that are not allowed included", async () => {
  const llm = await model();
  const free = { temperature: 0, maxTokens: 1, logprobs: 3 };
  const [{ outputs: [one] }] = await llm.generate(PROMPT, free) as [RequestOutput];
  const bound = { ...free, structuredOutputs: { choice: ["zebra"] } };
  const [{ outputs: [other] }] = await llm.generate(PROMPT, bound) as [RequestOutput];
  assert.notEqual(other!.tokenIds[0], one!.tokenIds[0]);
  assert.deepEqual(other!.logprobs![0]!.top, one!.logprobs![0]!.top);
  assert(other!.logprobs![0]!.rank > 3);
});

Deno.test("minTokens gives way where the output is complete, maxTokens and stop strings cut it", async () => {
  const llm = await model();
  const write = async (params: SamplingParams) =>
    (await llm.generate(PROMPT, { temperature: 0, ...params }))[0]!.outputs[0]!;
  const choice = await write({
    minTokens: 30,
    maxTokens: 60,
    structuredOutputs: { choice: ["yes"] },
  });
  assert.deepEqual([choice.text, choice.finishReason], ["yes", "stop"]);
  const longer = await write({
    minTokens: 9,
    maxTokens: 60,
    structuredOutputs: { regex: "[a-z ]{1,200}" },
  });
  assert(longer.tokenIds.length >= 9);
  const cut = await write({ maxTokens: 2, structuredOutputs: { regex: "[0-9]{50}" } });
  assert.equal(cut.finishReason, "length");
  const stopped = await write({
    maxTokens: 60,
    stop: "77",
    structuredOutputs: { regex: "1234777[0-9]{9}" },
  });
  assert.deepEqual([stopped.text, stopped.stopReason], ["1234", "77"]);
});

Deno.test("what can not go together is refused", async () => {
  const llm = await model();
  const structuredOutputs = { choice: ["a"] };
  const refuses = (params: object, field: string) =>
    assert.rejects(async () => await llm.generate(PROMPT, params), { field });
  await refuses({ ignoreEos: true, structuredOutputs }, "ignoreEos");
  await refuses(
    { allowedTokenIds: [llm.tokenizer.encode(" zebra").at(-1)!], structuredOutputs },
    "allowedTokenIds",
  );
  await refuses({ structuredOutputs: { regex: "a", choice: ["a"] } }, "structuredOutputs");
});

const requests: [string, SamplingParams][] = [
  [PROMPT, { seed: 1, n: 3, structuredOutputs: { json: schemas["an object"] } }],
  ["The cat sat", { seed: 2, structuredOutputs: { regex: "([a-z]{1,9} ){1,30}end" } }],
  [PROMPT, { seed: 3, n: 2, structuredOutputs: { json: schemas["bounds of lists"] } }],
  ["A dog", { seed: 4 }],
  [PROMPT, {
    temperature: 0,
    seed: 5,
    structuredOutputs: { regex: "(ab ab ab ab ab ab ab ab )+" },
  }],
  [PROMPT, { seed: 6, structuredOutputs: { choice: ["yes", "no"] } }],
];
const run = (llm: LLM) =>
  llm.generate(
    requests.map(([prompt]) => prompt),
    requests.map(([, params]) => ({ temperature: 1, maxTokens: 90, ...params })),
  );

Deno.test("the tokens are those of a request alone: in a batch, with guesses, where room must be made", async () => {
  const alone: RequestOutput[] = [];
  await using llm = await LLM.open(undefined, { enablePrefixCaching: false });
  for (const [prompt, params] of requests) {
    alone.push(...await llm.generate(prompt, { temperature: 1, maxTokens: 90, ...params }));
  }
  assert.deepEqual(await run(llm), alone);
  const tokens = (outputs: RequestOutput[]) =>
    outputs.map(({ outputs }) => outputs.map(({ tokenIds }) => tokenIds));
  await using guessing = await LLM.open(undefined, { speculative: { method: "ngram" } });
  assert.deepEqual(tokens(await run(guessing)), tokens(alone));
  const { draftedTokens, acceptedTokens } = guessing.stats();
  assert(acceptedTokens > 0 && draftedTokens > acceptedTokens);
  await using small = await LLM.open(undefined, { cacheTokens: 320, contextLength: 160 });
  assert.deepEqual(tokens(await run(small)), tokens(alone));
  assert(small.stats().preemptions > 0);
});

Deno.test("an abort or a deadline ends a constrained request, and the next one is as if it had not been", async () => {
  const llm = await model();
  const params = {
    seed: 9,
    temperature: 1,
    maxTokens: 300,
    structuredOutputs: { regex: "[a-z ]{2000}" },
  };
  const [whole] = await llm.generate(PROMPT, { ...params, maxTokens: 20 });
  const controller = new AbortController();
  const events = llm.stream(PROMPT, params, { signal: controller.signal });
  await events.next();
  controller.abort();
  await assert.rejects(async () => {
    for await (const _ of events);
  }, { name: "AbortError" });
  await assert.rejects(llm.generate(PROMPT, params, { timeoutMs: 1 }), {
    code: "deadline_exceeded",
  });
  const [again] = await llm.generate(PROMPT, { ...params, maxTokens: 20 });
  assert.deepEqual(again!.outputs, whole!.outputs);
  assert.equal(llm.stats().running, 0);
});
