/**
 * Writing the data files: tensors are streamed from the checkpoint row by row, then the files are read
 * back once for their hashes. Memory depends on the width of a row and on the chunk sizes below, never
 * on the size of a tensor.
 * @module
 */
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { InvalidFileError } from "../src/errors.ts";
import { CHUNK_BYTES, type ManifestFile, type ManifestSlabs } from "../src/files/manifest.ts";
import type { DataLayout, PlacedTensor } from "./data_layout.ts";
import type { StoredMatrix } from "./weight_store.ts";
import { readWhole, writeWhole } from "./whole_io.ts";

/** About how many elements are converted at a time. */
const CHUNK_ELEMENTS = 1 << 20;

/** Told of bytes as they are written or hashed; throws to stop. */
export type OnBytes = (bytes: number) => void;

/**
 * Writes all tensors.
 *
 * @param folder Where the files go.
 * @param layout Where each tensor goes.
 * @param matrices Their sources.
 * @param onBytes Told of each piece written.
 * @throws {InvalidFileError} If a number of the checkpoint does not fit the storage format.
 */
export async function writeDataFiles(
  folder: string,
  layout: DataLayout,
  matrices: StoredMatrix[],
  onBytes: OnBytes,
): Promise<void> {
  const places = new Map(layout.tensors.map((place) => [place.tensor, place]));
  const handles: FileHandle[] = [];
  try {
    for (const { name, bytes } of layout.files) {
      const handle = await open(join(folder, name), "wx");
      handles.push(handle);
      await handle.truncate(bytes); // the gaps between tensors read as zeros
    }
    for (const matrix of matrices) {
      const targets = matrix.tensors.map((tensor) => places.get(tensor)!);
      await writeMatrix(matrix, targets, handles, onBytes);
    }
    for (const handle of handles) await handle.sync();
  } finally {
    await Promise.all(handles.map((handle) => handle.close()));
  }
}

async function writeMatrix(
  { source, format, tensors }: StoredMatrix,
  targets: PlacedTensor[],
  handles: FileHandle[],
  onBytes: OnBytes,
) {
  const rowsAtOnce = Math.min(source.rows, Math.ceil(CHUNK_ELEMENTS / source.columns));
  const rowBytes = tensors.map((tensor) => tensor.bytes / source.rows);
  const buffers = rowBytes.map((bytes) => new Uint8Array(bytes * rowsAtOnce));
  for (let begin = 0; begin < source.rows; begin += rowsAtOnce) {
    const end = Math.min(begin + rowsAtOnce, source.rows);
    const rows = await source.read(begin, end);
    const encoded = buffers.map((buffer, i) => buffer.subarray(0, rowBytes[i]! * (end - begin)));
    try {
      format.encode(rows, source.columns, encoded);
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      const name = tensors[0]!.name;
      throw new InvalidFileError(
        name,
        `Cannot store ${name} as ${format.name}: ${cause.message}; choose another --weights, f32 ` +
          "takes every finite number, or get the checkpoint anew.",
        { cause },
      );
    }
    for (const [i, { file, offset }] of targets.entries()) {
      await writeWhole(handles[file]!, encoded[i]!, offset + begin * rowBytes[i]!);
    }
    onBytes(encoded.reduce((sum, bytes) => sum + bytes.length, 0));
  }
}

/**
 * Hashes the files as they lie on the disk.
 *
 * @param folder Where the files are.
 * @param layout What is in them.
 * @param onBytes Told of each piece hashed.
 * @returns sha256 of every chunk of every file, and of every slab of the tensors made of slabs.
 */
export async function hashDataFiles(
  folder: string,
  layout: DataLayout,
  onBytes: OnBytes,
): Promise<{ files: ManifestFile[]; slabs: Record<string, ManifestSlabs> }> {
  const files: ManifestFile[] = [];
  const slabs: Record<string, ManifestSlabs> = {};
  for (const [index, { name, bytes }] of layout.files.entries()) {
    const hashers = layout.tensors
      .filter(({ file, tensor }) => file === index && tensor.slabs > 1)
      .map((place) => new SlabHasher(place));
    const chunks: string[] = [];
    const handle = await open(join(folder, name), "r");
    try {
      const buffer = new Uint8Array(CHUNK_BYTES);
      for (let position = 0; position < bytes; position += CHUNK_BYTES) {
        const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, bytes - position));
        await readWhole(handle, name, chunk, position);
        chunks.push(createHash("sha256").update(chunk).digest("hex"));
        for (const hasher of hashers) hasher.update(chunk, position);
        onBytes(chunk.length);
      }
    } finally {
      await handle.close();
    }
    files.push({ name, bytes, sha256: chunks });
    for (const { place: { tensor, offset }, slabBytes, sha256 } of hashers) {
      slabs[tensor.name] = { file: name, offset, slabBytes, sha256 };
    }
  }
  return { files, slabs };
}

/** Hashes the slabs of one tensor while its file passes by in order. */
class SlabHasher {
  readonly place: PlacedTensor;
  readonly slabBytes: number;
  readonly sha256: string[] = [];
  #current: Hash = createHash("sha256");
  #left: number;

  constructor(place: PlacedTensor) {
    this.place = place;
    this.slabBytes = place.tensor.bytes / place.tensor.slabs;
    this.#left = this.slabBytes;
  }

  update(chunk: Uint8Array, position: number) {
    const { offset, tensor } = this.place;
    let from = Math.max(offset - position, 0);
    const to = Math.min(offset + tensor.bytes - position, chunk.length);
    while (from < to) {
      const count = Math.min(this.#left, to - from);
      this.#current.update(chunk.subarray(from, from + count));
      from += count;
      this.#left -= count;
      if (this.#left === 0) {
        this.sha256.push(this.#current.digest("hex"));
        this.#current = createHash("sha256");
        this.#left = this.slabBytes;
      }
    }
  }
}
