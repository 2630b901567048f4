/**
 * Together as if alone, whatever the engine does: steps of any size, requests that come and go, prompts that
 * are found in the cache, sequences that make room, guesses, threads. On backend `wasm` tokens and
 * log-probabilities are the same bits.
 */
import { strict as assert } from "node:assert";
import fc from "fast-check";
import type { Backend } from "../../src/backend/backend.ts";
import { Engine } from "../../src/engine/engine.ts";
import type { EngineOptions } from "../../src/engine/engine_options.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import { type OpenedModel, openModel, type OpenOptions } from "../../src/open_model.ts";
import { resolveSamplingParams, type SamplingParams } from "../../src/sampling_params.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { packageOf } from "../packages.ts";
import { needsShared } from "../shared.ts";
import { limitBackend } from "./limited_backend.ts";

/** A request of the tests. */
interface Asked {
  prompt: number[];
  params: SamplingParams;
}

const ways: SamplingParams[] = [
  { temperature: 0, maxTokens: 60 },
  { temperature: 0.9, topP: 0.95, seed: 11, maxTokens: 17, frequencyPenalty: 0.3 },
  { temperature: 1, seed: 5, n: 3, maxTokens: 12, logprobs: 2 },
  { temperature: 0, maxTokens: 9, promptLogprobs: 1, repetitionPenalty: 1.2 },
  { temperature: 0.7, seed: 2, maxTokens: 44, minP: 0.05 },
];

/** Nine requests; some prompts begin alike, some repeat themselves. */
function requests(vocabSize: number): Asked[] {
  const run = (length: number, first: number) =>
    Array.from({ length }, (_, i) => (first + i * 131) % vocabSize);
  const shared = run(37, 300);
  const repeating = Array.from({ length: 33 }, (_, i) => run(4, 77)[i % 4]!);
  const prompts = [
    [5 % vocabSize],
    run(16, 9),
    shared,
    [...shared, ...run(3, 8)],
    [...shared, ...run(20, 40)],
    repeating,
    [...shared.slice(0, 32), ...repeating],
    run(17, 9),
    shared,
  ];
  return prompts.map((prompt, i) => ({ prompt, params: ways[i % ways.length]! }));
}

async function ask(engine: Engine, { prompt, params }: Asked) {
  const { choices, promptLogprobs } = await engine.generate({
    promptTokenIds: prompt,
    params: resolveSamplingParams(params),
    eosTokenIds: [],
  });
  return { choices, promptLogprobs };
}

/** What each request gets alone, nothing kept from one to the next. */
async function askAlone(backend: Backend, sampler: Sampler, vocabSize: number, asked: Asked[]) {
  const engine = new Engine(backend, sampler, vocabSize, { enablePrefixCaching: false });
  const results = [];
  for (const request of asked) results.push(await ask(engine, request));
  assert.equal(engine.stats().cachedPromptTokens + engine.stats().preemptions, 0);
  return results;
}

const setups = fc.record({
  maxNumSeqs: fc.integer({ min: 1, max: 9 }),
  maxNumBatchedTokens: fc.integer({ min: 2, max: 70 }),
  enablePrefixCaching: fc.boolean(),
  speculative: fc.constantFrom<EngineOptions["speculative"]>(
    undefined,
    { method: "ngram", ngramMin: 1, numTokens: 3 },
    { method: "ngram" },
  ),
  /** Blocks of 16 tokens; the longest request takes 8. */
  blocks: fc.integer({ min: 9, max: 24 }),
  /** In which turn of the event loop each request comes. */
  turns: fc.array(fc.nat(12), { minLength: 9, maxLength: 9 }),
  /** Which request is aborted, and at which of its tokens. */
  aborted: fc.option(fc.tuple(fc.nat(8), fc.integer({ min: 1, max: 9 }))),
});

async function checkModel(open: () => Promise<OpenedModel>, runs: number) {
  const { backend, spec: { vocabSize }, tokenizer } = await open();
  const sampler = new Sampler(vocabSize);
  const asked = requests(vocabSize);
  const alone = await askAlone(backend, sampler, vocabSize, asked);
  const seen = { preemptions: 0, cachedPromptTokens: 0, acceptedTokens: 0 };
  await fc.assert(
    fc.asyncProperty(setups, async ({ blocks, turns, aborted, ...options }) => {
      const limited = limitBackend(backend, { blocks, contextLength: 127 });
      const engine = new Engine(limited, sampler, vocabSize, options);
      const results = await Promise.all(asked.map(async (request, i) => {
        for (let turn = 0; turn < turns[i]!; turn++) await new Promise((go) => setTimeout(go, 1));
        if (i !== aborted?.[0]) return await ask(engine, request);
        const controller = new AbortController();
        let tokens = 0;
        const ended = engine.generate({
          promptTokenIds: request.prompt,
          params: resolveSamplingParams({ ...request.params, maxTokens: 40 }),
          eosTokenIds: [],
          signal: controller.signal,
          onToken: () => void (++tokens === aborted[1] && controller.abort()),
        });
        await assert.rejects(ended, { name: "AbortError" });
        return alone[i]!;
      }));
      assert.deepEqual(results, alone);
      const stats = engine.stats();
      assert.deepEqual([stats.running, stats.waiting, stats.heldBlocks], [0, 0, 0]);
      for (const name of Object.keys(seen) as (keyof typeof seen)[]) seen[name] += stats[name];
    }),
    { numRuns: runs, seed: 20261124, endOnFailure: true },
  );
  console.log(seen);
  assert(Math.min(...Object.values(seen)) > 0, "nothing made room, was found or guessed");
  await backend.close();
  tokenizer?.free();
}

for (
  const [name, options] of Object.entries<OpenOptions>({
    "one thread": {},
    "two threads": { threads: 2 },
    "an int8 cache": { cacheType: "int8" },
  })
) {
  Deno.test(`the embedded model on ${name}: nine requests get what they get alone, in any mix`, async () => {
    await checkModel(() => openModel(embeddedModel(), options), options.threads === 2 ? 5 : 20);
  });
}

for (
  const [model, weights] of [
    ["deepseek-v2", "int4"],
    ["deepseek-moe", "int8"],
    ["deepseek-llm-gqa", "f32"],
  ] as const
) {
  Deno.test(
    needsShared(`${model} in ${weights}: nine requests get what they get alone, in any mix`),
    async () => {
      const location = await packageOf(model, { weights });
      await checkModel(() => openModel(location, {}), 20);
    },
  );
}
