/**
 * The native library, `hybridseek.node` (`gpu/`): where it and ONNX Runtime's library are, and what it
 * offers. Both are looked for when backend `ort-native` is opened and not before.
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { VERSION } from "../../version.ts";
import {
  INSTALL_COMMAND,
  NEEDED_ONNXRUNTIME,
  NODE_PACKAGE,
  NODE_PACKAGE_VERSION,
} from "../graph_backend.ts";

/** A session inside the library. */
export type NativeSession = { readonly session: unique symbol };
/** A tensor in a device's memory. */
export type NativeTensor = { readonly tensor: unique symbol };
/** The processes that compute a model together, as this one knows them. */
export type NativeRanks = { readonly ranks: unique symbol };
/** What the attention kernels of a CUDA device need of a step. */
export type NativePlan = { readonly plan: unique symbol };
/** How a session uses a CUDA device. */
export type CudaSettings = readonly [
  /** Of ONNX Runtime's arena; weights lie outside of it. */
  arenaBytes: number,
  /** Whether runs may be captured as CUDA graphs. */
  graphs: 0 | 1,
  /** Inputs and outputs that have a place on the device. */
  onDevice: readonly [name: string, bytes: number][],
];
/** Elements that the library takes. */
export type NativeValues = Float32Array | Int32Array | Uint8Array;
/** A tensor over JavaScript's memory, which must stay as it is while a run lasts. */
export type HostTensor = [name: string, dims: number[], values: NativeValues];

/** What the library offers, see `gpu/runtime/node_addon.cc`. */
export interface Addon {
  /** Version of hybridseek that it was built for. */
  readonly version: string;
  /** sha256 of its sources. */
  readonly sources: string;
  /** Whether it has CUDA kernels. */
  readonly cuda: boolean;
  /** Opens a library of ONNX Runtime. */
  openRuntime(path: string): { version: string; suffices: boolean };
  /** Opens a model with the library's ops: an ONNX file's bytes, and the folder of its data files. */
  createSession(
    runtime: string,
    model: Uint8Array,
    folder: string,
    threads: number,
    /** Weights in place of those in the data files. */
    given?: readonly [name: string, tensor: NativeTensor][],
    /** On the current CUDA device. */
    cuda?: CudaSettings,
  ): Promise<NativeSession>;
  /** Throws why a library of ONNX Runtime has no CUDA provider that can be used. */
  checkCuda(runtime: string): void;
  /** The current CUDA device: bytes, compute capability. Throws what is missing. */
  gpu(): [free: number, total: number, major: number, minor: number];
  /** Memory that a CUDA device copies from and to without a detour. */
  pinnedMemory(bytes: number): ArrayBuffer;
  /** Makes room for plans of steps that are at most so large. */
  createPlan(most: readonly [tokens: number, sequences: number, tableWidth: number]): NativePlan;
  /** Plans a step's attention, in place of the plan before. Gives the number by which a graph names it. */
  planStep(
    plan: NativePlan,
    sizes: readonly [heads: number, blockSize: number, blocks: number],
    step: readonly [
      slots: Int32Array,
      queryStarts: Int32Array,
      contextLengths: Int32Array,
      blockTables: Int32Array,
    ],
  ): number;
  /** Frees a plan once no session uses it. */
  closePlan(plan: NativePlan): void;
  /** A tensor whose contents are whatever was there. */
  createTensor(
    runtime: string,
    device: "cpu" | "cuda",
    type: "float32" | "float16" | "bfloat16" | "float8e4m3fn" | "int32" | "uint8",
    dims: readonly number[],
  ): NativeTensor;
  /** Makes a tensor an input and an output of every run. */
  bindInPlace(session: NativeSession, input: string, output: string, tensor: NativeTensor): void;
  /**
   * Runs the model on another thread. Runs with the same `graph` have the same shapes; from −1, the default, on
   * a CUDA device they are not captured.
   */
  run(
    session: NativeSession,
    inputs: HostTensor[],
    outputs: HostTensor[],
    graph?: number,
  ): Promise<void>;
  /** Writes elements from a byte offset on. */
  writeTensor(tensor: NativeTensor, offset: number, from: NativeValues): void;
  /** Reads elements from a byte offset on. */
  readTensor(tensor: NativeTensor, offset: number, into: NativeValues): void;
  /** Copies bytes within a tensor. */
  copyWithin(tensor: NativeTensor, from: number, to: number, bytes: number): void;
  /** Where a tensor is. */
  addressOf(tensor: NativeTensor): bigint;
  /** Frees a session once it has run. */
  closeSession(session: NativeSession): void;
  /** Frees a tensor once nothing is bound to it. */
  closeTensor(tensor: NativeTensor): void;
  /** Joins ranks over TCP: rank 0 listens, others come. */
  joinSockets(
    address: string,
    port: number,
    key: string,
    numbers: readonly [rank: number, ranks: number, timeoutMs: number],
  ): Promise<NativeRanks>;
  /** Joins the ranks of an mpirun. */
  joinMpi(library: string, timeoutMs: number): Promise<NativeRanks>;
  /** The same ranks, whose tensors NCCL carries. */
  joinNccl(ranks: NativeRanks, library: string): Promise<NativeRanks>;
  /** Which rank this is, of how many, and the number by which a graph's nodes know them. */
  placeOf(ranks: NativeRanks): [rank: number, ranks: number, communicator: number];
  /** Gives all ranks what rank 0 gives. */
  broadcast(ranks: NativeRanks, bytes: Uint8Array): Promise<Uint8Array>;
  /** What all ranks give, on rank 0; nothing on others. */
  gather(ranks: NativeRanks, bytes: Uint8Array): Promise<Uint8Array[]>;
  /** Tells the others why this one fails; nothing goes through any more. */
  abortRanks(ranks: NativeRanks, reason: string): void;
  /** Leaves once no session uses them. */
  leaveRanks(ranks: NativeRanks): void;
  /** How often an attention kernel found a cache that was not bound in place, and copied it. */
  cacheCopies(): number;
  /**
   * Runs the CUDA kernels on this machine's device and compares them with float64. 1: also times sizes of a
   * real model. Gives a JSON text of [name, relative error, its bound, microseconds, least microseconds]s:
   * an error of null is none that is a number, 0 microseconds were not measured or are not known.
   */
  selftest(timed: 0 | 1): string;
}

/** The environment variable with the path of the native library. */
export const LIBRARY_VARIABLE = "HYBRIDSEEK_NATIVE";
/** The environment variable with the path of ONNX Runtime's library. */
export const ONNXRUNTIME_VARIABLE = "HYBRIDSEEK_ONNXRUNTIME";
/** What builds the native library. */
export const BUILD_COMMAND = "hybridseek gpu build";

/** What is used of Node's modules. Not written into imports: bundlers for browsers leave them alone. */
interface NodeModules {
  createRequire(from: string): { (path: string): unknown; resolve(specifier: string): string };
  env: Record<string, string | undefined>;
  cwd(): string;
  existsSync(path: string): boolean;
  readdirSync(path: string): string[];
  fileURLToPath(url: string): string;
  platform: string;
  arch: string;
}

let modules: Promise<NodeModules> | undefined;

async function importNode(): Promise<NodeModules> {
  const load = async (name: string) => await import(`node:${name}`);
  try {
    const [{ createRequire }, { default: process }, fs, { fileURLToPath }] = await Promise.all(
      ["module", "process", "fs", "url"].map(load),
    );
    const { env, platform, arch, cwd } = process;
    const { existsSync, readdirSync } = fs;
    return { createRequire, env, cwd, platform, arch, existsSync, readdirSync, fileURLToPath };
  } catch (cause) {
    throw new UnsupportedError(
      "Cannot use the native library: this runtime loads no native libraries; use Deno, Node or Bun, " +
        "or backend wasm.",
      { cause },
    );
  }
}

/**
 * Where the native library is expected: HYBRIDSEEK_NATIVE, or where `hybridseek gpu build` puts it.
 *
 * @returns Its path; `undefined` where this module is not on a disk and the variable is not set.
 */
export async function libraryPath(): Promise<string | undefined> {
  const { env, fileURLToPath } = await (modules ??= importNode());
  const path = env[LIBRARY_VARIABLE];
  if (path) return path;
  const built = new URL("../../../gpu/build/hybridseek.node", import.meta.url);
  return built.protocol === "file:" ? fileURLToPath(built.href) : undefined;
}

/**
 * Loads the native library.
 *
 * @returns It.
 * @throws {UnsupportedError} If it is not built, can not be loaded, or is of another version.
 */
export async function loadAddon(): Promise<Addon> {
  const { createRequire, existsSync } = await (modules ??= importNode());
  const path = await libraryPath();
  const fail = (what: string, cause?: unknown) =>
    new UnsupportedError(`Cannot use the native library: ${what}.`, { cause });
  if (path === undefined || !existsSync(path)) {
    throw fail(
      `it is not built (${path ?? "these sources are not on a disk"}); run ` +
        `${BUILD_COMMAND}, or set ${LIBRARY_VARIABLE}`,
    );
  }
  let addon: Addon;
  try {
    addon = createRequire(path)(path) as Addon;
  } catch (cause) {
    throw fail(
      `${path} can not be loaded (${(cause as Error).message}); run ${BUILD_COMMAND}`,
      cause,
    );
  }
  if (addon.version === VERSION) return addon;
  throw fail(`${path} is of version ${addon.version}, needed is ${VERSION}; run ${BUILD_COMMAND}`);
}

/**
 * Looks for ONNX Runtime's library: HYBRIDSEEK_ONNXRUNTIME, then the npm package onnxruntime-node.
 *
 * @returns Its path; `undefined` if there is none.
 */
export async function findOnnxRuntime(): Promise<string | undefined> {
  const node = await (modules ??= importNode());
  const named = node.env[ONNXRUNTIME_VARIABLE];
  if (named) return named;
  for (const folder of packageFolders(node)) {
    const binaries = `${folder}/bin`;
    if (!node.existsSync(binaries)) continue;
    for (const abi of node.readdirSync(binaries)) {
      const place = `${binaries}/${abi}/${node.platform}/${node.arch}`;
      const files = node.existsSync(place) ? node.readdirSync(place) : [];
      const library = files.find((name) => /^libonnxruntime\.(so|[\d.]*dylib)/.test(name));
      if (library) return `${place}/${library}`;
    }
  }
  return undefined;
}

/** Where the package may be: beside the program, beside this library, in Deno's cache. */
function* packageFolders({ createRequire, fileURLToPath, cwd }: NodeModules): Generator<string> {
  const manifest = `${NODE_PACKAGE}/package.json`;
  const ways = [
    () => createRequire(`${cwd()}/`).resolve(manifest),
    () => createRequire(import.meta.url).resolve(manifest),
    () =>
      fileURLToPath(
        import.meta.resolve(`npm:${NODE_PACKAGE}@${NODE_PACKAGE_VERSION}/package.json`),
      ),
  ];
  for (const way of ways) {
    try {
      yield way().replace(/\/package\.json$/, "");
    } catch {
      // not there
    }
  }
}

/**
 * Opens ONNX Runtime's library.
 *
 * @param addon The native library.
 * @param path Where it is, instead of where it is looked for.
 * @returns Its path and version.
 * @throws {UnsupportedError} If there is none, it can not be loaded, or it is too old.
 */
export async function openOnnxRuntime(
  addon: Addon,
  path?: string,
): Promise<{ path: string; version: string }> {
  const advice = `run ${INSTALL_COMMAND}, or set ${ONNXRUNTIME_VARIABLE} to the path of a library`;
  const found = path ?? await findOnnxRuntime();
  const fail = (what: string, cause?: unknown) =>
    new UnsupportedError(`Cannot use ONNX Runtime: ${what}; ${advice}.`, { cause });
  if (found === undefined) throw fail("no ONNX Runtime is installed");
  let runtime: { version: string; suffices: boolean };
  try {
    runtime = addon.openRuntime(found);
  } catch (cause) {
    throw fail(`${found} can not be opened (${(cause as Error).message})`, cause);
  }
  const { version, suffices } = runtime;
  if (suffices && isRecent(version)) return { path: found, version };
  throw fail(
    `${found} is ONNX Runtime ${version}, needed is ${NEEDED_ONNXRUNTIME.join(".")} or later`,
  );
}

function isRecent(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const [neededMajor, neededMinor] = NEEDED_ONNXRUNTIME;
  return major > neededMajor || (major === neededMajor && minor >= neededMinor);
}
