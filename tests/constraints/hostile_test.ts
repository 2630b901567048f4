/**
 * Constraints that would take long, much memory or for ever, and such as can not be kept to: each is refused by a
 * typed error that names what is too much, and the others' requests go on.
 */
import { strict as assert } from "node:assert";
import { InvalidArgumentError, type StructuredOutputs } from "../../mod.ts";
import { model } from "../server/serving.ts";

const nested = (depth: number, wrap: (inner: object) => object) => {
  let schema: object = { type: "string" };
  for (let i = 0; i < depth; i++) schema = wrap(schema);
  return schema;
};
const properties = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, { type: "string" }]));
const numbers = (count: number, prefix = "") => Array.from({ length: count }, (_, i) => prefix + i);
const holdsItself: Record<string, unknown> = { type: "object" };
holdsItself.properties = { self: holdsItself };

/** Refused when the parameters are checked; all bounds are named. */
const overBounds: Record<string, unknown> = {
  "alternatives of alternatives": {
    json: nested(13, (inner) => ({ anyOf: [inner, { type: "array", items: inner }] })),
  },
  "nested 65 deep": { json: nested(64, (items) => ({ type: "array", items })) },
  "nested 100,000 deep": { json: nested(100_000, (items) => ({ type: "array", items })) },
  "text nested 100,000 deep": { json: `${"[".repeat(30_000)}${"]".repeat(30_000)}` },
  "a schema that holds itself": { json: holdsItself },
  "a long schema": { json: { description: "x".repeat(65_536) } },
  "a huge enum": { json: { enum: numbers(10_000, "v") } },
  "many properties": { json: { properties: properties(257) } },
  "many objects": { json: { anyOf: Array(20).fill({ properties: properties(60) }) } },
  "many patterns of names": {
    json: { patternProperties: Object.fromEntries(numbers(33, "^a").map((name) => [name, true])) },
  },
  "many ranges": {
    json: {
      items: Array.from({ length: 129 }, (_, i) => ({ type: "number", minimum: i + 0.123456 })),
    },
  },
  "a large multipleOf": { json: { type: "integer", multipleOf: 99_991 } },
  "multiples of each other": {
    json: { allOf: [101, 103, 107].map((multipleOf) => ({ type: "integer", multipleOf })) },
  },
  "no JSON": { json: "{" },
  "a list": { json: [] },
  "a number": { json: 5 },
  "null": { json: null },
  "a long regex": { regex: "a".repeat(4097) },
  "an empty regex": { regex: "" },
  "no choice": { choice: [] },
  "an empty choice": { choice: ["a", ""] },
  "many choices": { choice: numbers(4097) },
  "long choices": { choice: ["x".repeat(40_000), "y".repeat(40_000)] },
  "a long grammar": { grammar: 'start: "a"\n'.padEnd(8193) },
  "a schema in a grammar": { grammar: 'start: %json {"type": "string"}' },
  "nothing": {},
  "two of them": { regex: "a", grammar: 'start: "a"' },
  "something else": { xml: "<a/>" },
};
for (const [name, structuredOutputs] of Object.entries(overBounds)) {
  Deno.test(`is out of bounds: ${name}`, async () => {
    await refused(
      structuredOutputs as StructuredOutputs,
      /it must be an object with exactly one of/,
    );
  });
}

/** Refused by the compiler, with the reason. */
const uncompilable: [string, StructuredOutputs, RegExp][] = [
  ["not", { json: { not: { type: "string" } } }, /not/],
  ["uniqueItems", { json: { type: "array", uniqueItems: true } }, /uniqueItems/],
  ["if", { json: { if: {}, then: {}, else: {} } }, /if/],
  ["contains", { json: { type: "array", contains: {} } }, /contains/],
  ["propertyNames", { json: { type: "object", propertyNames: {} } }, /propertyNames/],
  ["unevaluatedProperties", { json: { unevaluatedProperties: false } }, /unevaluatedProperties/],
  ["dependentRequired", { json: { dependentRequired: {} } }, /dependentRequired/],
  ["an unknown format", { json: { type: "string", format: "weird" } }, /weird/],
  ["oneOf of what overlaps", {
    json: { oneOf: [{ type: "string" }, { type: "string", maxLength: 3 }] },
  }, /oneOf/],
  ["an address", { json: { $ref: "http://127.0.0.1/schema" } }, /\$ref must begin with #/],
  ["a reference to nothing", { json: { $ref: "#/$defs/a" } }, /a/],
  ["a reference to itself", { json: { $ref: "#" } }, /no text can ever be complete/],
  [
    "references in a circle",
    { json: { $defs: { a: { $ref: "#/$defs/b" }, b: { $ref: "#/$defs/a" } }, $ref: "#/$defs/a" } },
    /no text can ever be complete/,
  ],
  ["allOf in a circle", { json: { allOf: [{ $ref: "#" }, { type: "object" }] } }, /circular/],
  ["a wrong type", { json: { type: "strin" } }, /strin/],
  ["properties that are none", { json: { type: "object", properties: [] } }, /properties/],
  ["false", { json: false }, /false/],
  [
    "types that exclude each other",
    { json: { allOf: [{ type: "string" }, { type: "null" }] } },
    /incompatible types/,
  ],
  ["llguidance's own switches", { json: { "not": {}, "x-guidance": { lenient: true } } }, /not/],
  [
    "a product of alternatives",
    {
      json: {
        allOf: Array.from({ length: 6 }, (_, i) => ({
          anyOf: numbers(6, `p${i}`).map((name) => ({
            properties: { [name]: { type: "string" } },
          })),
        })),
      },
    },
    /too large/,
  ],
  ["a catastrophic regex", { regex: "(.{1,1000}){1,1000}" }, /too many/],
  ["patterns that multiply", {
    regex: numbers(60).map((i) => `(.{1,5${i}}e|b${i}){1,100}`).join("|"),
  }, /too many/],
  ["look-around", { regex: "(?=a)b" }, /look-around/],
  ["back references", { regex: "(a)\\1" }, /backreferences/],
  ["a broken regex", { regex: "([" }, /unclosed/],
  ["a thousand brackets", { regex: "(".repeat(1000) + "a" + ")".repeat(1000) }, /./],
  ["no start", { grammar: 'x: "a"' }, /start/],
  ["a broken grammar", { grammar: "start: ((" }, /Expected/],
  ["a grammar without an end", { grammar: "start: start" }, /no text can ever be complete/],
  ["a grammar in a thousand brackets", {
    grammar: `start: ${"(".repeat(1000)}"a"${")".repeat(1000)}`,
  }, /nested/],
  ["a control token", { grammar: "start: <｜User｜>" }, /./],
  [
    "rules that multiply",
    {
      grammar: `start: r0\n${
        Array.from({ length: 40 }, (_, i) =>
          `r${i}: ${
            Array.from({ length: 12 }, (_, j) =>
              `r${(i + j) % 40} r${(i * j) % 40}`).join(" | ")
          } | "a"`).join("\n")
      }`,
    },
    /Too many items/,
  ],
];
for (const [name, structuredOutputs, reason] of uncompilable) {
  Deno.test(`is refused with the reason: ${name}`, async () => {
    await refused(structuredOutputs, reason);
  });
}

/** Large, but within the budget. */
const large: [string, StructuredOutputs, RegExp][] = [
  ["minItems", { json: { type: "array", items: { enum: [1] }, minItems: 1e6 } }, /^\[\s*1\s*(,|$)/],
  ["maxLength", { json: { type: "string", maxLength: 1e9 } }, /^"/],
  ["256 properties", {
    json: { properties: properties(256), type: "object", additionalProperties: false },
  }, /^\{/],
  ["a long repetition", { regex: "(ab){1,100000}" }, /^(ab)*a?$/],
  ["ambiguity", { regex: "(a|aa|aaa)+b" }, /^a*b?$/],
  ["4,096 choices", { choice: numbers(4096, "n") }, /^n\d*$/],
  ["an ambiguous grammar", { grammar: 'start: s\ns: s s | "a"' }, /^a+$/],
];
for (const [name, structuredOutputs, beginning] of large) {
  Deno.test(`is within the budget: ${name}`, async () => {
    const llm = await model();
    const [result] = await llm.generate("Once", {
      temperature: 0,
      maxTokens: 12,
      structuredOutputs,
    });
    assert.match(result!.outputs[0]!.text, beginning);
  });
}

Deno.test("others go on while one is refused, and a constraint that fails in the midst ends alone", async () => {
  const llm = await model();
  const params = { temperature: 0, maxTokens: 40 };
  const free = (await llm.generate("Once upon a time", params))[0]!.outputs;
  // It takes more and more states, the longer the text is.
  const growing = { regex: "((.{1,30}e){1,30}a){1,30}!" };
  const [one, two, three] = await Promise.allSettled([
    llm.generate("Once upon a time", params),
    llm.generate("Once upon a time", { ...params, structuredOutputs: { regex: "([" } }),
    llm.generate("Once upon a time", { ...params, maxTokens: 900, structuredOutputs: growing }),
  ]);
  assert(one.status === "fulfilled");
  assert.deepEqual(one.value[0]!.outputs, free);
  assert(two.status === "rejected" && two.reason instanceof InvalidArgumentError);
  assert(three.status === "rejected" && three.reason instanceof InvalidArgumentError, three.status);
  assert.equal(llm.stats().running, 0);
  assert.equal(llm.stats().heldBlocks, 0);
});

Deno.test("33 different constraints at a time are too many, the next moment there is room again", async () => {
  const llm = await model();
  const runs = numbers(33).map((number) =>
    llm.generate("Once", { maxTokens: 40, structuredOutputs: { regex: `[a-z ]{60}${number}` } })
  );
  const outcomes = await Promise.allSettled(runs);
  const failed = outcomes.filter(({ status }) => status === "rejected") as PromiseRejectedResult[];
  assert.deepEqual(failed.map(({ reason }) => reason.code), ["queue_full"]);
  await llm.generate("Once", { maxTokens: 2, structuredOutputs: { regex: "room again" } });
});

async function refused(structuredOutputs: StructuredOutputs, reason: RegExp) {
  const llm = await model();
  await assert.rejects(llm.generate("Once", { structuredOutputs }), (error) => {
    assert(error instanceof InvalidArgumentError, String(error));
    assert.equal(error.field, "structuredOutputs");
    assert.match(error.message, /^Cannot use structuredOutputs.*\.$/);
    assert.match(error.message, reason);
    assert(error.message.length < 1500, `${error.message.length} characters`);
    return true;
  });
}
