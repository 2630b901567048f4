/**
 * The weights of a graph that is being built: what each stored tensor is called, how large it is, and
 * where its rows come from. Nothing is read before the package is written.
 * @module
 */
import { bytesPerElement, type DataType } from "../src/onnx/data_type.ts";
import type { Rows } from "./checkpoint.ts";
import type { MatrixFormat } from "./quantization/matrix_format.ts";

/** An initializer of the graph, stored as external data. */
export interface StoredTensor {
  /** Its name in the graph. */
  name: string;
  /** Element type. */
  type: DataType;
  /** Sizes of the axes. */
  dims: number[];
  /** Length in bytes. */
  bytes: number;
  /** How many equal slabs, read one at a time, it is made of: experts, or 1. */
  slabs: number;
}

/** A matrix, or a stack of equal matrices, and the tensors that it is stored as. */
export interface StoredMatrix {
  /** Its rows, those of a stack one after the other. */
  source: Rows;
  /** How rows become bytes. */
  format: MatrixFormat;
  /** Its tensors in the format's order. */
  tensors: StoredTensor[];
}

/** Collects the weights in the order of their use. */
export class WeightStore {
  /** All matrices so far. */
  readonly matrices: StoredMatrix[] = [];

  /**
   * Adds a matrix or a stack.
   *
   * @param name Name of the tensor that holds the elements; the checkpoint's where it has one.
   * @param source Its rows.
   * @param format How it is stored.
   * @param leading Axes before the columns; their product is the number of rows. `[rows]` by default.
   * @param slabs How many equal slabs, read one at a time, it is made of; 1 by default.
   * @returns The tensors, in the format's order.
   */
  add(
    name: string,
    source: Rows,
    format: MatrixFormat,
    leading: number[] = [source.rows],
    slabs = 1,
  ): StoredTensor[] {
    const tensors = format.tensors(source.columns).map(({ suffix, type, columns }) => ({
      name: name + suffix,
      type,
      dims: [...leading, columns],
      bytes: source.rows * columns * bytesPerElement(type),
      slabs,
    }));
    this.matrices.push({ source, format, tensors });
    return tensors;
  }

  /** Every stored tensor, in order. @returns A new list. */
  tensors(): StoredTensor[] {
    return this.matrices.flatMap((matrix) => matrix.tensors);
  }
}

/**
 * Bytes of the largest tensor that a matrix would be stored as.
 *
 * @param rows Its rows.
 * @param columns Its columns.
 * @param format How it would be stored.
 * @returns Bytes.
 */
export function largestTensorBytes(rows: number, columns: number, format: MatrixFormat): number {
  return Math.max(
    ...format.tensors(columns).map((tensor) =>
      rows * tensor.columns * bytesPerElement(tensor.type)
    ),
  );
}
