/**
 * Writing a package: data files, graph, companions, and the manifest last.
 * @module
 */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
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
import { VERSION } from "../src/version.ts";
import type { DecoderBuilder } from "./architectures/decoder_builder.ts";
import { hashDataFiles, writeDataFiles } from "./data_files.ts";
import { type DataLayout, layOut, type PlacedTensor } from "./data_layout.ts";

/** Version 11 of the file format is the first that every field used here is in. */
const IR_VERSION = 11n;
/** Version of the step contract that graphs are written for, see ARCHITECTURE.md. */
const CONTRACT = "1";
/** Below 2 GiB, the most that some readers take in one piece. */
export const MAX_FILE_BYTES: number = 2 ** 31 - 1;

/** Where an export stands. */
export interface ExportProgress {
  /** Bytes written and hashed so far. */
  doneBytes: number;
  /** Bytes to write and to hash in all. */
  totalBytes: number;
}

/** What a package is made of. */
export interface PackageParts {
  /** The graph and where its weights come from. */
  builder: DecoderBuilder;
  /** Kept in the graph's metadata, for example `architecture`. */
  metadata: Record<string, string>;
  /** Files beside the graph, by name. */
  companions: ReadonlyMap<string, Uint8Array>;
}

/** Options of {@linkcode writePackage}. */
export interface WritePackageOptions {
  /** Replace a package that is there already; false by default. */
  overwrite?: boolean;
  /** Largest data file, bytes; {@linkcode MAX_FILE_BYTES} by default. */
  maxFileBytes?: number;
  /** Told of every piece. */
  onProgress?: (progress: ExportProgress) => void;
  /** Stops it; nothing stays behind. */
  signal?: AbortSignal;
}

/** What was written. */
export interface WrittenPackage {
  /** The package's folder. */
  folder: string;
  /** Length of all files. */
  bytes: number;
  /** How many data files. */
  dataFiles: number;
}

/**
 * Writes a package. It is written into a folder beside the wanted one and moved there when it is
 * whole: what failed or was stopped leaves nothing that looks complete.
 *
 * @param packageFolder The folder to be made; see {@linkcode checkTarget}.
 * @param parts What it is made of.
 * @param options Limits, progress.
 * @returns What was written.
 * @throws {InvalidFileError} If a weight can not be read or does not fit its storage format.
 */
export async function writePackage(
  packageFolder: string,
  { builder, metadata, companions }: PackageParts,
  options: WritePackageOptions = {},
): Promise<WrittenPackage> {
  const { maxFileBytes = MAX_FILE_BYTES, signal } = options;
  const target = resolve(packageFolder);
  const partial = join(dirname(target), `.${basename(target)}.partial-${crypto.randomUUID()}`);
  try {
    const layout = layOut(builder.weights.tensors(), maxFileBytes);
    await mkdir(partial, { recursive: true });
    const onBytes = progressCounter(builder, layout, options.onProgress, signal);
    await writeDataFiles(partial, layout, builder.weights.matrices, onBytes);
    const { files, slabs } = await hashDataFiles(partial, layout, onBytes);
    const model = modelProto(builder, layout, metadata);
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
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      dataFiles: layout.files.length,
    };
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
}

/**
 * Refuses to write over anything but, when asked to, an earlier package.
 *
 * @param packageFolder The folder to be made.
 * @param overwrite Whether a package may be replaced.
 * @throws {InvalidArgumentError} If something is there that must stay.
 */
export async function checkTarget(packageFolder: string, overwrite: boolean): Promise<void> {
  const target = resolve(packageFolder);
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

/** Counts bytes for the caller; stops the export when the signal says so. */
function progressCounter(
  builder: DecoderBuilder,
  layout: DataLayout,
  onProgress: WritePackageOptions["onProgress"],
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

/**
 * The model file of a graph.
 *
 * @param builder The graph and its weights.
 * @param layout Where the weights lie.
 * @param metadata Beside the contract's version.
 * @returns It.
 */
export function modelProto(
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
