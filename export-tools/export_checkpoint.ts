/**
 * Export: a Hugging Face checkpoint folder becomes a package, the folder that every backend opens.
 * @module
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { InvalidArgumentError } from "../src/errors.ts";
import {
  CHUNK_BYTES,
  type Manifest,
  MANIFEST_NAME,
  type ManifestFile,
} from "../src/files/manifest.ts";
import { onnxType } from "../src/onnx/data_type.ts";
import { opsetImports } from "../src/onnx/graph_builder.ts";
import {
  type ModelProto,
  ModelProtoSchema,
  TensorProto_DataLocation,
  type TensorProtoSchema,
} from "../src/onnx/onnx_pb.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { parseGenerationConfig } from "../src/generation_config.ts";
import { Tokenizer } from "../src/text/tokenizer.ts";
import type { TokenizerConfig } from "../src/text/tokenizer_config.ts";
import { VERSION } from "../src/version.ts";
import { architectureOf } from "./architectures/registry.ts";
import { DecoderBuilder } from "./architectures/decoder_builder.ts";
import { Checkpoint, readJson } from "./checkpoint.ts";
import { hashDataFiles, writeDataFiles } from "./data_files.ts";
import { type DataLayout, layOut, type PlacedTensor } from "./data_layout.ts";
import { recipes, type Weights } from "./quantization/recipe.ts";

/** Version 11 of the file format is the first that every field used here is in. */
const IR_VERSION = 11n;
/** Version of the step contract that graphs are written for, see ARCHITECTURE.md. */
const CONTRACT = "1";
/** Below 2 GiB, the most that some readers take in one piece. */
const MAX_FILE_BYTES = 2 ** 31 - 1;
/** Copied beside the graph where the checkpoint has them. */
const COMPANIONS =
  /^(config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|(LICENSE|NOTICE)[\w.-]*)$/i;

/** Where an export stands. */
export interface ExportProgress {
  /** Bytes written and hashed so far. */
  doneBytes: number;
  /** Bytes to write and to hash in all. */
  totalBytes: number;
}

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
  const { weights = "int8", maxFileBytes = MAX_FILE_BYTES, signal } = options;
  checkOptions(weights, maxFileBytes);
  const target = resolve(packageFolder);
  await checkTarget(target, options.overwrite ?? false);
  const checkpoint = await Checkpoint.open(checkpointFolder);
  const partial = join(dirname(target), `.${basename(target)}.partial-${crypto.randomUUID()}`);
  try {
    const architecture = architectureOf(checkpoint.config);
    const builder = new DecoderBuilder(checkpoint, { weights, maxTensorBytes: maxFileBytes });
    architecture.build(builder);
    builder.checkAllUsed();
    const layout = layOut(builder.weights.tensors(), maxFileBytes);
    const companions = await readCompanions(checkpointFolder);
    await mkdir(partial, { recursive: true });
    const onBytes = progressCounter(builder, layout, options.onProgress, signal);
    await writeDataFiles(partial, layout, builder.weights.matrices, onBytes);
    const { files, slabs } = await hashDataFiles(partial, layout, onBytes);
    const model = modelProto(builder, layout, { architecture: architecture.name, weights });
    await writeFile(join(partial, "model.onnx"), toBinary(ModelProtoSchema, model));
    for (const [name, bytes] of companions) await writeFile(join(partial, name), bytes);
    for (const name of ["model.onnx", ...companions.keys()]) {
      files.push(await manifestFile(partial, name));
    }
    const manifest: Manifest = { version: 1, files, slabs };
    await writeFile(join(partial, MANIFEST_NAME), JSON.stringify(manifest, null, 1) + "\n");
    signal?.throwIfAborted();
    if (options.overwrite) await rm(target, { recursive: true, force: true });
    await rename(partial, target);
    return {
      folder: target,
      architecture: architecture.name,
      weights,
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      dataFiles: layout.files.length,
    };
  } finally {
    await checkpoint.close();
    await rm(partial, { recursive: true, force: true });
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

/** Refuses to write over anything but, when asked to, an earlier package. */
async function checkTarget(target: string, overwrite: boolean) {
  const present = await readdir(target).catch((error) => {
    if (error.code === "ENOENT") return undefined;
    throw new InvalidArgumentError(
      "packageFolder",
      `Cannot write to ${target}: ${error.message}.`,
      {
        cause: error,
      },
    );
  });
  if (present === undefined) return;
  if (overwrite && (present.includes(MANIFEST_NAME) || present.length === 0)) return;
  const wayOut = present.includes(MANIFEST_NAME)
    ? "choose another folder, or allow it to be replaced (overwrite, --force)"
    : "choose a folder that does not exist";
  throw new InvalidArgumentError(
    "packageFolder",
    `Cannot write to ${target}: the folder exists; ${wayOut}.`,
  );
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
    Tokenizer.fromJson(text("tokenizer.json"), config).free();
  }
  return files;
}

/** Counts bytes for the caller; stops the export when the signal says so. */
function progressCounter(
  builder: DecoderBuilder,
  layout: DataLayout,
  onProgress: ExportOptions["onProgress"],
  signal: AbortSignal | undefined,
): (bytes: number) => void {
  const toWrite = builder.weights.tensors().reduce((sum, tensor) => sum + tensor.bytes, 0);
  const toHash = layout.files.reduce((sum, file) => sum + file.bytes, 0);
  let doneBytes = 0;
  return (bytes) => {
    signal?.throwIfAborted();
    doneBytes += bytes;
    onProgress?.({ doneBytes, totalBytes: toWrite + toHash });
  };
}

function modelProto(
  builder: DecoderBuilder,
  layout: DataLayout,
  metadata: Record<string, string>,
): ModelProto {
  const properties = { contract: CONTRACT, ...metadata };
  return create(ModelProtoSchema, {
    irVersion: IR_VERSION,
    producerName: "hybridseek",
    producerVersion: VERSION,
    opsetImport: opsetImports(),
    functions: builder.functions(),
    metadataProps: Object.entries(properties).map(([key, value]) => ({
      key: `hybridseek.${key}`,
      value,
    })),
    graph: {
      name: "hybridseek",
      node: builder.graph.nodes,
      input: builder.inputs,
      output: builder.outputs,
      initializer: layout.tensors.map((place) => externalTensor(place, layout)),
    },
  });
}

function externalTensor(
  { tensor, file, offset }: PlacedTensor,
  layout: DataLayout,
): MessageInitShape<typeof TensorProtoSchema> {
  const entries = {
    location: layout.files[file]!.name,
    offset: String(offset),
    length: String(tensor.bytes),
  };
  return {
    name: tensor.name,
    dataType: onnxType(tensor.type),
    dims: tensor.dims.map(BigInt),
    dataLocation: TensorProto_DataLocation.EXTERNAL,
    externalData: Object.entries(entries).map(([key, value]) => ({ key, value })),
  };
}

async function manifestFile(folder: string, name: string): Promise<ManifestFile> {
  const bytes = await readFile(join(folder, name));
  const sha256: string[] = [];
  for (let begin = 0; begin < bytes.length; begin += CHUNK_BYTES) {
    const chunk = bytes.subarray(begin, begin + CHUNK_BYTES);
    sha256.push(createHash("sha256").update(chunk).digest("hex"));
  }
  return { name, bytes: bytes.length, sha256 };
}
