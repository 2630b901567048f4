/**
 * Options that every command which runs a model has.
 * @module
 */
import process from "node:process";
import { type Command, InvalidArgumentError as InvalidOption, Option } from "commander";
import { type BackendInfo, type BackendName, BACKENDS } from "../backend/backend.ts";
import { rankPlace } from "../backend/native/rank_place.ts";
import { followRanks } from "../backend/native/ranks_backend.ts";
import { type BackendTrial, fastest } from "../backend/trials.ts";
import type { EngineOptions } from "../engine/engine_options.ts";
import { LLM } from "../llm.ts";
import type { OpenOptions } from "../open_model.ts";
import type { SamplingParams } from "../sampling_params.ts";
import { progressBar } from "./progress_bar.ts";
import { sizeText } from "./size_text.ts";

/** Parsed options of a model. */
export interface ModelOptions {
  /** The package; the embedded model by default. */
  model?: string;
  /** What computes; by default `wasm`, and with ranks the only one that can. */
  backend?: BackendName | "auto";
  /** Most tokens of a sequence. */
  context?: number;
  /** How many threads compute. */
  threads?: number;
  /** Memory that may be taken, bytes. */
  memory?: number;
  /** Whether the memory has huge pages. */
  hugePages?: boolean;
  /** How the cache is stored. */
  cacheType?: OpenOptions["cacheType"];
  /** The part of the GPU's memory that may be taken. */
  gpuMemory?: number;
  /** Where routed experts are. */
  experts?: OpenOptions["experts"];
  /** How many processes compute the model together. */
  ranks?: number;
  /** Whether each of them has sequences of its own. */
  dataParallelAttention?: true;
  /** Results do not depend on how prompts are cut into steps. */
  exact: boolean;
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

/** Reads where experts are. @param text What was typed. @returns `gpu`, `cpu` or a number of layers. */
function expertsPlace(text: string): OpenOptions["experts"] {
  if (text === "gpu" || text === "cpu") return text;
  if (/^\d+$/.test(text)) return Number(text);
  throw new InvalidOption("It must be gpu, cpu, or a number of layers.");
}

/** Bytes of the units of a size. */
const UNITS: Record<string, number> = {
  ...{ "": 1, K: 1e3, M: 1e6, G: 1e9, T: 1e12 },
  ...{ KI: 2 ** 10, MI: 2 ** 20, GI: 2 ** 30, TI: 2 ** 40 },
};

/** Reads a size such as 4GB, 500M or 3.5GiB. @param text What was typed. @returns Bytes. */
export function byteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?$/i.exec(text.trim());
  const unit = UNITS[match?.[2]?.toUpperCase() ?? "none"];
  if (!match || unit === undefined) {
    throw new InvalidOption("It must be a size, for example 4GB or 3.5GiB.");
  }
  return Math.round(Number(match[1]) * unit);
}

/** Adds the options of a model. @param command To it. @returns The command. */
export function addModelOptions(command: Command): Command {
  return command
    .option("-m, --model <package>", "folder or address of an exported model (default: embedded)")
    .addOption(
      new Option("--backend <name>", "what computes; auto: the fastest here (default: wasm)")
        .choices([...BACKENDS, "auto"]),
    )
    .option(
      "--context <tokens>",
      "most tokens of a sequence (default: the model's, at most 8192)",
      number,
    )
    .option("--threads <count>", "how many compute (default: one per core)", number)
    .option("--huge-pages", "refuse to do without pages of 2 MB (default: where FFI is allowed)")
    .option("--no-huge-pages", "do not ask the system for them")
    .option("--memory <size>", "take no more than this, for example 4GB", byteSize)
    .addOption(
      new Option("--cache-type <type>", "how the cache is stored (default: f32, on cuda bf16)")
        .choices(["f32", "bf16", "int8", "fp8"]),
    )
    .option("--gpu-memory <part>", "of the GPU's that may be taken (default: 0.9)", number)
    .option(
      "--experts <where>",
      "on cuda: gpu, cpu, or of how many layers on the cpu",
      expertsPlace,
    )
    .option("--ranks <count>", "processes that compute together, on ort-native", number)
    .option("--data-parallel-attention", "with --ranks: each has sequences of its own")
    .option("--no-exact", "long prompts faster; logits then depend on how they are cut into steps")
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
 * @param engine How requests share the model.
 * @returns The model.
 */
export async function openModel(
  options: ModelOptions,
  signal: AbortSignal,
  engine: EngineOptions = {},
): Promise<LLM> {
  if (options.ranks !== undefined && (rankPlace(process.env)?.rank ?? 0) > 0) {
    // A launcher has started this command on every rank: this one computes what rank 0 says.
    signal.addEventListener("abort", () => process.exit(1));
    await followRanks();
    process.exit(0);
  }
  const bar = progressBar("Loading");
  const print = (info: BackendInfo) => process.stderr.write(planText(info) + "\n");
  try {
    return await LLM.open(options.model, {
      ...engine,
      backend: options.backend ?? (options.ranks === undefined ? "wasm" : "ort-native"),
      contextLength: options.context,
      threads: options.threads,
      tensorParallel: options.ranks,
      dataParallelAttention: options.dataParallelAttention,
      memoryBytes: options.memory,
      hugePages: options.hugePages,
      cacheType: options.cacheType,
      gpuMemory: options.gpuMemory,
      experts: options.experts,
      exact: options.exact ? undefined : false,
      onTrials: (trials) => process.stderr.write(trialsText(trials)),
      onPlan: options.model === undefined ? undefined : print,
      verify: options.verify,
      onProgress: bar.update,
      signal,
    });
  } finally {
    bar.stop();
  }
}

/** Closes a model, and says how experts on demand went. @param llm The model. */
export async function closeModel(llm: LLM): Promise<void> {
  const { expertStats } = llm;
  await llm.close();
  if (!expertStats || expertStats.uses === 0) return;
  const { places, uses, misses, evictions, bytesRead } = expertStats;
  const hits = ((1 - misses / uses) * 100).toFixed(1);
  process.stderr.write(
    `experts: ${hits}% of ${uses} uses were in memory, which holds ${places}; ${misses} were read ` +
      `(${sizeText(bytesRead)}), ${evictions} gave way\n`,
  );
}

/** What backends took, as a table. */
function trialsText(trials: readonly BackendTrial[]): string {
  const chosen = fastest(trials);
  return trials.map((trial) => {
    const { backend, promptTokens = 0, promptMs = 0, decodedTokens = 0, decodeMs = 0 } = trial;
    const rate = (tokens: number, ms: number) => (tokens / ms * 1000).toFixed(1).padStart(8);
    const figures = trial.failure ?? (`${rate(promptTokens, promptMs)} prompt tokens/s` +
      `${rate(decodedTokens, decodeMs)} tokens/s${backend === chosen ? "  chosen" : ""}`);
    return `${backend.padEnd(12)}${figures}\n`;
  }).join("");
}

/** What will be taken, in a line: "wasm (simd), 1 thread (…): 20 MiB: weights 6 MiB, …". */
function planText(info: BackendInfo) {
  const { backend, build, threads, threadsReason, hugePages, cacheType, verified, bytes } = info;
  const total = Object.values(bytes).reduce((sum, part) => sum + part, 0);
  const parts = Object.entries(bytes).map(([part, size]) =>
    `${part}${part === "cache" ? ` (${cacheType})` : ""} ${sizeText(size)}`
  );
  const count = `${threads} thread${threads === 1 ? "" : "s"} (${threadsReason})`;
  const pages = hugePages ? "; in huge pages" : "";
  const unverified = verified ? "" : "; files are not compared with their hashes";
  return `${backend} (${build}), ${count}: ${sizeText(total)}: ${
    parts.join(", ")
  }${pages}${unverified}`;
}
