/**
 * Timings of ours and of llama.cpp, each in a fresh process.
 * @module
 */
import type { BackendInfo, ExpertStats } from "../src/backend/backend.ts";
import type { OpenOptions } from "../src/open_model.ts";
import type { AttentionJob } from "./workers/attention.ts";

/** What to time. */
export interface TimingJob {
  /** Our package. */
  package: string;
  /** How it is opened. */
  options: OpenOptions;
  /** `prefill`: prompts of `size` tokens, `count` times. `decode`: `count` steps after `size` tokens. */
  work: "prefill" | "decode";
  /** Tokens of the prompt. */
  size: number;
  /** Repetitions or steps. */
  count: number;
  /** Sequences that decode together; 1 by default. */
  sequences?: number;
  /** Tokens generated before those that are timed; 8 by default. */
  warmUp?: number;
  /** So many likeliest tokens are sampled from; all by default. */
  topK?: number;
  /** Stock onnxruntime-node computes, with these settings; its backend must be chosen in `options`. */
  ort?: OrtSettings;
}

/** Settings of stock onnxruntime-node. */
export interface OrtSettings {
  /** Threads inside an op. */
  threads: number;
  /** Whether it keeps the weights as they are, instead of packing a copy of them. */
  disablePrepacking: boolean;
}

/** What a process measured. */
export interface Timing {
  /** Opening the model. */
  loadSeconds: number;
  /** Of each prompt or step. */
  seconds: number[];
  /** Ours only: what was chosen. */
  info?: BackendInfo;
  /** Ours only: largest resident set. */
  peakBytes?: number;
  /** Ours only: the tokens that the first sequence generated. */
  tokenIds?: number[];
  /** Ours only, with experts on demand: what happened in the timed steps. */
  experts?: ExpertStats;
}

/** The rival. */
export interface LlamaCpp {
  /** bench/peers/llama_driver, built. */
  driver: string;
  /** Model of the same shape. */
  gguf: string;
}

/**
 * Tokens a second over all that was timed.
 *
 * @param timing What was measured.
 * @param tokens Of each prompt or step.
 * @returns The rate.
 */
export function rateOf({ seconds }: Timing, tokens = 1): number {
  return tokens * seconds.length / seconds.reduce((sum, value) => sum + value, 0);
}

/**
 * Times ours.
 *
 * @param job What.
 * @returns The timing.
 */
export async function timeOurs(job: TimingJob): Promise<Timing> {
  const worker = new URL("workers/ours.ts", import.meta.url).pathname;
  return await runJson(Deno.execPath(), ["run", "-A", worker, JSON.stringify(job)]);
}

/**
 * Times llama.cpp.
 *
 * @param llama Program and model.
 * @param threads Its threads.
 * @param job What; package and options are ours.
 * @returns The timing.
 */
export async function timeLlama(
  { driver, gguf }: LlamaCpp,
  threads: number,
  { work, size, count, sequences = 1 }: TimingJob,
): Promise<Timing> {
  return await runJson(driver, [gguf, threads, work, size, count, sequences].map(String));
}

/**
 * Times steps after contexts of several lengths.
 *
 * @param job What.
 * @returns The threads that computed, and the median seconds of a step for each length.
 */
export async function timeAttention(
  job: AttentionJob,
): Promise<{ threads: number; seconds: number[] }> {
  const worker = new URL("workers/attention.ts", import.meta.url).pathname;
  return await runJson(Deno.execPath(), ["run", "-A", worker, JSON.stringify(job)]);
}

/**
 * Runs a program that prints its result as JSON in its last line.
 *
 * @param program The program.
 * @param args Its arguments.
 * @returns The result.
 */
export async function runJson<T = Timing>(program: string, args: string[]): Promise<T> {
  const command = new Deno.Command(program, { args, stdout: "piped", stderr: "piped" });
  const { success, stdout, stderr } = await command.output();
  if (success) return JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").at(-1)!);
  throw new Error(`Cannot time ${program}: ${new TextDecoder().decode(stderr)}`);
}
