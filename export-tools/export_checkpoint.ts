/**
 * Export: a Hugging Face checkpoint folder becomes a package, the folder that every backend opens.
 * @module
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { InvalidArgumentError } from "../src/errors.ts";
import { parseGenerationConfig } from "../src/generation_config.ts";
import { Tokenizer } from "../src/text/tokenizer.ts";
import type { TokenizerConfig } from "../src/text/tokenizer_config.ts";
import { architectureOf } from "./architectures/registry.ts";
import { DecoderBuilder } from "./architectures/decoder_builder.ts";
import { Checkpoint, readJson } from "./checkpoint.ts";
import { recipes, type Weights } from "./quantization/recipe.ts";
import { checkTarget, type ExportProgress, MAX_FILE_BYTES, writePackage } from "./write_package.ts";

export type { ExportProgress } from "./write_package.ts";

/** Copied beside the graph where the checkpoint has them. */
const COMPANIONS =
  /^(config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|(LICENSE|NOTICE)[\w.-]*)$/i;

/** Options of {@linkcode exportCheckpoint}. */
export interface ExportOptions {
  /** Storage of the weights; `int8` by default. */
  weights?: Weights;
  /** Replace a package that is there already; false by default. */
  overwrite?: boolean;
  /** Largest data file, bytes, 4096 to 2^31 - 1 (the default). */
  maxFileBytes?: number;
  /** Told of every piece. */
  onProgress?: (progress: ExportProgress) => void;
  /** Stops the export; nothing stays behind. */
  signal?: AbortSignal;
}

/** What was exported. */
export interface ExportResult {
  /** The package's folder. */
  folder: string;
  /** The family. */
  architecture: string;
  /** Storage of the weights. */
  weights: Weights;
  /** Length of all files. */
  bytes: number;
  /** How many data files. */
  dataFiles: number;
}

/**
 * Exports a checkpoint. The package is written into a folder beside the wanted one and moved there
 * when it is whole: a failed or stopped export leaves nothing that looks complete.
 *
 * @param checkpointFolder Holds config.json and safetensors files.
 * @param packageFolder The folder to be made.
 * @param options Storage, limits, progress.
 * @returns What was exported.
 * @throws {InvalidFileError} If a file of the checkpoint is missing, malformed or of another model.
 * @throws {UnsupportedError} If the architecture or the file format is not supported.
 * @throws {InvalidArgumentError} If an option is out of range or the folder exists.
 */
export async function exportCheckpoint(
  checkpointFolder: string,
  packageFolder: string,
  options: ExportOptions = {},
): Promise<ExportResult> {
  const { weights = "int8", maxFileBytes = MAX_FILE_BYTES } = options;
  checkOptions(weights, maxFileBytes);
  await checkTarget(packageFolder, options.overwrite ?? false);
  const checkpoint = await Checkpoint.open(checkpointFolder);
  try {
    const architecture = architectureOf(checkpoint.config);
    const builder = new DecoderBuilder(checkpoint, { weights, maxTensorBytes: maxFileBytes });
    architecture.build(builder);
    builder.checkAllUsed();
    const companions = await readCompanions(checkpointFolder);
    const metadata = { architecture: architecture.name, weights };
    const written = await writePackage(packageFolder, { builder, metadata, companions }, options);
    return { ...written, architecture: architecture.name, weights };
  } finally {
    await checkpoint.close();
  }
}

function checkOptions(weights: string, maxFileBytes: number) {
  if (!Object.hasOwn(recipes, weights)) {
    throw new InvalidArgumentError(
      "weights",
      `Cannot export: weights is ${JSON.stringify(weights)}, it can be ${
        Object.keys(recipes).join(", ")
      }.`,
    );
  }
  if (!Number.isSafeInteger(maxFileBytes) || maxFileBytes < 4096 || maxFileBytes > MAX_FILE_BYTES) {
    throw new InvalidArgumentError(
      "maxFileBytes",
      `Cannot export: maxFileBytes is ${maxFileBytes}, it can be 4096 to ${MAX_FILE_BYTES}.`,
    );
  }
}

/** The files beside the tensors, read and, those that a model can not be opened without, understood. */
async function readCompanions(folder: string): Promise<Map<string, Uint8Array>> {
  const names = (await readdir(folder)).filter((name) => COMPANIONS.test(name)).sort();
  const files = new Map<string, Uint8Array>();
  for (const name of names) {
    const path = join(folder, name);
    if ((await stat(path)).isFile()) files.set(name, await readFile(path));
  }
  const text = (name: string) => new TextDecoder().decode(files.get(name));
  if (files.has("generation_config.json")) {
    const name = "generation_config.json";
    parseGenerationConfig(join(folder, name), text(name));
  }
  if (files.has("tokenizer.json")) {
    const name = "tokenizer_config.json";
    const config = files.has(name) ? await readJson(folder, name) as TokenizerConfig : {};
    const tokenizer = text("tokenizer.json");
    Tokenizer.fromJson(tokenizer, config).free();
    files.set("tokenizer.json", new TextEncoder().encode(withoutWhiteSpace(tokenizer)));
  }
  return files;
}

/** The same JSON without white space beside its strings, which is half of such a file. */
function withoutWhiteSpace(json: string): string {
  return json.replace(/("(?:[^"\\]|\\.)*")|\s+/g, "$1");
}
