/**
 * Files of a folder on this machine, through `node:fs`, which Deno, Node and Bun have. It is loaded
 * when a folder is opened and not before: browsers and edge workers never see it.
 * @module
 */
import { InvalidFileError, UnsupportedError } from "../errors.ts";
import { type FileSource, truncated } from "./file_source.ts";

/** What is used of an open file of `node:fs/promises`. */
interface OpenFile {
  read(
    into: Uint8Array,
    offset: number,
    length: number,
    position: number,
  ): Promise<{ bytesRead: number }>;
  stat(): Promise<{ size: number }>;
  close(): Promise<void>;
}

/** What is used of `node:fs/promises`. */
interface FileSystem {
  open(path: string, flags: "r"): Promise<OpenFile>;
  realpath(path: string): Promise<string>;
  stat(path: string): Promise<{ isFile(): boolean }>;
}

/** Not written into the import, so that bundlers for browsers leave it alone. */
const FILE_SYSTEM = "node:fs/promises";

/** Whether this runtime reads into shared memory: Deno and Node do; the first such read tells. */
let readsIntoShared = true;

/** A folder. */
export class FolderSource implements FileSource {
  /** Its path. */
  readonly address: string;
  readonly #open = new Map<string, Promise<OpenFile>>();

  /** @param path Its path. */
  constructor(path: string) {
    this.address = path;
  }

  /** See {@linkcode FileSource.read}. */
  async read(
    name: string,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const file = await this.#file(name);
    const { size } = await file.stat();
    if (offset + length > size) throw truncated(this.path(name), size, offset + length);
    const bytes = new Uint8Array(length);
    await this.readInto(name, offset, bytes, signal);
    return bytes;
  }

  /** See {@linkcode FileSource.readInto}. */
  async readInto(
    name: string,
    offset: number,
    into: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const file = await this.#file(name);
    const { length } = into;
    for (let done = 0; done < length;) {
      signal?.throwIfAborted();
      const { bytesRead } = await readSome(file, into.subarray(done), offset + done);
      if (bytesRead === 0) throw truncated(this.path(name), offset + done, offset + length);
      done += bytesRead;
    }
  }

  /** See {@linkcode FileSource.readAll}. */
  async readAll(name: string, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const { size } = await (await this.#file(name)).stat();
    return await this.read(name, 0, size, signal);
  }

  /** The path of a file. @param name The file. @returns Its path. */
  path(name: string): string {
    return this.address.endsWith("/") ? this.address + name : `${this.address}/${name}`;
  }

  /** Closes all files. */
  async close(): Promise<void> {
    const files = [...this.#open.values()];
    this.#open.clear();
    const opened = await Promise.allSettled(files);
    await Promise.all(opened.map((file) => file.status === "fulfilled" && file.value.close()));
  }

  #file(name: string): Promise<OpenFile> {
    let file = this.#open.get(name);
    if (!file) {
      file = this.#openFile(name);
      this.#open.set(name, file);
    }
    return file;
  }

  async #openFile(name: string): Promise<OpenFile> {
    const system = await fileSystem();
    const path = this.path(name);
    try {
      const [folder, real] = await Promise.all([
        system.realpath(this.address),
        system.realpath(path),
      ]);
      // A symbolic link may point anywhere; what is opened must lie in the folder.
      if (!real.startsWith(folder) || !/^[/\\][^/\\]+$/.test(real.slice(folder.length))) {
        throw new InvalidFileError(
          path,
          `Cannot read ${path}: it is a link to ${real}, outside of the package; copy the file into ` +
            "the folder.",
        );
      }
      // Asked before opening: a pipe would wait for a writer.
      if (!(await system.stat(real)).isFile()) {
        throw new InvalidFileError(path, `Cannot read ${path}: it is no file; get the file anew.`);
      }
      return await system.open(real, "r");
    } catch (cause) {
      if (cause instanceof InvalidFileError) throw cause;
      const missing = (cause as { code?: string }).code === "ENOENT";
      throw new InvalidFileError(
        path,
        `Cannot open ${path}: ${missing ? "it does not exist" : (cause as Error).message}.`,
        { cause, code: missing ? "not_found" : "invalid_file" },
      );
    }
  }
}

async function readSome(
  file: OpenFile,
  into: Uint8Array,
  position: number,
): Promise<{ bytesRead: number }> {
  const shared = !(into.buffer instanceof ArrayBuffer);
  if (!shared || readsIntoShared) {
    try {
      return await file.read(into, 0, into.length, position);
    } catch (error) {
      if (!shared || !(error instanceof TypeError)) throw error;
      readsIntoShared = false;
    }
  }
  const copy = new Uint8Array(into.length);
  const { bytesRead } = await file.read(copy, 0, copy.length, position);
  into.set(copy.subarray(0, bytesRead));
  return { bytesRead };
}

async function fileSystem(): Promise<FileSystem> {
  try {
    return await import(FILE_SYSTEM) as FileSystem;
  } catch (cause) {
    throw new UnsupportedError(
      "Cannot open a folder: this runtime has no file system; open the package from an https: address.",
      { cause },
    );
  }
}
