/**
 * `deno task bench:sampler`: time of `Sampler.sample`, one JSON line a case.
 *
 * Each case first checks that the token is the one that the first call gave, then takes the median
 * of 15 rounds of 40 calls; a call includes the copy of the logits. `peaked` logits have the spread
 * of a language model's, `flat` ones are the worst case of top-p: nearly every token is in the
 * nucleus.
 * @module
 */
import { machine } from "./machine.ts";
import { normals } from "./normals.ts";
import { resolveSamplingParams, type SamplingParams } from "../src/sampling_params.ts";
import { Sampler } from "../src/sampling/sampler.ts";

const ROUNDS = 15;
const CALLS = 40;
const HISTORY_LENGTH = 4096;
const PROMPT_LENGTH = 3072;

const filters: SamplingParams = { temperature: 0.7, topK: 50, topP: 0.9, minP: 0.02 };
const penalties: SamplingParams = {
  repetitionPenalty: 1.1,
  presencePenalty: 0.5,
  frequencyPenalty: 0.2,
};
const cases: Record<string, SamplingParams> = {
  greedy: { temperature: 0 },
  "greedy and its logprob": { temperature: 0, logprobs: 0 },
  "temperature 1": {},
  "temperature 0.7": { temperature: 0.7 },
  "top-k 50": { temperature: 0.7, topK: 50 },
  "top-p 0.9": { temperature: 0.7, topP: 0.9 },
  "min-p 0.02": { temperature: 0.7, minP: 0.02 },
  "temperature, top-k, top-p, penalties": { ...filters, ...penalties, minP: 0 },
  "all filters and penalties": { ...filters, ...penalties },
  "all filters, penalties, 20 logprobs": { ...filters, ...penalties, logprobs: 20 },
};

function logitsOf(shape: string, vocabSize: number): Float32Array {
  const source = normals();
  const logits = Float32Array.from({ length: vocabSize }, () => source.next().value!);
  if (shape === "flat") return logits.map((x) => x * 0.1);
  return logits.map((x, id) => 2.5 * x + (id % 997 === 5 ? 8 * Math.abs(source.next().value!) : 0));
}

/** Median microseconds of a call. */
function measure(logits: Float32Array, given: SamplingParams): number {
  const sampler = new Sampler(logits.length);
  const params = resolveSamplingParams({ seed: 1, ...given });
  const history = Int32Array.from(
    { length: HISTORY_LENGTH },
    (_, i) => (i * 7919 + (i % 13)) % logits.length,
  );
  const sample = (position: number) =>
    sampler.sample(logits, {
      params,
      history,
      promptLength: PROMPT_LENGTH,
      choiceIndex: 0,
      position,
    }).tokenId;
  const expected = sample(0);
  const times = Array.from({ length: ROUNDS }, () => {
    const start = performance.now();
    for (let call = 0; call < CALLS; call++) sample(call);
    return (performance.now() - start) * 1000 / CALLS;
  });
  if (sample(0) !== expected) throw new Error("Cannot trust the times: the token changed.");
  return times.sort((a, b) => a - b)[ROUNDS >> 1]!;
}

for (const vocabSize of [4096, 102_400]) {
  for (const shape of ["peaked", "flat"]) {
    const logits = logitsOf(shape, vocabSize);
    for (const [name, params] of Object.entries(cases)) {
      const microseconds = Number(measure(logits, params).toFixed(1));
      const line = { bench: "sampler", vocabSize, logits: shape, case: name, microseconds };
      console.log(JSON.stringify({ ...line, ...machine() }));
    }
  }
}
