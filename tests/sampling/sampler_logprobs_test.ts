import assert from "node:assert/strict";
import fc from "fast-check";
import { Sampler } from "../../src/sampling/sampler.ts";
import { logSoftmax } from "./reference.ts";
import { request } from "./draws.ts";

/** Absolute error of a logprob that is promised. */
const BOUND = 1e-6;

const logit = fc.oneof(
  { weight: 6, arbitrary: fc.float({ min: -30, max: 30, noNaN: true }) },
  { weight: 3, arbitrary: fc.integer({ min: -2, max: 2 }) },
  { weight: 1, arbitrary: fc.constantFrom(-Infinity, -1e4, 1e4, 3.4e38, -3.4e38) },
);
const logits = fc.array(logit, { minLength: 1, maxLength: 500, size: "max" })
  .filter((list) => list.some((x) => x > -Infinity));

Deno.test("logprobs are the f64 log softmax within 1e-6, and ranks count what is as likely", () => {
  fc.assert(
    fc.property(logits, fc.nat(), (logits, pick) => {
      const list = Float32Array.from(logits);
      const targetId = pick % list.length;
      const { logprob, rank, tokenId } = new Sampler(list.length).logprobsOf(list, targetId, 0);
      const expected = logSoftmax(list)[targetId]!;
      assert.equal(tokenId, targetId);
      if (expected === -Infinity) assert.equal(logprob, -Infinity);
      else {assert.ok(
          Math.abs(logprob - expected) <= BOUND * Math.max(1, Math.abs(expected) * 1e-9),
        );}
      assert.equal(rank, list.filter((x) => x >= list[targetId]!).length);
    }),
    { seed: 5, numRuns: 1000, endOnFailure: true },
  );
});

Deno.test("logprobs of a large vocabulary are within 1e-6, for flat and for peaked logits", () => {
  for (const size of [102_400, 129_283]) {
    for (const spread of [0, 0.5, 3, 12]) {
      const list = Float32Array.from({ length: size }, (_, id) => spread * Math.sin(id * id * 0.7));
      // Half of the probability on one token, the rest evenly on tokens 11.5 below.
      if (spread === 0) list[77] = Math.log(size);
      const expected = logSoftmax(list);
      const sampler = new Sampler(size);
      for (const id of [0, 1, 77, 4096, size - 1]) {
        const error = Math.abs(sampler.logprobsOf(list, id, 0).logprob - expected[id]!);
        assert.ok(error < BOUND, `V ${size}, spread ${spread}, token ${id}: error ${error}`);
      }
    }
  }
});

Deno.test("the top list is the full sort's, by descending logprob, then ascending id", () => {
  // Steps of 1/64: with far smaller ones, f64 logprobs of different logits could be equal.
  const steps = fc.array(fc.oneof(fc.integer({ min: -2000, max: 2000 }), fc.nat(3)), {
    minLength: 1,
    maxLength: 500,
    size: "max",
  });
  fc.assert(
    fc.property(steps, fc.nat(), fc.boolean(), (steps, pick, masked) => {
      const list = Float32Array.from(steps, (step) => step / 64);
      if (masked) list[pick % 7] = -Infinity;
      if (list.every((x) => x === -Infinity)) list[0] = 0;
      const topN = pick % (list.length + 1);
      const { top } = new Sampler(list.length).logprobsOf(list, 0, topN);
      const expected = logSoftmax(list);
      const order = [...list.keys()].filter((id) => list[id]! > -Infinity)
        .sort((a, b) => expected[b]! - expected[a]! || a - b).slice(0, topN);
      assert.deepEqual(top.map(({ tokenId }) => tokenId), order);
      for (const { tokenId, logprob } of top) {
        assert.ok(Math.abs(logprob - expected[tokenId]!) <= BOUND);
      }
    }),
    { seed: 6, numRuns: 1000, endOnFailure: true },
  );
});

Deno.test("the chosen token's logprob is bit for bit that of its entry in the top list", () => {
  const size = 3001;
  const sampler = new Sampler(size);
  for (let position = 0; position < 200; position++) {
    const list = Float32Array.from({ length: size }, (_, id) => 3 * Math.sin(id * (position + 1)));
    const params = { temperature: position % 3, logprobs: size > 1024 ? 1024 : size };
    const { tokenId, logprobs } = sampler.sample(list, request(params, { position }));
    const { logprob, top } = logprobs!;
    const entry = top.find((each) => each.tokenId === tokenId);
    assert.ok(entry || params.temperature > 0);
    if (entry) assert.ok(Object.is(entry.logprob, logprob));
    const again = sampler.logprobsOf(list, tokenId, 1);
    assert.ok(Object.is(again.logprob, logprob));
    if (params.temperature === 0) assert.ok(Object.is(top[0]!.logprob, logprob));
  }
});

Deno.test("log-probabilities of a sampled token are those without mask, biases, bans and penalties", () => {
  const size = 1000;
  const sampler = new Sampler(size);
  const list = Float32Array.from({ length: size }, (_, id) => 4 * Math.sin(id * id));
  const adjustments = [
    request({ logitBias: { 3: 40 } }),
    request({ allowedTokenIds: [3, 4] }),
    request({}, { banned: [3] }),
    request({ frequencyPenalty: 2 }, { history: [0, 3, 3, 5] }),
  ];
  for (const temperature of [0, 1, 1.5]) {
    for (const { params, ...rest } of adjustments) {
      const all = { ...params, temperature, logprobs: 5 };
      const { tokenId, logprobs } = sampler.sample(list, { ...rest, params: all });
      assert.deepEqual(logprobs, new Sampler(size).logprobsOf(list, tokenId, 5));
    }
  }
});

Deno.test("there are log-probabilities if they are asked for, and an empty top list for 0", () => {
  const sample = (logprobs?: number) =>
    new Sampler(3).sample(Float32Array.of(1, 2, 3), request({ temperature: 0, logprobs }));
  assert.equal("logprobs" in sample(), false);
  assert.deepEqual(sample(0).logprobs!.top, []);
  assert.deepEqual(sample(2).logprobs!.top.map(({ tokenId }) => tokenId), [2, 1]);
});

Deno.test("probabilities of all tokens add up to 1", () => {
  const size = 4099;
  const list = Float32Array.from({ length: size }, (_, id) => 5 * Math.cos(id * 1.3));
  const { top } = new Sampler(size).logprobsOf(list, 0, size);
  const sum = top.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0);
  assert.equal(top.length, size);
  assert.ok(Math.abs(sum - 1) < BOUND);
});
