/**
 * Options that the end-to-end benches share.
 * @module
 */
import { Command } from "commander";
import { number } from "../src/cli/model_options.ts";
import type { OpenOptions } from "../src/open_model.ts";
import type { LlamaCpp } from "./timing.ts";

/** Parsed options. */
export interface BenchOptions {
  /** Our package. */
  package: string;
  /** The rival's model of the same shape. */
  gguf?: string;
  /** The rival's program. */
  llama?: string;
  /** Threads of both sides. */
  threads?: number;
  /** How often each side runs. */
  rounds: number;
  /** More options of LLM.open. */
  open: Record<string, unknown>;
}

/**
 * A command with the shared options.
 *
 * @param name Its name.
 * @param description What it measures.
 * @returns The command, without an action.
 */
export function benchCommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .requiredOption("--package <folder>", "our package, for example of bench/synthetic.ts")
    .option("--gguf <file>", "llama.cpp's model of the same shape, of bench/peers/make_gguf.py")
    .option("--llama <program>", "llama_driver, of bench/peers/build_llama.sh")
    .option("--threads <count>", "threads (default: what the engine chooses)", number)
    .option("--rounds <count>", "processes of each side", number, 3)
    .option("--open <json>", "more options of LLM.open", (text: string) => JSON.parse(text), {});
}

/** How our package is opened. @param options Parsed. @returns Options of `LLM.open`. */
export function openOptions({ threads, open }: BenchOptions): OpenOptions {
  return threads === undefined ? { ...open } : { ...open, threads } as OpenOptions;
}

/** The rival. @param options Parsed. @returns It, if both its options are given. */
export function rival({ gguf, llama }: BenchOptions): LlamaCpp | undefined {
  if (gguf && llama) return { gguf, driver: llama };
  console.error("No rival: give --gguf and --llama to compare with llama.cpp.");
  return undefined;
}

/** Reads a list of numbers. @param text Separated by commas. @returns The numbers. */
export function numbers(text: string): number[] {
  return text.split(",").map(number);
}
