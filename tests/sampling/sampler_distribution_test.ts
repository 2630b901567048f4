/**
 * Chi-squared tests: many draws with fixed seeds against the reference's probabilities. A statistic
 * above the critical value at significance 1e-4 fails; a right sampler, with another seed, would
 * fail one test in 10,000.
 */
import assert from "node:assert/strict";
import { Sampler, type SamplingRequest } from "../../src/sampling/sampler.ts";
import { distribution, type Settings } from "./reference.ts";
import { request } from "./draws.ts";

/** Standard normal quantile of 1 - 1e-4. */
const QUANTILE = 3.719;
/** Neighbouring tokens share a bin until that many hits are expected in it. */
const LEAST_EXPECTED = 8;

/** Wilson and Hilferty's approximation of the chi-squared quantile. */
function criticalValue(degrees: number): number {
  const a = 2 / (9 * degrees);
  return degrees * (1 - a + QUANTILE * Math.sqrt(a)) ** 3;
}

function checkDistribution(
  logits: Float32Array,
  settings: Settings,
  rest: Partial<SamplingRequest>,
  draws: number,
): void {
  const { ids, probabilities } = distribution(logits, settings);
  const counts = new Map<number, number>();
  const sampler = new Sampler(logits.length);
  const { temperature, minP, topK, topP } = settings;
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = settings;
  const params = { temperature, minP, topK, topP, repetitionPenalty, presencePenalty };
  const logitBias = Object.fromEntries(settings.bias ?? []);
  const base = request({ ...params, frequencyPenalty, logitBias, seed: 20_261_122 }, rest);
  for (let position = 0; position < draws; position++) {
    const { tokenId } = sampler.sample(logits, { ...base, position });
    counts.set(tokenId, (counts.get(tokenId) ?? 0) + 1);
  }

  const bins: { expected: number; hits: number }[] = [];
  let open = { expected: 0, hits: 0 };
  ids.forEach((id, i) => {
    open.expected += probabilities[i]! * draws;
    open.hits += counts.get(id) ?? 0;
    counts.delete(id);
    if (open.expected >= LEAST_EXPECTED) {
      bins.push(open);
      open = { expected: 0, hits: 0 };
    }
  });
  assert.deepEqual([...counts.keys()], [], "tokens were drawn that are filtered out");
  const last = bins.at(-1);
  if (last) {
    last.expected += open.expected;
    last.hits += open.hits;
  }
  if (bins.length < 2) return assert.equal(last?.hits, draws);
  const statistic = bins.reduce(
    (sum, { expected, hits }) => sum + (hits - expected) ** 2 / expected,
    0,
  );
  const critical = criticalValue(bins.length - 1);
  assert.ok(
    statistic < critical,
    `chi-squared ${statistic.toFixed(1)} of ${bins.length} bins is above ${critical.toFixed(1)}`,
  );
}

/** Logits with the spread of a language model's, from irrational rotations: no random state. */
function logitsOf(size: number): Float32Array {
  return Float32Array.from({ length: size }, (_, id) => {
    const a = (id * 0.6180339887498949 + 0.1) % 1;
    const b = (id * 0.7548776662466927 + 0.3) % 1;
    return Math.sqrt(-2 * Math.log(1 - a)) * Math.cos(2 * Math.PI * b) * 2;
  });
}

const history = [0, 1, 1, 0, 1, 1, 0]; // prompt of 3, output of 4
const filters: Record<string, Settings> = {
  "temperature 1": {},
  "temperature 0.6": { temperature: 0.6 },
  "temperature 3": { temperature: 3 },
  "top-k": { topK: 5 },
  "top-p": { topP: 0.85 },
  "min-p": { minP: 0.08 },
  "repetition penalty": { repetitionPenalty: 1.7 },
  "presence and frequency penalties": { presencePenalty: 0.6, frequencyPenalty: -0.4 },
  "biases": { bias: new Map([[0, 2], [1, -1.5]]) },
  "all together": {
    temperature: 1.4,
    minP: 0.001,
    topK: 300,
    topP: 0.97,
    repetitionPenalty: 1.2,
    presencePenalty: 0.3,
    frequencyPenalty: 0.2,
    bias: new Map([[0, 1], [1, 1]]),
  },
};

for (const [size, draws] of [[1, 50], [2, 20_000], [7, 20_000], [512, 40_000], [4096, 40_000]]) {
  for (const [name, settings] of Object.entries(filters)) {
    if (size === 1 && settings.bias) continue; // token 1 does not exist
    Deno.test(`${draws} draws of ${size} tokens with ${name} fit the reference`, () => {
      const own = history.map((id) => Math.min(id, size! - 1));
      const split = { prompt: own.slice(0, 3), output: own.slice(3) };
      const rest = { history: own, promptLength: 3 };
      checkDistribution(logitsOf(size!), { ...settings, ...split }, rest, draws!);
    });
  }
}

for (const name of ["temperature 1", "temperature 3", "top-p", "all together"]) {
  Deno.test(`5000 draws of 100003 tokens with ${name} fit the reference`, () => {
    const split = { prompt: history.slice(0, 3), output: history.slice(3) };
    const settings = { ...filters[name]!, ...split };
    checkDistribution(logitsOf(100_003), settings, { history, promptLength: 3 }, 5000);
  });
}

Deno.test("the critical value is exceeded with a probability of about 1e-4", () => {
  // Closed form of chi-squared's tail for even degrees: a Poisson sum.
  for (const degrees of [2, 10, 50, 300]) {
    const half = criticalValue(degrees) / 2;
    let term = Math.exp(-half);
    let tail = term;
    for (let k = 1; k < degrees / 2; k++) tail += term *= half / k;
    assert.ok(tail > 0.5e-4 && tail < 1.5e-4, `${degrees} degrees: ${tail}`);
  }
});
