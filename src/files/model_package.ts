/**
 * A package: the folder that the exporter writes and every backend opens. What is read is compared with
 * the hashes of its manifest.
 * @module
 */
import { InvalidFileError } from "../errors.ts";
import {
  CHUNK_BYTES,
  type Manifest,
  MANIFEST_NAME,
  type ManifestFile,
  parseManifest,
} from "./manifest.ts";
import type { FileSource } from "./file_source.ts";
import { type ModelLocation, openSource } from "./open_source.ts";
import { sha256, toHex } from "../sha256.ts";

/** Chunks that are kept because the next read may want the rest of them. */
const KEPT_CHUNKS = 3;

/** Pieces that are asked for at once. */
const PIECES_TOGETHER = 64;

/** How a package is opened. */
export interface OpenPackageOptions {
  /** Compare what is read with the manifest's hashes; true by default. */
  verify?: boolean;
  /** Stops reading. */
  signal?: AbortSignal;
}

/** An open package. */
export class ModelPackage {
  /** What it is made of. */
  readonly manifest: Manifest;
  readonly #source: FileSource;
  readonly #options: OpenPackageOptions;
  readonly #files: ReadonlyMap<string, ManifestFile>;
  readonly #chunks = new Map<string, Uint8Array<ArrayBuffer>>();
  /** Slabs that have been compared with their hashes. */
  readonly #comparedSlabs = new Set<string>();

  private constructor(source: FileSource, manifest: Manifest, options: OpenPackageOptions) {
    this.manifest = manifest;
    this.#source = source;
    this.#options = options;
    this.#files = new Map(manifest.files.map((file) => [file.name, file]));
  }

  /**
   * Opens a package.
   *
   * @param location Where it is.
   * @param options Verification, abort.
   * @returns The package; only its manifest has been read.
   * @throws {InvalidFileError} If there is none or its manifest is malformed.
   */
  static async open(
    location: ModelLocation,
    options: OpenPackageOptions = {},
  ): Promise<ModelPackage> {
    const source = openSource(location);
    try {
      const bytes = await source.readAll(MANIFEST_NAME, options.signal).catch((cause) => {
        if (cause?.code !== "not_found") throw cause;
        throw new InvalidFileError(
          source.address,
          `Cannot open ${source.address}: it has no ${MANIFEST_NAME}, so it is no package; make one of ` +
            "a checkpoint with `hybridseek export <checkpoint> <package>`.",
          { cause, code: "not_found" },
        );
      });
      const address = `${source.address} ${MANIFEST_NAME}`;
      const manifest = parseManifest(address, new TextDecoder().decode(bytes));
      return new ModelPackage(source, manifest, options);
    } catch (error) {
      await source.close();
      throw error;
    }
  }

  /** Whether what is read is compared with the manifest's hashes. */
  get verifies(): boolean {
    return this.#options.verify !== false;
  }

  /** The folder or address. */
  get address(): string {
    return this.#source.address;
  }

  /** Whether it has a file. @param name The file. @returns True if the manifest names it. */
  has(name: string): boolean {
    return this.#files.has(name);
  }

  /**
   * The path of a file, for native libraries.
   *
   * @param name The file.
   * @returns Its path; `undefined` where the package is not on a disk.
   */
  path(name: string): string | undefined {
    return this.#source.path(name);
  }

  /**
   * Reads a part of a file.
   *
   * @param name The file.
   * @param offset First byte.
   * @param length How many bytes.
   * @returns These bytes, owned by the caller.
   * @throws {InvalidFileError} If it is missing, shorter, or not what was exported.
   */
  async read(name: string, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    this.checkRange(name, offset, length);
    const file = this.#file(name);
    if (!this.verifies) {
      return await this.#source.read(name, offset, length, this.#options.signal);
    }
    // The last chunk first: a file shorter than its manifest says is refused before memory is taken.
    if (length > 0) await this.#chunk(file, Math.floor((offset + length - 1) / CHUNK_BYTES));
    const result = new Uint8Array(length);
    for (let position = offset; position < offset + length;) {
      const index = Math.floor(position / CHUNK_BYTES);
      const chunk = await this.#chunk(file, index);
      const from = position - index * CHUNK_BYTES;
      const piece = chunk.subarray(from, from + offset + length - position);
      result.set(piece, position - offset);
      position += piece.length;
    }
    return result;
  }

  /**
   * Reads a chunk of a file. Several may be read at once; nothing is kept.
   *
   * @param name The file.
   * @param index The chunk.
   * @param wanted How many of its bytes are wanted at least.
   * @param into Room for a chunk; may be shared memory.
   * @param hash Hashes what is there.
   * @throws {InvalidFileError} If it is missing, shorter, or not what was exported.
   */
  async readChunk(
    name: string,
    index: number,
    wanted: number,
    into: Uint8Array,
    hash: (bytes: Uint8Array) => Promise<Uint8Array>,
  ): Promise<void> {
    const file = this.#file(name);
    const offset = index * CHUNK_BYTES;
    this.checkRange(name, offset, wanted);
    const bytes = this.verifies ? Math.min(CHUNK_BYTES, file.bytes - offset) : wanted;
    const chunk = into.subarray(0, bytes);
    await this.#source.readInto(name, offset, chunk, this.#options.signal);
    if (this.verifies) this.#compare(name, offset, await hash(chunk), file.sha256[index]!);
  }

  /**
   * Reads a slab of a tensor that is made of equal ones. It is compared with its hash when it is read for
   * the first time. Several may be read at once; nothing is kept.
   *
   * @param tensor Where the tensor is.
   * @param index The slab.
   * @param into Filled with the slab; may be shared memory.
   * @param signal Stops the reading.
   * @throws {InvalidFileError} If it is missing, shorter, or not what was exported.
   */
  async readSlab(
    tensor: { name: string; file: string; offset: number },
    index: number,
    into: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const { name, file } = tensor;
    const offset = tensor.offset + index * into.length;
    this.checkRange(file, offset, into.length);
    const key = `${index} ${name}`;
    if (!this.verifies || this.#comparedSlabs.has(key)) {
      return await this.#source.readInto(file, offset, into, signal);
    }
    const slabs = Object.hasOwn(this.manifest.slabs, name) ? this.manifest.slabs[name] : undefined;
    const fits = slabs?.file === file && slabs.offset === tensor.offset &&
      slabs.slabBytes === into.length;
    const want = fits ? slabs.sha256[index] : undefined;
    if (want === undefined) {
      throw new InvalidFileError(
        file,
        `Cannot read slab ${index} of ${name} in ${this.address}: ${MANIFEST_NAME} has no hash of it; ` +
          "export the package again, or open it with { verify: false }.",
      );
    }
    const slab = new Uint8Array(into.length); // hashes are not taken of shared memory
    await this.#source.readInto(file, offset, slab, signal);
    this.#compare(file, offset, await sha256(slab), want);
    this.#comparedSlabs.add(key);
    into.set(slab);
  }

  /**
   * Reads equal pieces that lie at equal distances. They are not compared with hashes, which are of whole chunks.
   *
   * @param name The file.
   * @param pieces First byte, how many pieces, bytes of one, and from one to the next.
   * @returns The pieces, one behind the other, owned by the caller.
   * @throws {InvalidFileError} If the file is missing or shorter.
   */
  async readPieces(
    name: string,
    { offset, rows, bytes, stride }: {
      offset: number;
      rows: number;
      bytes: number;
      stride: number;
    },
  ): Promise<Uint8Array<ArrayBuffer>> {
    this.checkRange(name, offset, (rows - 1) * stride + bytes);
    const result = new Uint8Array(rows * bytes);
    for (let begin = 0; begin < rows; begin += PIECES_TOGETHER) {
      const together = Math.min(PIECES_TOGETHER, rows - begin);
      await Promise.all(Array.from({ length: together }, (_, i) => {
        const row = begin + i;
        const into = result.subarray(row * bytes, (row + 1) * bytes);
        return this.#source.readInto(name, offset + row * stride, into, this.#options.signal);
      }));
    }
    return result;
  }

  /**
   * Checks that a file has certain bytes, without reading them.
   *
   * @param name The file.
   * @param offset First byte.
   * @param length How many bytes.
   * @throws {InvalidFileError} If the manifest does not name it or it is shorter.
   */
  checkRange(name: string, offset: number, length: number): void {
    const { bytes } = this.#file(name);
    if (offset + length <= bytes) return;
    throw new InvalidFileError(
      name,
      `Cannot read bytes ${offset} to ${offset + length} of ${name} in ${this.address}: it has ` +
        `${bytes}; export the package again.`,
    );
  }

  /** Reads a whole file. @param name The file. @returns Its bytes. See {@linkcode read}. */
  async readAll(name: string): Promise<Uint8Array<ArrayBuffer>> {
    return await this.read(name, 0, this.#file(name).bytes);
  }

  /** Reads a text. @param name The file. @returns Its text. See {@linkcode read}. */
  async readText(name: string): Promise<string> {
    return new TextDecoder().decode(await this.readAll(name));
  }

  /** Compares every chunk of a file with its hash. @param name The file. See {@linkcode read}. */
  async verify(name: string): Promise<void> {
    const file = this.#file(name);
    if (!this.verifies) return;
    for (let index = 0; index < file.sha256.length; index++) await this.#chunk(file, index);
  }

  /** Closes open files. */
  async close(): Promise<void> {
    this.#chunks.clear();
    await this.#source.close();
  }

  #file(name: string): ManifestFile {
    const file = this.#files.get(name);
    if (file) return file;
    throw new InvalidFileError(
      name,
      `Cannot read ${name} in ${this.address}: its ${MANIFEST_NAME} does not name it; export the ` +
        "package again.",
      { code: "not_found" },
    );
  }

  async #chunk(file: ManifestFile, index: number) {
    const { name, bytes } = file;
    const key = `${index} ${name}`;
    const kept = this.#chunks.get(key);
    if (kept) return kept;
    const offset = index * CHUNK_BYTES;
    const length = Math.min(CHUNK_BYTES, bytes - offset);
    const chunk = await this.#source.read(name, offset, length, this.#options.signal);
    this.#compare(name, offset, await sha256(chunk), file.sha256[index]!);
    this.#chunks.set(key, chunk);
    for (const oldest of this.#chunks.keys()) {
      if (this.#chunks.size <= KEPT_CHUNKS) break;
      this.#chunks.delete(oldest);
    }
    return chunk;
  }

  #compare(name: string, offset: number, hash: Uint8Array, want: string): void {
    const is = toHex(hash);
    if (is === want) return;
    throw new InvalidFileError(
      name,
      `Cannot use ${name} in ${this.address}: its bytes from ${offset} on have the sha256 ${is}, ` +
        `not ${want} as exported: the file is damaged; get it anew.`,
    );
  }
}
