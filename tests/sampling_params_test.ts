import assert from "node:assert/strict";
import { InvalidArgumentError } from "../src/errors.ts";
import {
  checkAgainstVocabulary,
  resolveSamplingParams,
  type SamplingParams,
} from "../src/sampling_params.ts";

/** What a caller without types may pass. */
const untyped = (params: unknown) => params as SamplingParams;

/** Checks that parameters are refused for a field, with a message that names value and range. */
function refuses(params: unknown, field: string, message: RegExp): void {
  assert.throws(() => resolveSamplingParams(untyped(params)), (error) => {
    assert.ok(error instanceof InvalidArgumentError);
    assert.equal(error.field, field);
    assert.match(error.message, /^Cannot use .*\.$/);
    assert.match(error.message, message);
    return true;
  });
}

Deno.test("the defaults are vLLM's", () => {
  const { seed, ...rest } = resolveSamplingParams();
  assert.equal(typeof seed, "bigint");
  assert.deepEqual(rest, {
    n: 1,
    maxTokens: 16,
    minTokens: 0,
    temperature: 1,
    topP: 1,
    topK: 0,
    minP: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    logitBias: [],
    allowedTokenIds: undefined,
    stop: [],
    stopTokenIds: [],
    ignoreEos: false,
    includeStopStrInOutput: false,
    skipSpecialTokens: true,
    logprobs: undefined,
    promptLogprobs: undefined,
    detokenize: true,
    structuredOutputs: undefined,
  });
});

Deno.test("what the caller gives goes before the model's defaults, unless it is undefined", () => {
  const params = resolveSamplingParams(
    { temperature: 0.2, topP: undefined },
    { temperature: 0.7, topP: 0.95, topK: 40 },
  );
  assert.deepEqual([params.temperature, params.topP, params.topK], [0.2, 0.95, 40]);
});

Deno.test("the model's defaults are checked alike", () => {
  assert.throws(() => resolveSamplingParams({}, { topP: 1.5 }), { field: "topP" });
});

const accepted: [SamplingParams, keyof SamplingParams, unknown][] = [
  [{ n: 128 }, "n", 128],
  [{ maxTokens: Number.MAX_SAFE_INTEGER }, "maxTokens", Number.MAX_SAFE_INTEGER],
  [{ minTokens: 16 }, "minTokens", 16],
  [{ temperature: 0 }, "temperature", 0],
  [{ temperature: Number.MAX_VALUE }, "temperature", Number.MAX_VALUE],
  [{ topP: Number.MIN_VALUE }, "topP", Number.MIN_VALUE],
  [{ topP: 1 }, "topP", 1],
  [{ topK: -1 }, "topK", 0],
  [{ topK: 1 }, "topK", 1],
  [{ minP: 1 }, "minP", 1],
  [{ repetitionPenalty: 0.001 }, "repetitionPenalty", 0.001],
  [{ presencePenalty: -2 }, "presencePenalty", -2],
  [{ frequencyPenalty: 2 }, "frequencyPenalty", 2],
  [{ logitBias: { 10: -100, 2: 100 } }, "logitBias", [[2, 100], [10, -100]]],
  [{ allowedTokenIds: [7] }, "allowedTokenIds", [7]],
  [{ seed: 42 }, "seed", 42n],
  [{ seed: -1 }, "seed", -1n],
  [{ seed: -(2n ** 63n) }, "seed", -(2n ** 63n)],
  [{ seed: 2n ** 64n - 1n }, "seed", 2n ** 64n - 1n],
  [{ stop: "END" }, "stop", ["END"]],
  [{ stop: ["a", "b"] }, "stop", ["a", "b"]],
  [{ stop: [] }, "stop", []],
  [{ stopTokenIds: [0, 2 ** 31 - 1] }, "stopTokenIds", [0, 2 ** 31 - 1]],
  [{ ignoreEos: true }, "ignoreEos", true],
  [{ includeStopStrInOutput: true }, "includeStopStrInOutput", true],
  [{ skipSpecialTokens: false }, "skipSpecialTokens", false],
  [{ logprobs: 0 }, "logprobs", 0],
  [{ promptLogprobs: 1024 }, "promptLogprobs", 1024],
  [{ detokenize: false }, "detokenize", false],
  [{ structuredOutputs: { regex: "a+" } }, "structuredOutputs", { kind: "regex", text: "a+" }],
  [{ structuredOutputs: { choice: ["a", "b"] } }, "structuredOutputs", {
    kind: "choice",
    text: '["a","b"]',
  }],
  [{ structuredOutputs: { json: { type: "null" } } }, "structuredOutputs", {
    kind: "json",
    text: '{"type":"null"}',
  }],
];
for (const [params, field, value] of accepted) {
  Deno.test(`${Deno.inspect(params)} is accepted`, () => {
    assert.deepEqual(resolveSamplingParams(params)[field], value);
  });
}

const refused: Record<string, unknown[]> = {
  n: [0, 129, 1.5, "1", null, NaN],
  maxTokens: [0, -1, 1.5, Infinity, null],
  minTokens: [-1, 0.5, "0"],
  temperature: [-0.1, NaN, Infinity, "1", null, 1n],
  topP: [0, -0.5, 1.0001, NaN],
  topK: [-2, 1.5, Infinity, "5"],
  minP: [-0.01, 1.01, NaN],
  repetitionPenalty: [0, -1, Infinity, NaN],
  presencePenalty: [-2.01, 2.01, NaN],
  frequencyPenalty: [-2.01, 2.01, null],
  logitBias: [
    { 5: 100.5 },
    { 5: -101 },
    { 5: NaN },
    { 5: "1" },
    { a: 1 },
    { "-1": 1 },
    { "1.5": 1 },
    { "01": 1 },
    { [2 ** 31]: 1 },
    [1, 2],
    "5:1",
    null,
    Object.fromEntries(Array.from({ length: 1025 }, (_, id) => [id, 1])),
  ],
  allowedTokenIds: [[], [-1], [1.5], ["1"], [2 ** 31], 5, new Array(3), new Array(131_073).fill(1)],
  seed: [1.5, NaN, 2 ** 53, "1", 2n ** 64n, -(2n ** 63n) - 1n, null],
  stop: ["", [""], [5], 5, null, "x".repeat(1025), new Array(65).fill("a"), new Array(2)],
  stopTokenIds: [[-1], [0.5], 5, ["5"], [2 ** 31], new Array(1025).fill(1)],
  ignoreEos: [1, "true", null],
  includeStopStrInOutput: [0],
  skipSpecialTokens: ["no"],
  logprobs: [-1, 1.5, 1025, true],
  promptLogprobs: [-1, 0.5, 1025, "3"],
  detokenize: [0, null],
  structuredOutputs: [null, [], "a", {}, { json: 1 }, { regex: 5 }, { choice: "a" }, {
    grammar: [],
  }],
};
for (const [field, values] of Object.entries(refused)) {
  Deno.test(`${field} is refused out of its range and of another type`, () => {
    for (const value of values) refuses({ [field]: value }, field, /: it must be /);
  });
}

Deno.test("every parameter has a refusal test", () => {
  assert.deepEqual(Object.keys(refused).sort(), Object.keys(resolveSamplingParams()).sort());
});

Deno.test("a refusal names the value and the range", () => {
  refuses({ topP: 1.5 }, "topP", /topP = 1\.5: .* above 0 and at most 1\.$/);
  refuses({ n: 200 }, "n", /n = 200: it must be an integer from 1 to 128\.$/);
  refuses({ stop: ["a", ""] }, "stop", /stop = \["a", ""\]/);
  refuses({ logitBias: { 3: 500 } }, "logitBias", /\{3: 500\}.* -100 to 100\.$/);
});

Deno.test("a refusal stays short, however long the value is", () => {
  for (const value of ["x".repeat(1e6), new Array(1e5).fill(-1), { ["y".repeat(1e6)]: 1 }]) {
    assert.throws(() => resolveSamplingParams(untyped({ temperature: value })), (error) => {
      assert.ok(error instanceof InvalidArgumentError);
      assert.ok(error.message.length < 250);
      return true;
    });
  }
});

Deno.test("minTokens above maxTokens is refused", () => {
  refuses({ minTokens: 17 }, "minTokens", /at most maxTokens, which is 16/);
  refuses({ minTokens: 5, maxTokens: 4 }, "minTokens", /at most maxTokens, which is 4/);
});

Deno.test("stop strings without detokenize are refused", () => {
  refuses({ stop: "END", detokenize: false }, "stop", /set detokenize to true/);
  resolveSamplingParams({ stop: [], detokenize: false });
});

Deno.test("beam search is refused with the way out, in either spelling", () => {
  for (const field of ["bestOf", "beamWidth", "useBeamSearch", "lengthPenalty", "best_of"]) {
    refuses({ [field]: 2 }, field, /beam search is not supported, use n with a seed/);
  }
  refuses({ use_beam_search: true }, "use_beam_search", /beam search is not supported/);
});

Deno.test("an unknown field is refused with the nearest name", () => {
  refuses({ max_tokens: 5 }, "max_tokens", /"max_tokens": .* the nearest is maxTokens\.$/);
  refuses({ max_new_tokens: 5 }, "max_new_tokens", /nearest is maxTokens/);
  refuses({ top_p: 0.5 }, "top_p", /nearest is topP/);
  refuses({ temprature: 0.5 }, "temprature", /nearest is temperature/);
  refuses({ stop_token_ids: [1] }, "stop_token_ids", /nearest is stopTokenIds/);
  refuses({ ignoreEOS: true }, "ignoreEOS", /nearest is ignoreEos/);
  refuses(JSON.parse('{"__proto__": 1}'), "__proto__", /no such parameter/);
  refuses({ toString: 1 }, "toString", /no such parameter/);
  refuses({ max_tokens: undefined }, "max_tokens", /no such parameter/);
});

Deno.test("parameters that are no object are refused", () => {
  for (const params of [null, 5, "temperature", [1]]) refuses(params, "params", /an object/);
});

Deno.test("the result is frozen and shares nothing with the arguments", () => {
  const given = { stop: ["a"], stopTokenIds: [1], allowedTokenIds: [2], logitBias: { 3: 1 } };
  const params = resolveSamplingParams(given);
  given.stop.push("b");
  given.stopTokenIds[0] = 9;
  given.allowedTokenIds[0] = 9;
  given.logitBias[3] = 9;
  assert.deepEqual(params.stop, ["a"]);
  assert.deepEqual(params.stopTokenIds, [1]);
  assert.deepEqual(params.allowedTokenIds, [2]);
  assert.deepEqual(params.logitBias, [[3, 1]]);
  const { logitBias } = params;
  for (const part of [params, params.stop, params.stopTokenIds, logitBias, logitBias[0]]) {
    assert.ok(Object.isFrozen(part));
  }
  assert.ok(Object.isFrozen(resolveSamplingParams().stop));
});

Deno.test("without a seed each result has a random one of 53 bits", () => {
  const seeds = Array.from({ length: 200 }, () => resolveSamplingParams().seed);
  assert.equal(new Set(seeds).size, 200);
  assert.ok(seeds.every((seed) => seed >= 0n && seed < 2n ** 53n));
  // Each bit is set in some seed and unset in another: but for 106 chances of 2^-200.
  const any = seeds.reduce((a, b) => a | b);
  const all = seeds.reduce((a, b) => a & b);
  assert.deepEqual([any, all], [2n ** 53n - 1n, 0n]);
});

Deno.test("token ids and logprobs beyond the vocabulary are refused, the last id is not", () => {
  const check = (params: SamplingParams) =>
    checkAgainstVocabulary(resolveSamplingParams(params), 100);
  check({ logitBias: { 99: 1 }, allowedTokenIds: [0, 99], stopTokenIds: [99], logprobs: 100 });
  const beyond: [keyof SamplingParams, SamplingParams][] = [
    ["logitBias", { logitBias: { 5: 1, 100: 1 } }],
    ["allowedTokenIds", { allowedTokenIds: [100] }],
    ["stopTokenIds", { stopTokenIds: [3, 102_399] }],
    ["logprobs", { logprobs: 101 }],
    ["promptLogprobs", { promptLogprobs: 101 }],
  ];
  for (const [field, params] of beyond) {
    assert.throws(
      () => check(params),
      (error) => error instanceof InvalidArgumentError && error.field === field,
    );
  }
});
