/**
 * Where the files of a package are: a folder, or an address on the web.
 * @module
 */
import { InvalidArgumentError, InvalidFileError } from "../errors.ts";
import type { FileSource } from "./file_source.ts";
import { FolderSource } from "./folder_source.ts";
import { UrlSource } from "./url_source.ts";

/**
 * The source for a location.
 *
 * @param location A folder's path, or a `file:`, `http:` or `https:` address of one.
 * @returns The source; nothing is read yet.
 * @throws {InvalidFileError} If an address is of another kind.
 * @throws {InvalidArgumentError} If it is neither a path nor an address.
 */
export function openSource(location: string | URL): FileSource {
  // A drive letter is no scheme: schemes have at least two letters here.
  if (typeof location === "string" && !/^[a-z][a-z0-9+.-]+:\/\//i.test(location)) {
    return new FolderSource(location);
  }
  const url = addressOf(location);
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
