import assert from "node:assert/strict";
import fc from "fast-check";
import { Sampler } from "../../src/sampling/sampler.ts";
import { distribution, invert, philox, uniform } from "./reference.ts";
import { internalsWith, request, samplerModule, tokenOf } from "./draws.ts";

/** f32 weights move a step of the cumulative distribution by less than this. */
const MARGIN = 1e-5;

const words = (hex: string) => hex.split(" ").map((word) => parseInt(word, 16));

Deno.test("the reference's Philox4x32-10 gives Random123's known answers", () => {
  // kat_vectors of Random123: counter, key, output.
  const answers = [
    [
      "00000000 00000000 00000000 00000000",
      "00000000 00000000",
      "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ],
    [
      "ffffffff ffffffff ffffffff ffffffff",
      "ffffffff ffffffff",
      "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ],
    [
      "243f6a88 85a308d3 13198a2e 03707344",
      "a4093822 299f31d0",
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    ],
  ] as const;
  for (const [counter, key, output] of answers) {
    assert.deepEqual(philox(words(counter), words(key)), words(output));
  }
});

Deno.test("the module's uniform number is Philox's at (position, choice), all 53 bits", () => {
  const internals = internalsWith([0]);
  assert.equal(
    internals.uniform(0n, 0, 0),
    (Math.floor(0x6627e8d5 / 32) * 2 ** 26 + Math.floor(0xe169c58d / 64)) / 2 ** 53,
  );
  const uint32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), uint32, uint32, (seed, a, b) => {
      assert.equal(internals.uniform(seed, a, b), uniform(seed, a, b));
    }),
    { seed: 1 },
  );
});

Deno.test("a draw is the inverse of the cumulative distribution in the order of the ids", () => {
  const logit = fc.oneof(
    fc.float({ min: -12, max: 12, noNaN: true }),
    fc.integer({ max: 3, min: 0 }),
  );
  const settings = fc.record({
    temperature: fc.double({ min: 0.05, max: 4, noNaN: true }),
    minP: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 0.5, noNaN: true })),
    topK: fc.oneof(fc.constant(0), fc.nat(300)),
    topP: fc.oneof(fc.constant(1), fc.double({ min: 0.1, max: 1, noNaN: true })),
  });
  const logits = fc.array(logit, { minLength: 1, maxLength: 400, size: "max" });
  const position = fc.nat(2 ** 31);
  let compared = 0;
  fc.assert(
    fc.property(logits, settings, fc.bigInt(0n, 2n ** 64n - 1n), position, fc.nat(127), (
      logits,
      settings,
      seed,
      position,
      choiceIndex,
    ) => {
      const list = Float32Array.from(logits);
      const reference = distribution(list, settings);
      const { tokenId, margin } = invert(reference, uniform(seed, position, choiceIndex));
      if (Math.min(margin, reference.margin) < MARGIN) return;
      compared++;
      const chosen = tokenOf(list, request({ ...settings, seed }, { position, choiceIndex }));
      assert.equal(chosen, tokenId);
    }),
    { seed: 2, numRuns: 2000, endOnFailure: true },
  );
  assert.ok(compared > 1800, `only ${compared} of 2000 draws were far enough from a step`);
});

Deno.test("weights are within their stated error at every temperature", () => {
  const size = 4001;
  const logits = Float32Array.from({ length: size }, (_, id) => -id * 0.0217);
  for (const temperature of [0.013, 0.7, 1, 1.9, 40]) {
    const internals = internalsWith(logits);
    internals.draw(temperature, 0, 0, 1, 0n, 0, 0);
    const weights = new Float32Array(internals.memory.buffer, internals.weights.value, size);
    assert.equal(weights[0], 1);
    for (let id = 0; id < size; id++) {
      const distance = -logits[id]! / temperature;
      const exact = Math.exp(-distance);
      if (exact < 2 ** -126) {
        assert.ok(weights[id]! <= 2 ** -126 * 1.001);
        continue;
      }
      const error = Math.abs(weights[id]! / exact - 1);
      const bound = 2e-7 + 1.3e-7 * distance;
      assert.ok(error <= bound, `T ${temperature}, distance ${distance}: error ${error}`);
    }
  }
});

Deno.test("the same arguments choose the same token, in any sampler and after any other call", () => {
  const size = 1000;
  const logits = Float32Array.from({ length: size }, (_, id) => Math.sin(id) * 4);
  const other = Float32Array.from({ length: size }, (_, id) => Math.cos(id * id) * 9);
  const best = logits.indexOf(Math.max(...logits));
  const history = Array.from({ length: 60 }, (_, i) => (best + i * 37) % size);
  const requests = [
    request({ temperature: 1.3 }, { position: 5 }),
    request({ topP: 0.8, logprobs: 5 }, { position: 6 }),
    request({ topK: 20, minP: 0.01, logitBias: { 3: 5 } }, { banned: [1, 2] }),
    request({ repetitionPenalty: 1.4, frequencyPenalty: 1 }, { history, promptLength: 20 }),
    request({ presencePenalty: 2, temperature: 0 }, { history, promptLength: 0 }),
    request({ allowedTokenIds: [4, 5, 6, 500] }),
  ];
  const alone = requests.map((each) => new Sampler(size).sample(logits, each));
  const shared = new Sampler(size);
  fc.assert(
    fc.property(fc.array(fc.nat(requests.length * 2), { minLength: 1 }), (calls) => {
      for (const call of calls) {
        const index = call % requests.length;
        if (call === requests.length * 2) {
          assert.throws(() => shared.sample(new Float32Array(size).fill(NaN), requests[0]!));
          assert.throws(() => shared.sample(other, request({}, { allowed: new Uint32Array(32) })));
        } else if (call >= requests.length) {
          shared.sample(other, requests[index]!);
          shared.logprobsOf(other, 3, 7);
        } else {
          assert.deepEqual(shared.sample(logits, requests[index]!), alone[index]);
        }
      }
    }),
    { seed: 3 },
  );
});

Deno.test("logits are left as they are", () => {
  const logits = Float32Array.of(1, Infinity, -Infinity, 4);
  const before = logits.slice();
  new Sampler(4).sample(logits, request({ logitBias: { 0: 3 }, topK: 2, temperature: 0.5 }));
  assert.deepEqual(logits, before);
});

Deno.test("choices and positions have streams of their own, and a seed repeats its stream", () => {
  const size = 4096;
  const logits = new Float32Array(size);
  const sampler = new Sampler(size);
  const stream = (seed: bigint, choiceIndex: number) =>
    Array.from(
      { length: 64 },
      (_, position) => sampler.sample(logits, request({ seed }, { position, choiceIndex })).tokenId,
    );
  const streams = [stream(1n, 0), stream(1n, 1), stream(2n, 0), stream(1n << 32n, 0)];
  for (const [i, one] of streams.entries()) {
    // 64 draws from 4,096 tokens: about 0.5 repetitions within a stream, 0.016 hits between two.
    assert.ok(new Set(one).size > 58);
    for (const another of streams.slice(i + 1)) {
      assert.ok(one.filter((token, position) => token === another[position]).length <= 2);
    }
  }
  assert.deepEqual(stream(1n, 1), streams[1]);
});

Deno.test("a negative seed is the unsigned one with the same bits", () => {
  const logits = new Float32Array(100_003);
  assert.equal(
    tokenOf(logits, request({ seed: -1 })),
    tokenOf(logits, request({ seed: 2n ** 64n - 1n })),
  );
});

Deno.test("temperature 0 takes the greatest logit, of equal ones the lowest id", () => {
  const logits = Float32Array.from({ length: 1000 }, (_, id) => -Math.abs(id - 700));
  logits[900] = 0;
  assert.equal(tokenOf(logits, request({ temperature: 0 })), 700);
  assert.equal(tokenOf([-Infinity, -3, -3], request({ temperature: 0 })), 1);
});

Deno.test("the smallest temperature is greedy, the greatest draws finite logits evenly", () => {
  const logits = Float32Array.from({ length: 512 }, (_, id) => id % 2 === 0 ? -Infinity : id / 512);
  const sampler = new Sampler(512);
  const seen = new Set<number>();
  for (let position = 0; position < 3000; position++) {
    const cold = request({ temperature: Number.MIN_VALUE }, { position });
    assert.equal(sampler.sample(logits, cold).tokenId, 511);
    const hot = request({ temperature: Number.MAX_VALUE }, { position });
    seen.add(sampler.sample(logits, hot).tokenId);
  }
  assert.equal(seen.size, 256); // one of them is missed in 3,000 draws with probability 0.002
  assert.ok([...seen].every((id) => id % 2 === 1));
});

Deno.test("+Infinity counts as the greatest finite logit", () => {
  const logits = [0, Infinity, 5, Infinity];
  const { tokenId, logprobs } = new Sampler(4).sample(
    Float32Array.from(logits),
    request({ logprobs: 0 }),
  );
  assert.ok(tokenId === 1 || tokenId === 3);
  assert.deepEqual([logprobs!.logprob, logprobs!.rank], [-Math.LN2, 2]);
});

Deno.test("a vocabulary of one token always gives that token, with probability 1", () => {
  for (const params of [{}, { temperature: 0 }, { topK: 1 }, { topP: 0.1 }, { minP: 1 }]) {
    const token = new Sampler(1).sample(Float32Array.of(-7), request({ ...params, logprobs: 1 }));
    assert.deepEqual(token, {
      tokenId: 0,
      logprobs: { tokenId: 0, logprob: 0, rank: 1, top: [{ tokenId: 0, logprob: 0 }] },
    });
  }
});

Deno.test("the module imports nothing and takes no memory for a token", () => {
  assert.deepEqual(WebAssembly.Module.imports(samplerModule()), []);
  const internals = internalsWith(new Float32Array(4096));
  const bytes = internals.memory.buffer.byteLength;
  for (let position = 0; position < 1000; position++) {
    internals.begin();
    internals.draw(0.9, 0.01, 50, 0.9, 1n, 0, position);
  }
  assert.equal(internals.memory.buffer.byteLength, bytes);
});
