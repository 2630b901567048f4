/**
 * A Hugging Face checkpoint folder: config.json and the tensors of its safetensors files.
 * @module
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { InvalidFileError, UnsupportedError } from "../src/errors.ts";
import { ModelConfig } from "./model_config.ts";
import { SafetensorsFile, type TensorEntry } from "./safetensors.ts";
import { decodeFloats, type FloatType, isFloatType } from "./float_codec.ts";

/** A matrix whose rows are read piece by piece, as f32. */
export interface Rows {
  /** How many rows. */
  rows: number;
  /** Elements of a row. */
  columns: number;
  /**
   * Reads rows.
   * @param begin First row.
   * @param end One past the last row.
   * @returns [end - begin, columns], valid until rows of the same checkpoint are read again.
   */
  read(begin: number, end: number): Promise<Float32Array>;
}

/** What a graph is built from: the config and the tensors, of which none is read yet. */
export interface CheckpointTensors {
  /** The folder, for messages. */
  readonly folder: string;
  /** What config.json says. */
  readonly config: ModelConfig;
  /** The names of all tensors. @returns In no particular order. */
  names(): Iterable<string>;
  /**
   * A tensor as rows of f32.
   * @param name Its name.
   * @param shape What the config makes of its shape; all axes but the last become rows.
   * @returns The rows.
   * @throws {InvalidFileError} If it is missing, has another shape, or is not of a float type.
   */
  rows(name: string, shape: number[]): Rows;
}

const INDEX = "model.safetensors.index.json";
const SINGLE = "model.safetensors";

/** An open checkpoint. */
export class Checkpoint implements CheckpointTensors {
  /** The folder. */
  readonly folder: string;
  /** What config.json says. */
  readonly config: ModelConfig;
  readonly #files: SafetensorsFile[];
  readonly #tensors = new Map<string, { file: SafetensorsFile; entry: TensorEntry }>();
  readonly #buffers: ReadBuffers = { bytes: new Uint8Array(), floats: new Float32Array() };

  private constructor(folder: string, config: ModelConfig, files: SafetensorsFile[]) {
    this.folder = folder;
    this.config = config;
    this.#files = files;
    for (const file of files) {
      for (const entry of file.tensors.values()) {
        const other = this.#tensors.get(entry.name);
        if (other) {
          throw new InvalidFileError(
            file.path,
            `Cannot read ${folder}: tensor ${entry.name} lies in ${other.file.path} and again in ` +
              `${file.path}; keep the files of one checkpoint only.`,
          );
        }
        this.#tensors.set(entry.name, { file, entry });
      }
    }
  }

  /**
   * Opens a checkpoint.
   *
   * @param folder Holds config.json and model.safetensors, or model.safetensors.index.json with the
   *   files it names.
   * @returns The open checkpoint; the caller closes it.
   * @throws {InvalidFileError} If a file is missing or malformed.
   * @throws {UnsupportedError} If the checkpoint has PyTorch .bin files only.
   */
  static async open(folder: string): Promise<Checkpoint> {
    const config = new ModelConfig(
      join(folder, "config.json"),
      await readJson(folder, "config.json"),
    );
    const names = await tensorFiles(folder);
    const files: SafetensorsFile[] = [];
    try {
      for (const name of names) files.push(await SafetensorsFile.open(join(folder, name)));
      return new Checkpoint(folder, config, files);
    } catch (error) {
      await Promise.all(files.map((file) => file.close()));
      throw error;
    }
  }

  /** See {@linkcode CheckpointTensors.names}. */
  names(): Iterable<string> {
    return this.#tensors.keys();
  }

  /** See {@linkcode CheckpointTensors.rows}. */
  rows(name: string, shape: number[]): Rows {
    const { file, entry } = this.#find(name);
    if (entry.shape.join() !== shape.join()) {
      throw new InvalidFileError(
        file.path,
        `Cannot use tensor ${name}: its shape is [${entry.shape}], but ${this.config.path} makes it ` +
          `[${shape}]; config.json and the tensors must be of one model.`,
      );
    }
    if (!isFloatType(entry.type)) {
      throw new InvalidFileError(
        file.path,
        `Cannot use tensor ${name}: its type is ${entry.type}, needed is F32, F16 or BF16; export from ` +
          "the original, unquantized checkpoint.",
      );
    }
    return new TensorRows(file, entry, entry.type, this.#buffers);
  }

  /** Closes all files. */
  async close(): Promise<void> {
    await Promise.all(this.#files.map((file) => file.close()));
  }

  #find(name: string): { file: SafetensorsFile; entry: TensorEntry } {
    const found = this.#tensors.get(name);
    if (found) return found;
    throw new InvalidFileError(
      this.folder,
      `Cannot find tensor ${name} in ${this.folder}: the ${this.#files.length} safetensors files hold ` +
        `${this.#tensors.size} others; download the missing files, or check that config.json is of ` +
        "this model.",
    );
  }
}

/** What rows are read into; all tensors of a checkpoint share it, grown to the largest piece. */
interface ReadBuffers {
  bytes: Uint8Array;
  floats: Float32Array;
}

class TensorRows implements Rows {
  readonly rows: number;
  readonly columns: number;
  readonly #file: SafetensorsFile;
  readonly #entry: TensorEntry;
  readonly #type: FloatType;
  readonly #buffers: ReadBuffers;

  constructor(file: SafetensorsFile, entry: TensorEntry, type: FloatType, buffers: ReadBuffers) {
    this.columns = entry.shape.at(-1) ?? 1;
    this.rows = entry.shape.slice(0, -1).reduce((product, size) => product * size, 1);
    this.#file = file;
    this.#entry = entry;
    this.#type = type;
    this.#buffers = buffers;
  }

  async read(begin: number, end: number): Promise<Float32Array> {
    const rowBytes = this.#entry.bytes / this.rows;
    const byteCount = (end - begin) * rowBytes;
    const count = (end - begin) * this.columns;
    const buffers = this.#buffers;
    if (buffers.bytes.length < byteCount) buffers.bytes = new Uint8Array(byteCount);
    if (buffers.floats.length < count) buffers.floats = new Float32Array(count);
    const bytes = buffers.bytes.subarray(0, byteCount);
    const floats = buffers.floats.subarray(0, count);
    await this.#file.read(bytes, this.#entry.offset + begin * rowBytes);
    decodeFloats(this.#type, bytes, floats);
    return floats;
  }
}

/** The safetensors files of a folder, by the index where there is one. */
async function tensorFiles(folder: string): Promise<string[]> {
  const present = await readdir(folder);
  if (present.includes(INDEX)) {
    const index = await readJson(folder, INDEX) as Record<string, unknown> | null;
    const map = index?.weight_map;
    const names = typeof map === "object" && map !== null ? Object.values(map) : [];
    if (
      names.length === 0 || !names.every((name) => typeof name === "string" && isPlainName(name))
    ) {
      throw new InvalidFileError(
        join(folder, INDEX),
        `Cannot read ${
          join(folder, INDEX)
        }: its weight_map must name files of the folder; get the ` +
          "file anew.",
      );
    }
    return [...new Set(names as string[])].sort();
  }
  if (present.includes(SINGLE)) return [SINGLE];
  const bins = present.filter((name) => /\.(bin|pt|pth)$/.test(name));
  if (bins.length > 0) {
    throw new UnsupportedError(
      `Cannot read ${
        bins[0]
      } in ${folder}: PyTorch files can run code when they are opened, so only ` +
        'safetensors are read. Convert once with: python -c "from transformers import ' +
        "AutoModelForCausalLM as M; M.from_pretrained('" + folder +
        "', torch_dtype='auto').save_pretrained('" + folder + "-safetensors')\"",
    );
  }
  throw new InvalidFileError(
    folder,
    `Cannot find ${SINGLE} or ${INDEX} in ${folder}: it holds ${present.length} other files; give the ` +
      "folder of a downloaded Hugging Face checkpoint.",
    { code: "not_found" },
  );
}

/** A file of the folder itself: no separators, no parent. */
function isPlainName(name: string): boolean {
  return name !== "" && name !== "." && name !== ".." && !/[/\\\0]/.test(name);
}

/**
 * Reads a JSON file.
 *
 * @param folder Where it lies.
 * @param name Its name.
 * @returns The value.
 * @throws {InvalidFileError} If it is missing or no JSON.
 */
export async function readJson(folder: string, name: string): Promise<unknown> {
  const path = join(folder, name);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw new InvalidFileError(path, `Cannot open ${path}: ${(cause as Error).message}.`, {
      code: "not_found",
      cause,
    });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new InvalidFileError(
      path,
      `Cannot read ${path}: it is no JSON (${(cause as Error).message}); get the file anew.`,
      { cause },
    );
  }
}
