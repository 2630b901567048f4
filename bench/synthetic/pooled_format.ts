/**
 * Quantized random matrices: the pool is quantized once and rows are put together from its bytes.
 * @module
 */
import { BLOCK, type MatrixFormat } from "../../export-tools/quantization/matrix_format.ts";
import type { StoredMatrix } from "../../export-tools/weight_store.ts";
import { spreadOf } from "./random_checkpoint.ts";
import { pieces, POOL_ELEMENTS, seedOf, Uniform } from "./random_pool.ts";

/** Makes matrices of quantized formats random without drawing and quantizing each element. */
export class QuantizedPool {
  readonly #pool: Float32Array;
  readonly #seed: number;
  readonly #encoded = new Map<string, Uint8Array[]>();

  /**
   * @param pool Normal numbers.
   * @param seed Of the model.
   */
  constructor(pool: Float32Array, seed: number) {
    this.#pool = pool;
    this.#seed = seed;
  }

  /**
   * Makes a matrix random whose format has blocks; others stay as they are.
   *
   * @param matrix Changed in place.
   */
  replace(matrix: StoredMatrix): void {
    const { source, format, tensors } = matrix;
    if (format.name !== "int8" && format.name !== "int4") return;
    const { rows, columns } = source;
    const blank = new Float32Array();
    matrix.source = { rows, columns, read: () => Promise.resolve(blank) };
    const uniform = new Uniform(seedOf(tensors[0]!.name, this.#seed));
    matrix.format = {
      ...format,
      encode: (_rows, _columns, into) => this.#fill(format, columns, uniform, into),
    };
  }

  /** Fills whole rows, in the order in which they are written. */
  #fill(format: MatrixFormat, columns: number, uniform: Uniform, into: Uint8Array[]) {
    const pool = this.#encode(format, columns);
    const blockBytes = pool.map((bytes) => bytes.length / (POOL_ELEMENTS / BLOCK));
    const rowBytes = blockBytes.map((bytes) => bytes * Math.ceil(columns / BLOCK));
    const list = pieces(columns);
    for (let row = 0; row < into[0]!.length / rowBytes[0]!; row++) {
      for (const { begin, length } of list) {
        const from = uniform.place(length) / BLOCK;
        const blocks = Math.ceil(length / BLOCK);
        for (const [i, bytes] of pool.entries()) {
          const size = blockBytes[i]!;
          const piece = bytes.subarray(from * size, (from + blocks) * size);
          into[i]!.set(piece, row * rowBytes[i]! + begin / BLOCK * size);
        }
      }
    }
  }

  /** The pool with the spread of rows of this length, as one long row of the format. */
  #encode(format: MatrixFormat, columns: number): Uint8Array[] {
    const key = `${format.name} ${columns}`;
    let encoded = this.#encoded.get(key);
    if (!encoded) {
      const spread = spreadOf(columns);
      const blocks = POOL_ELEMENTS / BLOCK;
      encoded = [
        new Uint8Array(format.name === "int4" ? POOL_ELEMENTS / 2 : POOL_ELEMENTS),
        new Uint8Array(2 * blocks),
      ];
      format.encode(this.#pool.map((value) => value * spread), POOL_ELEMENTS, encoded);
      this.#encoded.set(key, encoded);
    }
    return encoded;
  }
}
