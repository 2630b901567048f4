import assert from "node:assert/strict";
import { BackendError, InvalidArgumentError } from "../../src/errors.ts";
import { Sampler, type SamplingRequest } from "../../src/sampling/sampler.ts";
import { request } from "./draws.ts";

const size = 200;
const logits = (changes: Record<number, number> = {}, value = 0) =>
  Object.assign(new Float32Array(size).fill(value), changes) as Float32Array;

/** Checks that a request is refused for a field. */
function refuses(field: string, request: SamplingRequest): void {
  assert.throws(() => new Sampler(size).sample(logits(), request), (error) => {
    assert.ok(error instanceof InvalidArgumentError);
    assert.equal(error.field, field);
    assert.match(error.message, /^Cannot .*\.$/);
    return true;
  });
}

Deno.test("a NaN among the logits is refused with its token id, wherever it is", () => {
  for (const id of [0, 1, 63, 127, 128, 199]) {
    for (const temperature of [0, 1]) {
      assert.throws(
        () => new Sampler(size).sample(logits({ [id]: NaN }), request({ temperature })),
        (error) =>
          error instanceof BackendError && error.code === "backend_failed" &&
          error.message.includes(`the logit of token ${id} is NaN`),
      );
    }
    assert.throws(() => new Sampler(size).logprobsOf(logits({ [id]: NaN }), 0, 1), BackendError);
  }
  assert.throws(
    () => new Sampler(size).sample(logits({ 4: NaN, 9: NaN, 2: Infinity }), request()),
    /token 4 is NaN/,
  );
});

Deno.test("logits that are all -Infinity are refused", () => {
  const empty = logits({}, -Infinity);
  assert.throws(() => new Sampler(size).sample(empty, request()), BackendError);
  assert.throws(() => new Sampler(size).logprobsOf(empty, 0, 1), BackendError);
});

Deno.test("a mask, a list or bans that leave no token are refused", () => {
  const nothing = new Uint32Array(Math.ceil(size / 32));
  const onlyThree = nothing.slice().fill(8, 0, 1);
  for (const temperature of [0, 1]) {
    refuses("allowedTokenIds", request({ temperature }, { allowed: nothing }));
    refuses("allowedTokenIds", request({ temperature }, { allowed: onlyThree, banned: [3] }));
    refuses(
      "allowedTokenIds",
      request({ temperature, allowedTokenIds: [5, 7] }, { allowed: onlyThree }),
    );
    refuses("allowedTokenIds", request({ temperature, allowedTokenIds: [5] }, { banned: [5] }));
  }
  const masked = logits({ 1: 0 }, -Infinity);
  assert.throws(
    () => new Sampler(size).sample(masked, request({}, { banned: [1] })),
    InvalidArgumentError,
  );
});

Deno.test("bits of a mask beyond the vocabulary allow nothing", () => {
  const beyond = new Uint32Array(Math.ceil(size / 32));
  beyond[6] = 0xffffff00; // tokens 200 to 223
  refuses("allowedTokenIds", request({}, { allowed: beyond }));
});

Deno.test("what does not fit the vocabulary is refused by name", () => {
  refuses("logitBias", request({ logitBias: { 200: 1 } }));
  refuses("allowedTokenIds", request({ allowedTokenIds: [3, 200] }));
  refuses("banned", request({}, { banned: [200] }));
  refuses("banned", request({}, { banned: [-1] }));
  refuses("banned", request({}, { banned: [1.5] }));
  refuses("allowed", request({}, { allowed: new Uint32Array(6) }));
  const repetition = { repetitionPenalty: 1.1 };
  refuses("history", request(repetition, { history: [200], promptLength: 0 }));
  refuses("history", request(repetition, { history: Int32Array.of(-1), promptLength: 1 }));
  assert.throws(
    () => new Sampler(size).sample(new Float32Array(size - 1), request()),
    { field: "logits" },
  );
});

Deno.test("a place in the sequence that cannot be is refused by name", () => {
  refuses("promptLength", request({}, { history: [1], promptLength: 2 }));
  refuses("promptLength", request({}, { promptLength: -1 }));
  refuses("choiceIndex", request({}, { choiceIndex: -1 }));
  refuses("choiceIndex", request({}, { choiceIndex: 0.5 }));
  refuses("position", request({}, { position: 2 ** 32 }));
  refuses("position", request({}, { position: NaN }));
});

Deno.test("logprobsOf refuses a target and a length that the vocabulary lacks", () => {
  const sampler = new Sampler(size);
  assert.throws(() => sampler.logprobsOf(logits(), size, 0), { field: "targetId" });
  assert.throws(() => sampler.logprobsOf(logits(), -1, 0), { field: "targetId" });
  assert.throws(() => sampler.logprobsOf(logits(), 0, size + 1), { field: "topN" });
  assert.throws(() => sampler.logprobsOf(logits(), 0, -1), { field: "topN" });
});

Deno.test("a vocabulary that is empty, fractional or beyond 4 M tokens is refused", () => {
  for (const vocabSize of [0, -1, 1.5, NaN, Infinity, 2 ** 22 + 1]) {
    assert.throws(() => new Sampler(vocabSize), { field: "vocabSize" });
  }
});

Deno.test("a sampler goes on after an error as if nothing had happened", () => {
  const sampler = new Sampler(size);
  const usable = logits({ 7: 3 });
  const plain = request({ repetitionPenalty: 1.2 }, { history: [7, 7], promptLength: 1 });
  const expected = new Sampler(size).sample(usable, plain);
  assert.throws(() => sampler.sample(logits({ 0: NaN }), plain));
  assert.throws(() => sampler.sample(usable, { ...plain, history: [7, 900] }));
  assert.throws(() => sampler.sample(usable, { ...plain, allowed: new Uint32Array(7) }));
  assert.deepEqual(sampler.sample(usable, plain), expected);
});
