/**
 * Opcodes of the step program and how many operands each has: the TypeScript spelling of the list in
 * `wasm/engine/src/program.rs`, which `operand_count` of the module lets a backend compare when it opens.
 * @module
 */

/** Name of an instruction. */
export type Opcode =
  | "gather"
  | "rmsNorm"
  | "quantize"
  | "multiply"
  | "sigmoid"
  | "mul"
  | "add"
  | "copyColumns"
  | "latentAttention"
  | "pagedAttention"
  | "sparseExperts"
  | "pack"
  | "packLatentUp"
  | "packScales";

/** Opcode and number of operands by name. */
export const OPCODES: Readonly<Record<Opcode, readonly [opcode: number, operands: number]>> = {
  gather: [0, 6], // table, its type, width, indices, rows, y
  rmsNorm: [1, 6], // x, weight, width, epsilon, rows, y
  quantize: [2, 4], // x, columns, rows, blocks
  multiply: [3, 7], // x, weight, its format, out, columns, rows, y
  sigmoid: [4, 4], // x, width, rows, y
  mul: [5, 5], // a, b, width, rows, y
  add: [6, 5], // a, b, width, rows, y
  copyColumns: [7, 6], // x, width, rows, y, its width, offset
  latentAttention: [8, 24],
  pagedAttention: [9, 21],
  sparseExperts: [10, 20],
  pack: [11, 5], // source, format, rows, columns, packed
  packLatentUp: [12, 7], // source, format, heads, nope, value, rank, packed
  packScales: [13, 5], // source, format, rows, columns, packed
};

/** Numbers of the weight formats, as in `wasm/engine/src/kernels/matrix.rs`. */
export const FORMATS = { f32: 0, f16: 1, int8: 2, int4: 3 } as const;

/** Name of a weight format. */
export type WeightFormat = keyof typeof FORMATS;

/** How the elements of a cache are stored; `int8` in blocks of 32 with an f32 scale. */
export type CacheType = "f32" | "bf16" | "int8";

/** Numbers of the cache formats, as in `wasm/engine/src/kernels/cache.rs`. */
export const CACHE_FORMATS: Readonly<Record<CacheType, number>> = { f32: 0, bf16: 1, int8: 2 };

/** Numbers of the types that GATHER's table can have. */
export const TABLE_TYPES = { f32: 0, f16: 1, bf16: 2 } as const;

/** Which size of the step counts a tensor's rows. */
export const ROWS = { tokens: 0, logitRows: 1 } as const;

/** Name of a size that varies from step to step. */
export type RowCount = keyof typeof ROWS;
