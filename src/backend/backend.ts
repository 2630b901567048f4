/**
 * The contract between the engine and what computes: every backend fulfils it, and tests script it.
 * @module
 */
import type { StepLimits, StepPlan } from "./step_plan.ts";

/** Names of the backends. */
export type BackendName = "wasm" | "ort" | "ort-native" | "cuda";
/** All of them. */
export const BACKENDS: readonly BackendName[] = ["wasm", "ort", "ort-native", "cuda"];

/** What was chosen when a backend was opened. */
export interface BackendInfo {
  /** The backend. */
  backend: BackendName;
  /** Which build of it, for example `relaxed-simd`. */
  build: string;
  /** How many threads compute. */
  threads: number;
  /** Why not more. */
  threadsReason: string;
  /** For `wasm`: whether the system was asked to map the memory in huge pages. */
  hugePages?: boolean;
  /** Why, or why not. */
  hugePagesReason?: string;
  /** How the cache is stored. */
  cacheType: string;
  /** For `wasm`: whether results do not depend on how prompts are cut into steps, nor on the machine. */
  exact?: boolean;
  /** Whether what is read of the package is compared with its hashes. */
  verified: boolean;
  /** Memory by what it is for, bytes. */
  bytes: Readonly<Record<string, number>>;
}

/** What has happened to experts that are read when they are chosen. */
export interface ExpertStats {
  /** How many experts the memory holds at a time, of all layers together. */
  places: number;
  /** Experts that steps used, each once per step and layer. */
  uses: number;
  /** How many of these had to be read. */
  misses: number;
  /** How many experts gave way to others. */
  evictions: number;
  /** Bytes read of the package for them. */
  bytesRead: number;
}

/** What a step computed. */
export interface StepResult {
  /** [Q, vocab], row by row; valid until the next step. */
  logits: Float32Array;
  /**
   * Another output that the graph declares, for example `layers.1.experts`.
   * @param name Its name.
   * @returns Its elements; valid until the next step. `undefined` if there is none of this name.
   */
  output(name: string): Float32Array | Int32Array | undefined;
}

/** Copies of whole blocks of the cache, in order. */
export type BlockCopies = readonly { from: number; to: number }[];

/** Executes steps of one model. */
export interface Backend {
  /** What was chosen. */
  readonly info: BackendInfo;
  /** What a step may hold. */
  readonly limits: StepLimits;
  /** How the rows of the cache are laid out; the same name means the same bytes for the same rows. */
  readonly cacheLayout: string;
  /** Bytes of a block, all caches together. */
  readonly blockBytes: number;
  /** Where experts are read when they are chosen: then the backend keeps the package and closes it. */
  readonly expertStats?: ExpertStats;
  /**
   * Runs a step. One may be under way at a time; timers and events run between steps.
   * @param plan The step.
   * @returns Its results.
   * @throws {InvalidArgumentError} If the plan breaks the contract; nothing has happened then.
   * @throws {BackendError} If it failed while running, or is closed.
   */
  run(plan: StepPlan): Promise<StepResult>;
  /**
   * Copies blocks of every cache, for sequences that part.
   * @param copies From and to.
   */
  copyBlocks(copies: BlockCopies): Promise<void>;
  /**
   * Reads blocks of every cache, between steps.
   * @param blocks Which.
   * @returns {@linkcode blockBytes} for each, in order; owned by the caller.
   */
  readBlocks(blocks: readonly number[]): Promise<Uint8Array>;
  /**
   * Writes what {@linkcode readBlocks} read, between steps.
   * @param blocks Where to.
   * @param bytes As many as there are blocks.
   */
  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void>;
  /** Breaks off a step that is under way, or waits for its end, and frees everything. */
  close(): Promise<void>;
}
