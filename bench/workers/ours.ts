/**
 * One timing of ours in a process of its own: `deno run -A bench/workers/ours.ts <job as JSON>`. Prints
 * one JSON line.
 * @module
 */
import process from "node:process";
import { LLM } from "../../src/llm.ts";
import type { ExpertStats } from "../../src/backend/backend.ts";
import type { OrtModule } from "../../src/backend/ort.ts";
import type { OrtSettings, Timing, TimingJob } from "../timing.ts";
import { randomTokens } from "../random_tokens.ts";

/** Tokens generated before those that are timed, unless the job says otherwise. */
const WARM_UP = 8;
/** The last token is not timed: its event may come at once, others after the next step has begun. */
const LAST = 1;
/** Tokens of the prompt that is run before those that are timed. */
const WARM_UP_PROMPT = 32;
const SAMPLING = { temperature: 1, ignoreEos: true, detokenize: false };

const job: TimingJob = JSON.parse(Deno.args[0]!);
const opened = performance.now();
await using llm = await LLM.open(job.package, {
  verify: false,
  ...(job.ort ? { ort: await ortWith(job.ort) } : {}),
  ...job.options,
  ...contextOf(job),
});
const loadSeconds = (performance.now() - opened) / 1e3;
const found = job.work === "prefill" ? await prefill(job) : await decode(job);
const timing: Timing = { loadSeconds, ...found, info: llm.info, peakBytes: peakBytes() };
console.log(JSON.stringify(timing));

/** The largest resident set. Linux' resource usage has the parent's in it, as of the fork. */
function peakBytes(): number {
  try {
    const status = Deno.readTextFileSync("/proc/self/status");
    return Number(/^VmHWM:\s*(\d+) kB$/m.exec(status)![1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

/** onnxruntime-node with settings that `LLM.open` has no options for. */
async function ortWith({ threads, disablePrepacking }: OrtSettings): Promise<OrtModule> {
  const specifier = "npm:onnxruntime-node@1.30.0"; // not in the import: few benches need it
  const { default: ort } = await import(specifier) as { default: OrtModule };
  const settings = {
    intraOpNumThreads: threads,
    extra: { session: { disable_prepacking: disablePrepacking ? "1" : "0" } },
  };
  return {
    Tensor: ort.Tensor,
    InferenceSession: {
      create: (model, options) => ort.InferenceSession.create(model, { ...options, ...settings }),
    },
  };
}

function contextOf(job: TimingJob) {
  const contextLength = job.work === "prefill"
    ? Math.max(job.size, WARM_UP_PROMPT) + 1
    : job.size + tokensOf(job);
  const block = 16; // room for the last, partly filled block of each sequence
  const cacheTokens = (Math.ceil(contextLength / block) + 1) * block * (job.sequences ?? 1);
  return { contextLength, cacheTokens };
}

/** Tokens of a sequence: prompts are computed one after the other while the first ones decode. */
function tokensOf({ size, count, sequences = 1, warmUp = WARM_UP }: TimingJob): number {
  const tokensOfStep = 128; // at least, while prompts are computed
  const early = sequences === 1 ? 0 : Math.ceil(sequences * size / tokensOfStep) + 2;
  return early + 1 + warmUp + count + LAST;
}

/** From the prompt to its first token. */
async function prefill({ size, count }: TimingJob): Promise<Pick<Timing, "seconds">> {
  const run = async (length: number, seed: number) => {
    const promptTokenIds = randomTokens(length, llm.spec.vocabSize, seed);
    const begun = performance.now();
    await llm.generate({ promptTokenIds }, { ...SAMPLING, seed, maxTokens: 1 });
    return (performance.now() - begun) / 1e3;
  };
  await run(WARM_UP_PROMPT, 1);
  const times: number[] = [];
  for (let repeat = 0; repeat < count; repeat++) times.push(await run(size, 2 + repeat));
  return { seconds: times };
}

/** From one step's tokens to the next one's, as whoever reads the streams sees them. */
async function decode(job: TimingJob): Promise<Pick<Timing, "seconds" | "tokenIds" | "experts">> {
  const { size, count, sequences = 1, warmUp = WARM_UP, topK } = job;
  const arrivals = await Promise.all(Array.from({ length: sequences }, async (_, sequence) => {
    const promptTokenIds = randomTokens(size, llm.spec.vocabSize, sequence + 1);
    const params = { ...SAMPLING, topK, seed: sequence, maxTokens: tokensOf(job) };
    const events: { time: number; tokenIds: number[]; experts?: ExpertStats }[] = [];
    for await (const { tokenIds } of llm.stream({ promptTokenIds }, params)) {
      events.push({ time: performance.now(), tokenIds, experts: llm.expertStats });
    }
    return events;
  }));
  // From where all are under way, each has one token a step.
  const together = Math.max(...arrivals.map(([first]) => first!.time));
  const steps = arrivals.map((events) =>
    events.slice(events.findIndex(({ time }) => time >= together))
  );
  const seconds = Array.from({ length: count }, (_, i) => {
    const end = (step: number) => Math.max(...steps.map((events) => events[step]!.time));
    return (end(warmUp + i + 1) - end(warmUp + i)) / 1e3;
  });
  const [before, after] = [warmUp, warmUp + count].map((step) => steps[0]![step]!.experts);
  return {
    seconds,
    tokenIds: arrivals[0]!.flatMap(({ tokenIds }) => tokenIds),
    ...(before && after ? { experts: since(before, after) } : {}),
  };
}

/** What happened to experts between two moments. */
function since(before: ExpertStats, after: ExpertStats): ExpertStats {
  return {
    places: after.places,
    uses: after.uses - before.uses,
    misses: after.misses - before.misses,
    evictions: after.evictions - before.evictions,
    bytesRead: after.bytesRead - before.bytesRead,
  };
}
