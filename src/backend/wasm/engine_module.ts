/**
 * The engine's WebAssembly module: which build, and what it exports (`wasm/engine/src/exports.rs`).
 * @module
 */
import { BackendError } from "../../errors.ts";
import { wasmModule, type WasmModuleName } from "../../wasm_module.ts";
import { base64 as simd } from "../../../wasm/dist/engine.ts";
import { base64 as relaxed } from "../../../wasm/dist/engine_relaxed.ts";
import { OPCODES } from "./opcodes.ts";

/** Functions and values of an instance. Pointers and lengths are bytes unless said otherwise. */
export interface EngineExports {
  /** Where free memory begins. */
  readonly __heap_base: WebAssembly.Global;
  /** Executes a program. */
  run(words: number, wordCount: number, tensors: number, tensorCount: number, sizes: number): void;
  /** How many operands an opcode has. */
  operand_count(opcode: number): number;
  /** Bytes of a packed matrix. */
  packed_bytes(format: number, rows: number, columns: number): number;
  /** Packs rows of a matrix. */
  pack(
    format: number,
    source: number,
    scales: number,
    rows: number,
    columns: number,
    into: number,
  ): void;
  /** Bytes of one packed head of kv_b. */
  kv_b_head_bytes(format: number, nope: number, value: number, rank: number): number;
  /** Packs one head of kv_b. */
  pack_kv_b_head(
    format: number,
    source: number,
    nope: number,
    value: number,
    rank: number,
    into: number,
  ): void;
  /** Bytes of a quantized row. */
  quantized_row_bytes(columns: number): number;
  /** Temporary memory of the ops. */
  latent_scratch_bytes(
    heads: number,
    rank: number,
    rope: number,
    tokens: number,
    context: number,
  ): number;
  /** Temporary memory of the ops. */
  paged_scratch_bytes(
    heads: number,
    keyWidth: number,
    valueWidth: number,
    context: number,
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
  ): number;
}

/** Name of a build of the engine. */
export type EngineBuild = "relaxed-simd" | "simd";

const BUILDS: Record<EngineBuild, { module: WasmModuleName; base64: string }> = {
  "relaxed-simd": { module: "engine_relaxed", base64: relaxed },
  "simd": { module: "engine", base64: simd },
};

/** A function whose body uses one relaxed SIMD instruction: engines without it refuse the module. */
const RELAXED_PROBE = new Uint8Array([
  ...[0, 97, 115, 109, 1, 0, 0, 0], // header
  ...[1, 5, 1, 0x60, 0, 1, 0x7b], // type: () -> v128
  ...[3, 2, 1, 0], // one function
  ...[10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11], // i8x16.relaxed_swizzle
]);

/** An instance and its memory. */
export interface EngineInstance {
  /** Its functions. */
  exports: EngineExports;
  /** Its memory. */
  memory: WebAssembly.Memory;
  /** Which build it is. */
  build: EngineBuild;
}

/**
 * Instantiates the best build that this runtime accepts.
 *
 * @param build Wants a certain build; the best one by default.
 * @returns The instance, with little memory: grow it by the plan.
 * @throws {BackendError} If the module is not the one this version was written for.
 */
export function instantiateEngine(build?: EngineBuild): EngineInstance {
  const name = build ?? (WebAssembly.validate(RELAXED_PROBE) ? "relaxed-simd" : "simd");
  const { module, base64 } = BUILDS[name];
  const memory = new WebAssembly.Memory({ initial: 32, maximum: 65536 });
  const instance = new WebAssembly.Instance(wasmModule(module, base64), { env: { memory } });
  const exports = instance.exports as unknown as EngineExports;
  for (const [opcode, operands] of Object.values(OPCODES)) {
    if (exports.operand_count?.(opcode) !== operands) {
      throw new BackendError(
        "backend_failed",
        `Cannot use the ${name} build of the engine: it is of another version; provide the module ` +
          `wasm/dist/${module}.wasm that came with this one.`,
      );
    }
  }
  return { exports, memory, build: name };
}
