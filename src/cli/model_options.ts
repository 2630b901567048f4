/**
 * Options that every command which runs a model has.
 * @module
 */
import { type Command, InvalidArgumentError as InvalidOption, Option } from "commander";
import { LLM } from "../llm.ts";
import type { SamplingParams } from "../sampling_params.ts";
import { progressBar } from "./progress_bar.ts";

/** Parsed options of a model. */
export interface ModelOptions {
  /** The package; the embedded model by default. */
  model?: string;
  /** What computes. */
  backend: "wasm" | "ort";
  /** Most tokens of a sequence. */
  context?: number;
  /** Compare files with their hashes. */
  verify: boolean;
}

/** Parsed options of sampling. */
export interface SamplingOptions {
  /** See {@linkcode SamplingParams}. */
  maxTokens: number;
  /** See {@linkcode SamplingParams}. */
  temperature?: number;
  /** See {@linkcode SamplingParams}. */
  topP?: number;
  /** See {@linkcode SamplingParams}. */
  topK?: number;
  /** See {@linkcode SamplingParams}. */
  minP?: number;
  /** See {@linkcode SamplingParams}. */
  seed?: number;
  /** See {@linkcode SamplingParams}. */
  stop?: string[];
}

/** Reads a number. @param text What was typed. @returns It. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidOption("It must be a number.");
  return value;
}

/** Adds the options of a model. @param command To it. @returns The command. */
export function addModelOptions(command: Command): Command {
  return command
    .option("-m, --model <package>", "folder or address of an exported model (default: embedded)")
    .addOption(
      new Option("--backend <name>", "what computes").choices(["wasm", "ort"]).default("wasm"),
    )
    .option("--context <tokens>", "most tokens of a sequence (default: the model's)", number)
    .option("--no-verify", "do not compare the files with their hashes");
}

/** Adds the options of sampling. @param command To it. @param maxTokens Default. @returns It. */
export function addSamplingOptions(command: Command, maxTokens: number): Command {
  return command
    .option("-n, --max-tokens <count>", "most tokens to generate", number, maxTokens)
    .option("-t, --temperature <value>", "0 is greedy (default: the model's)", number)
    .option("--top-p <value>", "keep the likeliest tokens of this probability", number)
    .option("--top-k <count>", "keep so many likeliest tokens", number)
    .option("--min-p <value>", "keep tokens at least so likely relative to the likeliest", number)
    .option("-s, --seed <integer>", "same seed, same text", number)
    .option("--stop <text>", "end at this text; may be given several times", collect);
}

function collect(text: string, earlier: string[] = []): string[] {
  return [...earlier, text];
}

/** The sampling parameters that were asked for. @param options Parsed. @returns Parameters. */
export function samplingParams(options: SamplingOptions): SamplingParams {
  const { maxTokens, temperature, topP, topK, minP, seed, stop } = options;
  return { maxTokens, temperature, topP, topK, minP, seed, stop };
}

/**
 * Opens the model that was asked for, with a progress bar.
 *
 * @param options Parsed.
 * @param signal Stops it.
 * @returns The model.
 */
export async function openModel(options: ModelOptions, signal: AbortSignal): Promise<LLM> {
  const bar = progressBar("Loading");
  try {
    return await LLM.open(options.model, {
      backend: options.backend,
      contextLength: options.context,
      verify: options.verify,
      onProgress: bar.update,
      signal,
    });
  } finally {
    bar.stop();
  }
}
