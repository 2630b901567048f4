/**
 * Steps of one token after contexts of several lengths, in turn, in a process of its own:
 * `deno run -A bench/workers/attention.ts <job as JSON>`. Prints one JSON line: the
 * threads and the median seconds of a step for each length.
 *
 * The cache is filled with rows that the model computes, but without prompts: every token is the last of
 * a sequence no longer than a block, so that long contexts are there in the time of their linear layers.
 * @module
 */
import { openModel, type OpenOptions } from "../../src/open_model.ts";
import { randomTokens } from "../random_tokens.ts";
import { median } from "../statistics.ts";

/** What to time. */
export interface AttentionJob {
  /** Our package. */
  package: string;
  /** How it is opened. */
  options: OpenOptions;
  /** Lengths, the step's token included. */
  contexts: number[];
  /** Steps of each length. */
  count: number;
}

/** Steps of each length before those that are timed. */
const WARM_UP = 3;

const job: AttentionJob = JSON.parse(Deno.args[0]!);
const longest = Math.max(...job.contexts);
const { backend, spec } = await openModel(job.package, {
  verify: false,
  ...job.options,
  contextLength: longest,
  cacheTokens: longest + 16,
});
const { blockSize, ...limits } = backend.limits;
const tokens = randomTokens(longest, spec.vocabSize, 1);
const together = Math.min(limits.tokens, limits.sequences);
for (let first = 0; first < longest; first += together) {
  const positions = Int32Array.from(
    { length: Math.min(together, longest - first) },
    (_, i) => first + i,
  );
  await backend.run({
    tokenIds: positions.map((position) => tokens[position]!),
    positions,
    slots: positions.map((position) => blockSize + position),
    queryStarts: Int32Array.from({ length: positions.length + 1 }, (_, i) => i),
    contextLengths: positions.map((position) => position % blockSize + 1),
    blockTables: positions.map((position) => 1 + Math.floor(position / blockSize)),
    logitRows: Int32Array.of(),
  });
}

async function step(context: number): Promise<number> {
  const begun = performance.now();
  await backend.run({
    tokenIds: Int32Array.of(tokens[0]!),
    positions: Int32Array.of(context - 1),
    slots: Int32Array.of(blockSize + context - 1),
    queryStarts: Int32Array.of(0, 1),
    contextLengths: Int32Array.of(context),
    blockTables: Int32Array.from({ length: Math.ceil(context / blockSize) }, (_, i) => i + 1),
    logitRows: Int32Array.of(0),
  });
  return (performance.now() - begun) / 1e3;
}

const seconds: number[][] = job.contexts.map(() => []);
for (let i = -WARM_UP; i < job.count; i++) {
  for (const [c, context] of job.contexts.entries()) {
    const time = await step(context);
    if (i >= 0) seconds[c]!.push(time);
  }
}
await backend.close();
console.log(JSON.stringify({ threads: backend.info.threads, seconds: seconds.map(median) }));
