/**
 * Side by side: ours and llama.cpp on one kind of work, in fresh processes that take turns.
 * @module
 */
import type { BackendInfo } from "../src/backend/backend.ts";
import { median } from "./statistics.ts";
import { type LlamaCpp, timeLlama, timeOurs, type Timing, type TimingJob } from "./timing.ts";

/** Figures of one side, from the medians of its processes. */
export interface Side {
  /** Tokens a second over all timed ones. */
  tokensPerSecond: number;
  /** Tokens a second of the median step or prompt. */
  medianTokensPerSecond: number;
  /** Tokens a second of the fastest step or prompt. */
  bestTokensPerSecond: number;
  /** Opening the model, seconds. */
  loadSeconds: number;
}

/** What a comparison found. */
export interface Comparison {
  /** What our side chose. */
  info: BackendInfo;
  /** Our largest resident set, bytes. */
  peakBytes: number;
  /** Ours. */
  ours: Side;
  /** The rival's, where there is one. */
  llama?: Side;
  /** Ours by the rival's, one of each round. */
  ratios?: number[];
  /** Their median. */
  ratio?: number;
}

/**
 * Compares.
 *
 * @param job What to time.
 * @param llama The rival, if there is one; it gets as many threads as ours chose.
 * @param rounds How often each side runs.
 * @returns What was found.
 */
export async function compare(
  job: TimingJob,
  llama: LlamaCpp | undefined,
  rounds: number,
): Promise<Comparison> {
  const ours: Timing[] = [];
  const theirs: Timing[] = [];
  let threads = 0;
  const tokens = job.work === "prefill" ? job.size : job.sequences ?? 1;
  const turns = [
    async () => {
      ours.push(await timeOurs(job));
      threads = ours[0]!.info!.threads;
    },
    async () => {
      if (llama) theirs.push(await timeLlama(llama, threads, job));
    },
  ];
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? turns : [...turns].reverse();
    for (const turn of order) await turn();
    printRound(
      round,
      tokens / mean(ours[round]!.seconds),
      theirs[round] &&
        tokens / mean(theirs[round]!.seconds),
    );
  }
  const first = ours[0]!;
  const comparison: Comparison = {
    info: first.info!,
    peakBytes: Math.max(...ours.map(({ peakBytes }) => peakBytes!)),
    ours: sideOf(ours, tokens),
  };
  if (!llama) return comparison;
  const ratios = ours.map((timing, i) => mean(theirs[i]!.seconds) / mean(timing.seconds));
  return { ...comparison, llama: sideOf(theirs, tokens), ratios, ratio: median(ratios) };
}

/** One line for people, on standard error. */
function printRound(round: number, ours: number, theirs: number | undefined) {
  const rest = theirs === undefined
    ? ""
    : `, llama.cpp ${theirs.toFixed(2)} tok/s, ratio ${(ours / theirs).toFixed(2)}`;
  console.error(`round ${round + 1}: ours ${ours.toFixed(2)} tok/s${rest}`);
}

function sideOf(timings: Timing[], tokens: number): Side {
  const middle = (of: (timing: Timing) => number) => median(timings.map(of));
  return {
    tokensPerSecond: middle(({ seconds }) => tokens / mean(seconds)),
    medianTokensPerSecond: middle(({ seconds }) => tokens / median(seconds)),
    bestTokensPerSecond: middle(({ seconds }) => tokens / Math.min(...seconds)),
    loadSeconds: middle(({ loadSeconds }) => loadSeconds),
  };
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
