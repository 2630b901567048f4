/**
 * Reading safetensors files: the header is checked in full before any tensor is read.
 *
 * The rules of the format (huggingface/safetensors, README): 8 bytes little-endian header length, a
 * JSON object without duplicate keys, tensors that cover the rest of the file without gap or overlap.
 * @module
 */
import { type FileHandle, open, stat } from "node:fs/promises";
import { InvalidFileError } from "../src/errors.ts";
import { readWhole } from "./whole_io.ts";

/** Element types of safetensors that this library reads, with their bytes. */
const ELEMENT_BYTES: Record<string, number> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  U32: 4,
  U64: 8,
};
/** Largest header that the format allows, bytes. */
const MAX_HEADER_BYTES = 100_000_000;

/** Where a tensor lies. */
export interface TensorEntry {
  /** Its name. */
  name: string;
  /** Element type in the format's spelling, for example `BF16`. */
  type: string;
  /** Sizes of the axes. */
  shape: number[];
  /** First byte, counted from the start of the file. */
  offset: number;
  /** Length in bytes. */
  bytes: number;
}

/** An open safetensors file. */
export class SafetensorsFile {
  /** The file's path. */
  readonly path: string;
  /** Every tensor by name. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly #handle: FileHandle;

  private constructor(path: string, tensors: Map<string, TensorEntry>, handle: FileHandle) {
    this.path = path;
    this.tensors = tensors;
    this.#handle = handle;
  }

  /**
   * Opens a file and checks its header.
   *
   * @param path The file.
   * @returns The open file; the caller closes it.
   * @throws {InvalidFileError} If the file is missing or breaks a rule of the format.
   */
  static async open(path: string): Promise<SafetensorsFile> {
    const notFound = (cause: Error): never => {
      throw new InvalidFileError(path, `Cannot open ${path}: ${cause.message}.`, {
        code: "not_found",
        cause,
      });
    };
    // Asked before opening: a pipe would wait for a writer.
    if (!(await stat(path).catch(notFound)).isFile()) fail(path, "it is no file");
    const handle = await open(path, "r").catch(notFound);
    try {
      const { size } = await handle.stat();
      const prefix = new Uint8Array(8);
      if (size < 8) fail(path, `it has ${size} bytes, too few for the 8 of the header's length`);
      await readWhole(handle, path, prefix, 0);
      const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
      if (length > MAX_HEADER_BYTES) {
        fail(path, `its header claims ${length} bytes, above the format's ${MAX_HEADER_BYTES}`);
      }
      if (8 + length > size) {
        fail(path, `its header claims ${length} bytes, but the file has ${size}: it is truncated`);
      }
      const header = new Uint8Array(length);
      await readWhole(handle, path, header, 8);
      return new SafetensorsFile(path, parseHeader(path, header, 8 + length, size), handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /**
   * Reads a part of the file.
   *
   * @param into Filled whole.
   * @param offset First byte, from the start of the file.
   * @throws {InvalidFileError} If the file ends before (it changed since it was opened).
   */
  async read(into: Uint8Array, offset: number): Promise<void> {
    await readWhole(this.#handle, this.path, into, offset);
  }

  /** Closes the file. */
  async close(): Promise<void> {
    await this.#handle.close();
  }
}

function parseHeader(path: string, bytes: Uint8Array, dataStart: number, fileSize: number) {
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (cause) {
    fail(path, `its header is no JSON (${(cause as Error).message})`, cause);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    fail(path, "its header is no JSON object");
  }
  const entries = Object.entries(header);
  const keys = topLevelKeyCount(text!);
  if (keys !== entries.length) fail(path, `its header names ${keys - entries.length} keys twice`);
  const tensors = new Map<string, TensorEntry>();
  for (const [name, value] of entries) {
    if (name !== "__metadata__") {
      tensors.set(name, parseEntry(path, name, value, dataStart, fileSize));
    }
  }
  checkCoverage(path, [...tensors.values()], dataStart, fileSize);
  return tensors;
}

function parseEntry(
  path: string,
  name: string,
  value: unknown,
  dataStart: number,
  fileSize: number,
): TensorEntry {
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
  if (typeof dtype !== "string" || !Object.hasOwn(ELEMENT_BYTES, dtype)) {
    fail(path, `tensor ${name} has the unknown dtype ${JSON.stringify(dtype)}`);
  }
  if (!isSizeList(shape)) fail(path, `tensor ${name} has the shape ${JSON.stringify(shape)}`);
  if (!isSizeList(offsets) || offsets.length !== 2 || offsets[1]! < offsets[0]!) {
    fail(path, `tensor ${name} has the data_offsets ${JSON.stringify(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  const needed = shape.reduce((product, size) => product * size, ELEMENT_BYTES[dtype]!);
  if (needed !== end - begin) {
    fail(
      path,
      `tensor ${name}, ${dtype} [${shape}], takes ${needed} bytes but spans ${end - begin}`,
    );
  }
  if (dataStart + end > fileSize) {
    fail(
      path,
      `tensor ${name} ends at byte ${dataStart + end}, the file at ${fileSize}: it is truncated`,
    );
  }
  return { name, type: dtype, shape, offset: dataStart + begin, bytes: end - begin };
}

function checkCoverage(path: string, entries: TensorEntry[], dataStart: number, fileSize: number) {
  let position = dataStart;
  for (const { name, offset, bytes } of entries.sort((a, b) => a.offset - b.offset)) {
    if (offset < position) fail(path, `tensor ${name} overlaps the one before it`);
    if (offset > position) {
      fail(path, `${offset - position} bytes before tensor ${name} are unused`);
    }
    position = offset + bytes;
  }
  if (position !== fileSize) {
    fail(path, `${fileSize - position} bytes after the last tensor are unused`);
  }
}

function isSizeList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Keys of a JSON object's first level, duplicates counted, which `JSON.parse` hides. */
function topLevelKeyCount(json: string): number {
  let depth = 0;
  let count = 0;
  for (let i = 0; i < json.length; i++) {
    const character = json[i];
    if (character === '"') {
      do i++; while (json[i] !== '"' && (json[i] !== "\\" || ++i));
      // A key is a string that a colon follows.
      let next = i + 1;
      while (" \t\r\n".includes(json[next] ?? "x")) next++;
      if (depth === 1 && json[next] === ":") count++;
    } else if (character === "{" || character === "[") depth++;
    else if (character === "}" || character === "]") depth--;
  }
  return count;
}

function fail(path: string, what: string, cause?: unknown): never {
  const wayOut = "get the file anew; its length and sha256 stand on the model's page";
  throw new InvalidFileError(path, `Cannot read ${path}: ${what}; ${wayOut}.`, { cause });
}
