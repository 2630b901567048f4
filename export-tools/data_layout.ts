/**
 * Where each tensor lies in the data files of a package.
 * @module
 */
import type { StoredTensor } from "./weight_store.ts";

/** Tensors begin at multiples of this, so that they can be mapped into memory as they are, bytes. */
export const ALIGNMENT = 4096;

/** A tensor's place. */
export interface PlacedTensor {
  /** The tensor. */
  tensor: StoredTensor;
  /** Index into the layout's files. */
  file: number;
  /** First byte in the file. */
  offset: number;
}

/** Names and sizes of the data files, and every tensor's place in them. */
export interface DataLayout {
  /** `model-00001-of-00002.data`, ... with their lengths in bytes. */
  files: { name: string; bytes: number }[];
  /** In the order given. */
  tensors: PlacedTensor[];
}

/**
 * Places tensors one after the other, in a new file whenever the next does not fit.
 *
 * @param tensors In the order of their use.
 * @param maxFileBytes Largest file, bytes; no tensor may be larger.
 * @returns The layout.
 */
export function layOut(tensors: StoredTensor[], maxFileBytes: number): DataLayout {
  const sizes: number[] = [];
  const placed = tensors.map((tensor) => {
    let offset = Math.ceil((sizes.at(-1) ?? 0) / ALIGNMENT) * ALIGNMENT;
    if (sizes.length === 0 || offset + tensor.bytes > maxFileBytes) {
      sizes.push(0);
      offset = 0;
    }
    sizes[sizes.length - 1] = offset + tensor.bytes;
    return { tensor, file: sizes.length - 1, offset };
  });
  const number = (value: number) => String(value).padStart(5, "0");
  const files = sizes.map((bytes, i) => ({
    name: `model-${number(i + 1)}-of-${number(sizes.length)}.data`,
    bytes,
  }));
  return { files, tensors: placed };
}
