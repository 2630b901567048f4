/**
 * Files of a folder that a browser has a handle of: in the origin's private file system, or one that its user
 * has picked. They are read by ranges.
 * @module
 */
import { InvalidFileError } from "../errors.ts";
import { type FileSource, truncated } from "./file_source.ts";

/** A folder, as browsers hand it out; what is used of a `FileSystemDirectoryHandle`. */
export interface DirectoryHandle {
  /** Its name; empty for the root of the origin's private file system. */
  readonly name: string;
  /** A file of the folder, as it is now. */
  getFileHandle(name: string): Promise<{ getFile(): Promise<Blob> }>;
}

/** A folder behind a handle. */
export class HandleSource implements FileSource {
  /** Its name. */
  readonly address: string;
  readonly #folder: DirectoryHandle;
  readonly #files = new Map<string, Promise<Blob>>();

  /** @param folder The handle. */
  constructor(folder: DirectoryHandle) {
    this.#folder = folder;
    this.address = folder.name || "the private file system";
  }

  /** See {@linkcode FileSource.read}. */
  async read(
    name: string,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const file = await this.#file(name);
    const end = offset + length;
    if (end > file.size) throw truncated(`${this.address}/${name}`, file.size, end);
    signal?.throwIfAborted();
    try {
      return new Uint8Array(await file.slice(offset, end).arrayBuffer());
    } catch (cause) {
      this.#fail(name, (cause as Error).message, cause);
    }
  }

  /** See {@linkcode FileSource.readInto}. */
  async readInto(
    name: string,
    offset: number,
    into: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    into.set(await this.read(name, offset, into.length, signal));
  }

  /** See {@linkcode FileSource.readAll}. */
  async readAll(name: string, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const { size } = await this.#file(name);
    return await this.read(name, 0, size, signal);
  }

  /** What is behind a handle has no path. @returns `undefined`. */
  path(_name: string): undefined {
    return undefined;
  }

  /** Nothing stays open. */
  close(): Promise<void> {
    this.#files.clear();
    return Promise.resolve();
  }

  #file(name: string): Promise<Blob> {
    let file = this.#files.get(name);
    if (!file) {
      file = this.#openFile(name);
      this.#files.set(name, file);
    }
    return file;
  }

  async #openFile(name: string): Promise<Blob> {
    try {
      return await (await this.#folder.getFileHandle(name)).getFile();
    } catch (cause) {
      const missing = (cause as Error).name === "NotFoundError";
      const what = missing ? "it does not exist" : (cause as Error).message;
      this.#fail(name, what, cause, missing ? "not_found" : "invalid_file");
    }
  }

  #fail(name: string, what: string, cause?: unknown, code?: "not_found" | "invalid_file"): never {
    const address = `${this.address}/${name}`;
    const message = `Cannot read ${address}: ${what}; get the file anew.`;
    throw new InvalidFileError(address, message, { cause, code });
  }
}
