/**
 * How unevenly a package's routers choose experts for random tokens, in a process of its own:
 * `deno run -A bench/workers/choices.ts <package> <options of LLM.open as JSON>`. Prints the exponent of
 * Zipf's law that fits best how often experts are used, the median of the layers.
 * @module
 */
import { openModel } from "../../src/open_model.ts";
import type { StepPlan } from "../../src/backend/step_plan.ts";
import { randomTokens } from "../random_tokens.ts";
import { median } from "../statistics.ts";

const TOKENS = 1024;

const [folder, options] = Deno.args;
const { backend, spec } = await openModel(folder, {
  verify: false,
  ...JSON.parse(options!),
  contextLength: TOKENS,
  cacheTokens: TOKENS,
});
const tokens = randomTokens(TOKENS, spec.vocabSize);
const counts: number[][] = []; // of each sparse layer and of each expert that was chosen
const { tokens: most } = backend.limits;
for (let begin = 0; begin < TOKENS; begin += most) {
  const { output } = await backend.run(planOf(begin, Math.min(begin + most, TOKENS)));
  for (let layer = 0; layer < spec.caches.length; layer++) {
    const chosen = output(`layers.${layer}.experts`);
    if (!chosen) continue;
    const ofLayer = counts[layer] ??= [];
    for (const expert of chosen) ofLayer[expert] = (ofLayer[expert] ?? 0) + 1;
  }
}
await backend.close();
console.log(JSON.stringify(median(Object.values(counts).map(exponentOf))));

/** Some of the tokens as a step of one sequence. */
function planOf(begin: number, end: number): StepPlan {
  const { blockSize, blocks } = backend.limits;
  const range = (from: number, to: number) =>
    Int32Array.from({ length: to - from }, (_, i) => from + i);
  return {
    tokenIds: Int32Array.from(tokens.slice(begin, end)),
    positions: range(begin, end),
    slots: range(begin + blockSize, end + blockSize),
    queryStarts: Int32Array.of(0, end - begin),
    contextLengths: Int32Array.of(end),
    blockTables: range(1, blocks),
    logitRows: new Int32Array(),
  };
}

/** The likeliest exponent: with it the mean logarithm of the rank is the one that was counted. */
function exponentOf(counts: number[]): number {
  const ranked = Object.values(counts).sort((a, b) => b - a);
  const meanLog = (weights: number[]) =>
    weights.reduce((sum, weight, i) => sum + weight * Math.log(i + 1), 0) /
    weights.reduce((sum, weight) => sum + weight);
  const counted = meanLog(ranked);
  let [low, high] = [0, 8];
  while (high - low > 1e-4) {
    const middle = (low + high) / 2;
    if (meanLog(ranked.map((_, i) => (i + 1) ** -middle)) > counted) low = middle;
    else high = middle;
  }
  return low;
}
