import assert from "node:assert/strict";
import fc from "fast-check";
import { Sampler } from "../../src/sampling/sampler.ts";
import { adjust } from "./reference.ts";
import { request, tokenOf } from "./draws.ts";

/** Adjusted scores are rounded to f32: nearer ones of the reference may tie. */
const NEAR = 1e-4;

const size = 200;
const id = fc.nat(size - 1);
const ids = fc.array(id, { maxLength: 60 });
const penalty = fc.double({ min: -2, max: 2, noNaN: true });
const settings = fc.record({
  prompt: ids,
  output: ids,
  banned: fc.array(id, { maxLength: 10 }),
  bias: fc.array(fc.tuple(id, fc.double({ min: -100, max: 100, noNaN: true })), { maxLength: 9 }),
  repetitionPenalty: fc.double({ min: 0.5, max: 2, noNaN: true }),
  presencePenalty: penalty,
  frequencyPenalty: penalty,
  masked: fc.option(fc.array(id, { maxLength: size })),
  only: fc.option(fc.array(id, { minLength: 1, maxLength: size })),
});

Deno.test("mask, biases, bans and penalties make the greedy token the reference's", () => {
  const logits = fc.array(fc.float({ min: -9, max: 9, noNaN: true }), {
    minLength: size,
    maxLength: size,
  });
  fc.assert(
    fc.property(logits, settings, fc.boolean(), (logits, { masked, only, ...rest }, asArray) => {
      const bias = new Map(rest.bias);
      const allowedSet = only && new Set(only);
      const maskedSet = new Set(masked);
      const scores = adjust(Float32Array.from(logits), {
        ...rest,
        bias,
        allowed: (id) => !maskedSet.has(id) && (!allowedSet || allowedSet.has(id)),
      });
      const order = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]!);
      const best = scores[order[0]!]!;
      fc.pre(best > -Infinity && best - scores[order[1]!]! > NEAR);
      const history = [...rest.prompt, ...rest.output];
      const allowed = new Uint32Array(Math.ceil(size / 32)).fill(-1 >>> 0);
      for (const id of maskedSet) allowed[id >>> 5]! &= ~(1 << (id & 31));
      const token = tokenOf(
        logits,
        request({
          temperature: 0,
          logitBias: Object.fromEntries(bias),
          repetitionPenalty: rest.repetitionPenalty,
          presencePenalty: rest.presencePenalty,
          frequencyPenalty: rest.frequencyPenalty,
          ...(only ? { allowedTokenIds: only } : {}),
        }, {
          history: asArray ? history : Int32Array.from(history),
          promptLength: rest.prompt.length,
          banned: rest.banned,
          ...(masked ? { allowed } : {}),
        }),
      );
      assert.equal(token, order[0]);
    }),
    { seed: 4, numRuns: 2000, endOnFailure: true },
  );
});

/** Which of two tokens has the higher score. */
const winner = (logits: number[], params: object, rest: object) =>
  tokenOf(logits, request({ temperature: 0, ...params }, rest));

Deno.test("presence and frequency penalties count the output only", () => {
  const inPrompt = { history: [0, 0, 0], promptLength: 3 };
  const inOutput = { history: [0, 0, 0], promptLength: 0 };
  assert.equal(winner([1, 0], { presencePenalty: 2 }, inPrompt), 0);
  assert.equal(winner([1, 0], { presencePenalty: 2 }, inOutput), 1);
  assert.equal(winner([1, 0], { frequencyPenalty: 0.5 }, inPrompt), 0);
  assert.equal(winner([1, 0], { frequencyPenalty: 0.5 }, inOutput), 1);
});

Deno.test("the repetition penalty counts the prompt, and each token once", () => {
  const threeTimes = { history: [0, 0, 0], promptLength: 3 };
  assert.equal(winner([4, 1.9], { repetitionPenalty: 2 }, threeTimes), 0);
  assert.equal(winner([4, 2.1], { repetitionPenalty: 2 }, threeTimes), 1);
  const split = { history: [0, 0, 0], promptLength: 1 };
  assert.equal(winner([4, 1.9], { repetitionPenalty: 2 }, split), 0);
});

Deno.test("the repetition penalty multiplies negative logits", () => {
  const rest = { history: [0], promptLength: 1 };
  assert.equal(winner([-1, -1.9], { repetitionPenalty: 2 }, rest), 1);
  assert.equal(winner([-1, -2.1], { repetitionPenalty: 2 }, rest), 0);
});

Deno.test("the presence penalty counts once, the frequency penalty each time", () => {
  const rest = { history: [0, 0, 0], promptLength: 0 };
  assert.equal(winner([1, 0.1], { presencePenalty: 0.8 }, rest), 0);
  assert.equal(winner([1, 0.1], { frequencyPenalty: 0.4 }, rest), 1);
});

Deno.test("no bias revives a token that is masked, and no penalty masks one", () => {
  assert.equal(winner([-Infinity, 0], { logitBias: { 0: 100 } }, {}), 1);
  assert.equal(winner([5, 0], { logitBias: { 0: 100 } }, { banned: [0] }), 1);
  assert.equal(winner([5, 0], { allowedTokenIds: [1], logitBias: { 0: 100 } }, {}), 1);
  const history = { history: [0], promptLength: 0 };
  assert.equal(winner([-3.4e38, -Infinity], { repetitionPenalty: 2 }, history), 0);
});

Deno.test("logprobs and rank stay those of the model, whatever changes the scores", () => {
  const logits = Float32Array.of(Math.log(0.5), Math.log(0.3), Math.log(0.2));
  const token = new Sampler(3).sample(
    logits,
    request({ temperature: 0, logitBias: { 2: 50 }, repetitionPenalty: 2, logprobs: 1 }, {
      history: [0],
      promptLength: 1,
    }),
  );
  assert.equal(token.tokenId, 2);
  const { logprob, rank, top } = token.logprobs!;
  assert.equal(rank, 3);
  assert.ok(Math.abs(logprob - Math.log(0.2)) < 1e-6);
  assert.equal(top[0]!.tokenId, 0);
});

Deno.test("a history longer than any before is read whole", () => {
  const sampler = new Sampler(3);
  for (const length of [1, 10, 50_000, 200_000, 2]) {
    const history = new Int32Array(length);
    history[length - 1] = 2;
    const params = { temperature: 0, presencePenalty: 2 };
    const token = sampler.sample(
      Float32Array.of(0, -9, 1),
      request(params, { history, promptLength: 0 }),
    );
    // 2 is at 1 - 2; 0 is at 0 - 2, unless the history holds nothing but 2.
    assert.equal(token.tokenId, length === 1 ? 0 : 2);
  }
});
