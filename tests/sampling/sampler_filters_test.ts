import assert from "node:assert/strict";
import fc from "fast-check";
import { distribution } from "./reference.ts";
import { keptIds } from "./draws.ts";

/** Weights are f32: where a cut of the reference is nearer than this, either side is right. */
const MARGIN = 1e-5;

const logit = fc.oneof(
  { weight: 6, arbitrary: fc.float({ min: -20, max: 20, noNaN: true }) },
  { weight: 4, arbitrary: fc.integer({ min: -3, max: 3 }) }, // ties
  { weight: 1, arbitrary: fc.constantFrom(-Infinity, -0, 0, 3.4e38, -3.4e38, 1e-45, -1e-45) },
);
const logits = fc.oneof(
  fc.array(logit, { minLength: 1, maxLength: 12 }),
  fc.array(logit, { minLength: 1, maxLength: 700, size: "max" }),
).filter((list) => list.some((x) => x > -Infinity));
const temperature = fc.oneof(
  fc.double({ min: 0.01, max: 5, noNaN: true }),
  fc.constantFrom(1, 1e-300, 1e-38, 1e-6, 100, 1e6, 1e30),
);
const minP = fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.constantFrom(0, 1e-30, 1));
const topK = fc.oneof(fc.nat(12), fc.nat(800));
const topP = fc.oneof(
  fc.double({ min: 0, max: 1, minExcluded: true, noNaN: true }),
  fc.constantFrom(1e-12, 1 - 2 ** -53),
);

/**
 * Checks that what is kept is what the reference keeps, for the given filters. A failure is not
 * shrunk: that would take minutes with lists of this length.
 */
function checkKept(filters: { minP?: typeof minP; topK?: typeof topK; topP?: typeof topP }): void {
  const settings = fc.record({
    temperature,
    minP: filters.minP ?? fc.constant(0),
    topK: filters.topK ?? fc.constant(0),
    topP: filters.topP ?? fc.constant(1),
  });
  fc.assert(
    fc.property(logits, settings, (logits, settings) => {
      const list = Float32Array.from(logits);
      const limits = settings.topK > 0 && settings.topK < list.length;
      fc.pre(settings.minP > 0 || limits || settings.topP < 1);
      const { ids, margin } = distribution(list, settings);
      fc.pre(margin > MARGIN);
      assert.deepEqual(keptIds(list, settings), ids);
    }),
    { seed: 20261122, numRuns: 1000, endOnFailure: true },
  );
}

Deno.test("top-k keeps the tokens that a full sort keeps", () => checkKept({ topK }));
Deno.test("top-p keeps the tokens that a full sort keeps", () => checkKept({ topP }));
Deno.test("min-p keeps the tokens that a full sort keeps", () => checkKept({ minP }));
Deno.test("min-p, top-k and top-p together keep the tokens that a full sort keeps", () =>
  checkKept({ minP, topK, topP }));

Deno.test("top-k of equal logits keeps exactly k, the lower ids", () => {
  const logits = [1, 2, 2, -1, 2, 2, 1];
  assert.deepEqual(keptIds(logits, { topK: 3 }), [1, 2, 4]);
  assert.deepEqual(keptIds(logits, { topK: 5 }), [0, 1, 2, 4, 5]);
});

Deno.test("top-k treats -0 and 0 as equal", () => {
  assert.deepEqual(keptIds([-0, 0, -0, 0], { topK: 2 }), [0, 1]);
});

Deno.test("top-k leaves out logits of -Infinity, however large k is", () => {
  assert.deepEqual(keptIds([-Infinity, 1, -Infinity, 0], { topK: 3 }), [1, 3]);
});

Deno.test("top-k finds its tokens wherever they are, at every k", () => {
  const size = 5003;
  const rank = (id: number) => (id * 2741) % size; // a permutation: 5003 is prime
  const logits = Float32Array.from({ length: size }, (_, id) => -0.01 * rank(id));
  for (const topK of [1, 2, 39, 40, 41, 128, 1000, 5002]) {
    const expected = [...logits.keys()].filter((id) => rank(id) < topK);
    assert.deepEqual(keptIds(logits, { topK }), expected, `k = ${topK}`);
  }
});

Deno.test("top-p keeps the smallest prefix that reaches p, also when it reaches p exactly", () => {
  const equal = new Float32Array(4);
  assert.deepEqual(keptIds(equal, { topP: 0.5 }), [0, 1]);
  assert.deepEqual(keptIds(equal, { topP: 0.51 }), [0, 1, 2]);
  assert.deepEqual(keptIds(equal, { topP: 0.75 }), [0, 1, 2]);
});

Deno.test("top-p keeps at least one token", () => {
  assert.deepEqual(keptIds([0, 5, 5, 1], { topP: 1e-9 }), [1]);
});

Deno.test("top-p counts probabilities relative to what top-k kept", () => {
  // Of all tokens the first has 0.4, of the two best 4/7.
  const logits = [0.4, 0.3, 0.2, 0.1].map(Math.log);
  assert.deepEqual(keptIds(logits, { topP: 0.55 }), [0, 1]);
  assert.deepEqual(keptIds(logits, { topP: 0.55, topK: 2 }), [0]);
});

Deno.test("min-p 1 keeps every token with the greatest logit", () => {
  assert.deepEqual(keptIds([3, 1, 3, 2.9999998], { minP: 1 }), [0, 2]);
});

Deno.test("min-p is relative to the likeliest token after the temperature", () => {
  const logits = [1, 0.5, 0.2, 0.05].map(Math.log);
  assert.deepEqual(keptIds(logits, { minP: 0.3 }), [0, 1]);
  assert.deepEqual(keptIds(logits, { minP: 0.3, temperature: 2 }), [0, 1, 2]); // sqrt(0.2) > 0.3
});

Deno.test("min-p cuts between neighbouring f32 logits", () => {
  // e^-2 is below 0.2, but max + ln 0.2 is nearer to the lower logit than to the higher one.
  assert.deepEqual(keptIds([2 ** 25, 2 ** 25 - 2], { minP: 0.2 }), [0]);
  assert.deepEqual(keptIds([2 ** 25, 2 ** 25 - 2], { minP: 0.13 }), [0, 1]);
});
