/**
 * Where the files of a package are: a folder, or an address on the web.
 * @module
 */
import { InvalidFileError } from "../errors.ts";
import { FolderSource } from "./folder_source.ts";
import { UrlSource } from "./url_source.ts";

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
 * The source for a location.
 *
 * @param location A folder's path, or a `file:`, `http:` or `https:` address of one.
 * @returns The source; nothing is read yet.
 * @throws {InvalidFileError} If an address is of another kind.
 */
export function openSource(location: string | URL): FileSource {
  // A drive letter is no scheme: schemes have at least two letters here.
  if (typeof location === "string" && !/^[a-z][a-z0-9+.-]+:\/\//i.test(location)) {
    return new FolderSource(location);
  }
  const url = new URL(location);
  if (url.protocol === "http:" || url.protocol === "https:") return new UrlSource(url);
  if (url.protocol === "file:") return new FolderSource(pathOf(url));
  throw new InvalidFileError(
    url.href,
    `Cannot open ${url.href}: packages are opened from folders, file:, http: and https: addresses.`,
  );
}

/** The path of a `file:` address. */
function pathOf(url: URL): string {
  const path = decodeURIComponent(url.pathname);
  return /^\/[a-z]:\//i.test(path) ? path.slice(1) : path; // Windows
}
