/**
 * manifest.json of a package: which files it is made of and their hashes.
 * @module
 */
import { InvalidFileError } from "../errors.ts";
import { sha256, toHex } from "../sha256.ts";

/** Data files are hashed in chunks of this size, the last one shorter, bytes. */
export const CHUNK_BYTES: number = 8 * 1024 * 1024;

/** Name of the manifest in a package. It is written last: a folder without it is no package. */
export const MANIFEST_NAME = "manifest.json";

/** A file of a package. */
export interface ManifestFile {
  /** Its name, in the package's folder. */
  name: string;
  /** Its length. */
  bytes: number;
  /** Hex sha256 of each chunk of {@linkcode CHUNK_BYTES}. */
  sha256: string[];
}

/** A tensor made of equal slabs (experts) that can be read and checked one at a time. */
export interface ManifestSlabs {
  /** The data file. */
  file: string;
  /** First byte of the first slab. */
  offset: number;
  /** Length of each slab; they follow one another. */
  slabBytes: number;
  /** Hex sha256 of each slab. */
  sha256: string[];
}

/** What manifest.json holds. */
export interface Manifest {
  /** Version of this layout. */
  version: 1;
  /** Every file of the package but the manifest. */
  files: ManifestFile[];
  /** Tensors made of slabs, by their names in the graph. */
  slabs: Record<string, ManifestSlabs>;
}

/**
 * Reads a manifest.
 *
 * @param file Its address, for messages.
 * @param text Its text.
 * @returns The manifest, its shape checked.
 * @throws {InvalidFileError} If it is no manifest of a version known here.
 */
export function parseManifest(file: string, text: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    fail(file, `it is no JSON (${(cause as Error).message})`, cause);
  }
  const { version, files, slabs } = (value ?? {}) as Record<string, unknown>;
  if (version !== 1) fail(file, `its version is ${JSON.stringify(version)}, known is 1`);
  if (!Array.isArray(files) || !files.every(isManifestFile)) {
    fail(file, "its list of files is malformed");
  }
  if (typeof slabs !== "object" || slabs === null || !Object.values(slabs).every(isSlabs)) {
    fail(file, "its list of slabs is malformed");
  }
  return value as Manifest;
}

/**
 * What tells a package from all others.
 *
 * @param manifest Its manifest.
 * @returns Hex sha256 of the manifest.
 */
export async function identityOf(manifest: Manifest): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify(manifest));
  return toHex(await sha256(bytes));
}

function isManifestFile(value: unknown): value is ManifestFile {
  const { name, bytes, sha256 } = (value ?? {}) as Record<string, unknown>;
  return typeof name === "string" && /^[^/\\]+$/.test(name) && name !== "." && name !== ".." &&
    Number.isSafeInteger(bytes) && (bytes as number) >= 0 && isHashList(sha256) &&
    sha256.length === Math.ceil((bytes as number) / CHUNK_BYTES);
}

function isSlabs(value: unknown): value is ManifestSlabs {
  const { file, offset, slabBytes, sha256 } = (value ?? {}) as Record<string, unknown>;
  return typeof file === "string" && Number.isSafeInteger(offset) && (offset as number) >= 0 &&
    Number.isSafeInteger(slabBytes) && (slabBytes as number) > 0 && isHashList(sha256);
}

function isHashList(value: unknown): value is string[] {
  return Array.isArray(value) &&
    value.every((hash) => typeof hash === "string" && /^[0-9a-f]{64}$/.test(hash));
}

function fail(file: string, what: string, cause?: unknown): never {
  throw new InvalidFileError(
    file,
    `Cannot read ${file}: ${what}; export the package again, or get the file anew.`,
    { cause },
  );
}
