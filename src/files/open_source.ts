/**
 * Where the files of a package are: a folder, an address on the web, or a folder that a browser has a handle
 * of.
 * @module
 */
import { InvalidArgumentError, InvalidFileError } from "../errors.ts";
import type { FileSource } from "./file_source.ts";
import { FolderSource } from "./folder_source.ts";
import { type DirectoryHandle, HandleSource } from "./handle_source.ts";
import { UrlSource } from "./url_source.ts";

/**
 * Where a package is: a folder's path, a `file:`, `http:` or `https:` address of one, or in a browser the handle
 * of one, for example of `navigator.storage.getDirectory()`.
 */
export type ModelLocation = string | URL | DirectoryHandle;

/**
 * The source for a location.
 *
 * @param location Where the package is.
 * @returns The source; nothing is read yet.
 * @throws {InvalidFileError} If an address is of another kind.
 * @throws {InvalidArgumentError} If it is neither a path, an address nor a handle.
 */
export function openSource(location: ModelLocation): FileSource {
  if (typeof (location as DirectoryHandle)?.getFileHandle === "function") {
    return new HandleSource(location as DirectoryHandle);
  }
  // A drive letter is no scheme: schemes have at least two letters here.
  if (typeof location === "string" && !/^[a-z][a-z0-9+.-]+:\/\//i.test(location)) {
    return new FolderSource(location);
  }
  const url = addressOf(location as string | URL);
  if (url.protocol === "http:" || url.protocol === "https:") return new UrlSource(url);
  if (url.protocol === "file:") return new FolderSource(pathOf(url));
  throw new InvalidFileError(
    url.href,
    `Cannot open ${url.href}: packages are opened from folders, file:, http: and https: addresses.`,
  );
}

function addressOf(location: string | URL): URL {
  try {
    if (typeof location === "string" || location instanceof URL) return new URL(location);
  } catch (cause) {
    malformed(location, cause);
  }
  malformed(location);
}

function malformed(location: unknown, cause?: unknown): never {
  throw new InvalidArgumentError(
    "location",
    `Cannot open ${
      String(location)
    }: it is neither a folder's path nor an address; write an address ` +
      "as https://host/folder/.",
    { cause },
  );
}

/** The path of a `file:` address. */
function pathOf(url: URL): string {
  let path: string;
  try {
    path = decodeURIComponent(url.pathname);
  } catch (cause) {
    malformed(url, cause);
  }
  return /^\/[a-z]:\//i.test(path) ? path.slice(1) : path; // Windows
}
