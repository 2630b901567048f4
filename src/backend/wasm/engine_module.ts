/**
 * The builds of the engine's WebAssembly module, what each needs of a runtime, and what they export
 * (`wasm/engine/src/exports.rs`).
 * @module
 */
import { BackendError } from "../../errors.ts";
import { embeddedBytes } from "../../embedded_bytes.ts";
import { providedModule, wasmModule, type WasmModuleName } from "../../wasm_module.ts";
import { withFixedMemory } from "./fixed_memory.ts";
import { embedded as simd } from "../../../wasm/dist/engine.ts";
import { embedded as relaxed } from "../../../wasm/dist/engine_relaxed.ts";
import { embedded as threads } from "../../../wasm/dist/engine_threads.ts";
import { embedded as threadsRelaxed } from "../../../wasm/dist/engine_threads_relaxed.ts";
import { embedded as memory64 } from "../../../wasm/dist/engine_memory64.ts";
import { OPCODES } from "./opcodes.ts";

/** What an instance tells of sizes. All are bytes, lengths are elements. */
export interface EngineSizes {
  /** How many operands an opcode has. */
  operand_count(opcode: number): number;
  /** The state of a team of threads. */
  team_bytes(): number;
  /** A packed matrix. */
  packed_bytes(format: number, rows: number, columns: number): number;
  /** One packed head of kv_b. */
  kv_b_head_bytes(format: number, nope: number, value: number, rank: number): number;
  /** A quantized row. */
  quantized_row_bytes(columns: number): number;
  /** One head's row of a cache. */
  cache_row_bytes(format: number, width: number): number;
  /** An expert as it is stored, tensor after tensor. */
  staged_expert_bytes(format: number, hidden: number, width: number): number;
  /** What a team and the host share to read experts on demand, for nodes of so many experts. */
  supply_bytes(held: number): number;
  /** Temporary memory of the ops. */
  latent_scratch_bytes(
    heads: number,
    nope: number,
    rope: number,
    rank: number,
    value: number,
    mayExpand: number,
    tokens: number,
    context: number,
    threads: number,
  ): number;
  /** Temporary memory of the ops. */
  paged_scratch_bytes(
    heads: number,
    groups: number,
    keyWidth: number,
    valueWidth: number,
    tokens: number,
    context: number,
    threads: number,
  ): number;
  /** Temporary memory of the ops. */
  experts_scratch_bytes(
    format: number,
    hidden: number,
    width: number,
    experts: number,
    held: number,
    k: number,
    tokens: number,
    threads: number,
  ): number;
}

/** Functions and values of an instance with 32-bit addresses. */
export interface EngineExports extends EngineSizes {
  /** Where free memory begins. */
  readonly __heap_base: WebAssembly.Global;
  /** Runs a job as one thread of a team. */
  run(job: number, thread: number): void;
}

/**
 * Name of a build of the engine: with one thread that is the caller's (`simd`, `relaxed-simd`), with
 * threads over 4 GiB of memory (`threads-…`), or over more (`memory64`, with relaxed SIMD).
 */
export type EngineBuild =
  | "simd"
  | "relaxed-simd"
  | "threads-simd"
  | "threads-relaxed-simd"
  | "memory64";

/** What a build is and needs. */
export interface BuildTraits {
  /** Its file under `wasm/dist`. */
  module: WasmModuleName;
  /** Its memory is shared by threads. */
  threads: boolean;
  /** Needs relaxed SIMD. */
  relaxed: boolean;
  /** Largest memory, pages of 64 KiB. */
  maxPages: number;
}

/** Pages of 4 GiB, what 32 bits address, and of 16 GiB, what V8 grants to 64 bits. */
const [PAGES_32, PAGES_64] = [65536, 262144];

/** Every build. */
export const BUILDS: Readonly<Record<EngineBuild, BuildTraits>> = {
  "simd": { module: "engine", threads: false, relaxed: false, maxPages: PAGES_32 },
  "relaxed-simd": { module: "engine_relaxed", threads: false, relaxed: true, maxPages: PAGES_32 },
  "threads-simd": { module: "engine_threads", threads: true, relaxed: false, maxPages: PAGES_32 },
  "threads-relaxed-simd": {
    module: "engine_threads_relaxed",
    threads: true,
    relaxed: true,
    maxPages: PAGES_32,
  },
  "memory64": { module: "engine_memory64", threads: true, relaxed: true, maxPages: PAGES_64 },
};

const EMBEDDED: Record<EngineBuild, string> = {
  "simd": simd,
  "relaxed-simd": relaxed,
  "threads-simd": threads,
  "threads-relaxed-simd": threadsRelaxed,
  "memory64": memory64,
};

/** Whether a memory has 64-bit addresses. @param build Its build. @returns True for `memory64`. */
export function isWide(build: EngineBuild): boolean {
  return BUILDS[build].maxPages > PAGES_32;
}

/** A module of one function () -> v128 whose body uses one relaxed SIMD instruction. */
const RELAXED_PROBE = new Uint8Array([
  ...[0, 97, 115, 109, 1, 0, 0, 0], // header
  ...[1, 5, 1, 0x60, 0, 1, 0x7b], // type: () -> v128
  ...[3, 2, 1, 0], // one function
  ...[10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11], // i8x16.relaxed_swizzle
]);
/** A module with a memory of 64-bit addresses. */
const MEMORY64_PROBE = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 5, 3, 1, 4, 1]);

/** What this runtime's WebAssembly can do. */
export const runtimeFeatures: Readonly<{ relaxed: boolean; memory64: boolean }> = {
  relaxed: WebAssembly.validate(RELAXED_PROBE),
  memory64: WebAssembly.validate(MEMORY64_PROBE),
};

/**
 * The fastest build for a memory.
 *
 * @param threads Whether threads share it.
 * @param pages How large it must be; the largest build that the runtime has, if none is large enough.
 * @returns The build.
 */
export function bestBuild(threads: boolean, pages: number): EngineBuild {
  const { relaxed, memory64 } = runtimeFeatures;
  if (!threads) return relaxed ? "relaxed-simd" : "simd";
  if (pages > PAGES_32 && relaxed && memory64) return "memory64";
  return relaxed ? "threads-relaxed-simd" : "threads-simd";
}

const fixedModules = new Map<EngineBuild, { pages: number; module: WebAssembly.Module }>();

/**
 * The compiled module of a build with threads, for memories of one size.
 *
 * @param build Which.
 * @param pages How large the memory is.
 * @returns The module: the one provided, else one that also serves the next caller with such a memory.
 */
export function threadsModule(build: EngineBuild, pages: number): WebAssembly.Module {
  const provided = providedModule(BUILDS[build].module);
  if (provided) return provided;
  let fixed = fixedModules.get(build);
  if (fixed?.pages !== pages) {
    const bytes = withFixedMemory(embeddedBytes(EMBEDDED[build]), pages);
    fixed = { pages, module: new WebAssembly.Module(bytes) };
    fixedModules.set(build, fixed);
  }
  return fixed.module;
}

/**
 * Instantiates a build with one thread.
 *
 * @param build `simd` or `relaxed-simd`.
 * @param memory Its memory.
 * @returns What it exports.
 * @throws {BackendError} If the module is not the one this version was written for.
 */
export function instantiateEngine(
  build: EngineBuild,
  memory: WebAssembly.Memory,
): EngineExports {
  const instance = new WebAssembly.Instance(
    wasmModule(BUILDS[build].module, EMBEDDED[build]),
    { env: { memory } },
  );
  const exports = instance.exports as unknown as EngineExports;
  for (const [opcode, operands] of Object.values(OPCODES)) {
    if (exports.operand_count?.(opcode) !== operands) {
      throw new BackendError(
        "backend_failed",
        `Cannot use the ${build} build of the engine: it is of another version; provide the module ` +
          `wasm/dist/${BUILDS[build].module}.wasm that came with this one.`,
      );
    }
  }
  return exports;
}

let sizes: EngineSizes | undefined;

/** Sizes, the same for all builds. @returns The functions of a small instance. */
export function engineSizes(): EngineSizes {
  sizes ??= instantiateEngine(bestBuild(false, 0), new WebAssembly.Memory({ initial: 16 }));
  return sizes;
}
