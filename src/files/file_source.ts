/**
 * The contract of places that files are read from.
 * @module
 */
import { InvalidFileError } from "../errors.ts";

/** Files that can be read in part. */
export interface FileSource {
  /** The folder or address, for messages. */
  readonly address: string;
  /**
   * Reads a part of a file.
   * @param name The file.
   * @param offset First byte.
   * @param length How many bytes.
   * @param signal Stops the reading.
   * @returns Exactly these bytes, owned by the caller.
   * @throws {InvalidFileError} If the file is missing or shorter.
   */
  read(
    name: string,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>>;
  /**
   * Reads a part of a file into memory that is there already.
   * @param name The file.
   * @param offset First byte.
   * @param into Filled; may be shared memory.
   * @param signal Stops the reading.
   * @throws {InvalidFileError} If the file is missing or shorter.
   */
  readInto(name: string, offset: number, into: Uint8Array, signal?: AbortSignal): Promise<void>;
  /**
   * Reads a whole file.
   * @param name The file.
   * @param signal Stops the reading.
   * @returns Its bytes, owned by the caller.
   * @throws {InvalidFileError} If it is missing.
   */
  readAll(name: string, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;
  /**
   * The file's path, for native libraries.
   * @param name The file.
   * @returns Its path; `undefined` where it is not on a disk.
   */
  path(name: string): string | undefined;
  /** Closes open files. */
  close(): Promise<void>;
}

/**
 * What a read beyond a file's end throws.
 *
 * @param address The file.
 * @param size How long it is.
 * @param end How long it must be.
 * @returns The error.
 */
export function truncated(address: string, size: number, end: number): InvalidFileError {
  return new InvalidFileError(
    address,
    `Cannot read ${address}: it ends at byte ${size}, before ${end}: it is truncated; get the file anew.`,
  );
}
