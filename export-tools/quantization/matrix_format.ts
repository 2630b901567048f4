/**
 * How a weight matrix is stored. One file per format; adding one means a file here, a row in
 * `recipe.ts`, and where the bytes are new, an overload of the op's body.
 * @module
 */
import type { DataType } from "../../src/onnx/data_type.ts";

/** Block of a quantized row that shares one scale, elements. The last block is padded with zeros. */
export const BLOCK = 32;

/** One of the tensors that a matrix is stored as. */
export interface StoredColumns {
  /** Added to the matrix's name; empty for its elements. */
  suffix: "" | ".scales";
  /** Element type. */
  type: DataType;
  /** Elements of a row. */
  columns: number;
}

/** A storage format of matrices [rows, columns]; every row is stored by itself. */
export interface MatrixFormat {
  /** Its name. */
  readonly name: "f32" | "f16" | "int8" | "int4";
  /**
   * The tensors that a matrix becomes.
   * @param columns Elements of a row of the matrix.
   * @returns One or two tensors.
   */
  tensors(columns: number): StoredColumns[];
  /**
   * Encodes rows.
   * @param rows f32, whole rows.
   * @param columns Elements of a row.
   * @param into As many bytes as the rows take, one array per tensor.
   * @throws {RangeError} If a number does not fit the format.
   */
  encode(rows: Float32Array, columns: number, into: Uint8Array[]): void;
}
