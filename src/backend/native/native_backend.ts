/**
 * Backend `ort-native`: ONNX Runtime with the kernels of this library for its own ops, as a native library
 * (`gpu/`) that calls ONNX Runtime directly. Caches are updated in place; a step runs beside the event loop.
 * @module
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  BackendError,
  CapacityError,
  InvalidArgumentError,
  UnsupportedError,
} from "../../errors.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { ModelSpec } from "../../model_spec.ts";
import { ModelProtoSchema } from "../../onnx/onnx_pb.ts";
import type { GraphModel, GraphValue } from "../../onnx/read_model.ts";
import type { Backend, BackendInfo, StepResult } from "../backend.ts";
import {
  cacheShapes,
  GraphBackend,
  type GraphRunner,
  resultNames,
  type StepInput,
  verifyFiles,
} from "../graph_backend.ts";
import { stepLimits, type StepPlan, type StepPreferences, type StepSizes } from "../step_plan.ts";
import { availableCores, MAX_THREADS } from "../wasm/threads.ts";
import {
  type Addon,
  type HostTensor,
  loadAddon,
  type NativeSession,
  type NativeTensor,
  openOnnxRuntime,
} from "./addon.ts";

/** Options of {@linkcode openNativeBackend}. */
export interface NativeBackendOptions extends StepSizes {
  /** The path of ONNX Runtime's library; it is looked for by default. */
  onnxruntime?: string;
  /** How many threads compute; one per core by default. */
  threads?: number;
  /** Told what will be taken, before anything is loaded. */
  onPlan?: (info: BackendInfo) => void;
}

/** `accuracy_level` of MatMulNBits. */
const INTEGER_PRODUCTS = 4n;
const PREFERENCES: StepPreferences = {
  tokens: 512,
  sequences: 256,
  logitRows: 256,
  blockSize: 16,
  cacheBytes: 128 * 1024 * 1024,
};

/**
 * Opens a model on backend `ort-native`.
 *
 * @param model The package.
 * @param graph Its graph.
 * @param spec What the graph says of the model.
 * @param options Sizes, threads, ONNX Runtime.
 * @returns The backend, ready to run.
 * @throws {UnsupportedError} If the native library or ONNX Runtime is missing or too old, or the package is
 *   not on a disk.
 * @throws {InvalidArgumentError} If an option is out of range.
 * @throws {BackendError} If ONNX Runtime refuses the model.
 * @throws {CapacityError} If the cache does not fit the memory.
 */
export async function openNativeBackend(
  model: ModelPackage,
  graph: GraphModel,
  spec: ModelSpec,
  options: NativeBackendOptions = {},
): Promise<Backend> {
  const { threads } = options;
  if (
    threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS)
  ) {
    throw new InvalidArgumentError(
      "threads",
      `Cannot open the model: threads is ${threads}, it can be 1 to ${MAX_THREADS}.`,
    );
  }
  const addon = await loadAddon();
  const runtime = await openOnnxRuntime(addon, options.onnxruntime);
  const path = model.path("model.onnx");
  if (path === undefined) {
    throw new UnsupportedError(
      `Cannot open ${model.address} on backend ort-native: it must be a folder of this machine; use ` +
        "backend wasm, or copy it.",
    );
  }
  const limits = stepLimits(spec, options, PREFERENCES);
  const caches = cacheShapes("ort-native", spec, limits);
  const count = threads ?? Math.min(await availableCores(), MAX_THREADS);
  const weights = [...graph.initializers.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  const cache = spec.cacheBytesPerToken * limits.blocks * limits.blockSize;
  const info: BackendInfo = {
    backend: "ort-native",
    build: `onnxruntime ${runtime.version}, cpu`,
    threads: count,
    threadsReason: threads !== undefined ? "as asked for" : "one per core",
    cacheType: "f32",
    verified: model.verifies,
    bytes: { weights, cache },
  };
  options.onPlan?.(info);
  await verifyFiles(model, graph);
  const bytes = withIntegerProducts(await model.readAll("model.onnx"));
  const folder = path.replace(/[^/\\]*$/, "");
  let session: NativeSession;
  try {
    session = await addon.createSession(runtime.path, bytes, folder, count);
  } catch (cause) {
    throw new BackendError(
      "backend_failed",
      `Cannot open ${model.address} with ONNX Runtime: ${(cause as Error).message}`,
      { cause },
    );
  }
  const tensors: NativeTensor[] = [];
  try {
    for (const { name, dims } of caches) {
      const tensor = addon.createTensor(runtime.path, "cpu", "float32", dims);
      tensors.push(tensor);
      addon.bindInPlace(session, name, `${name}.out`, tensor);
    }
  } catch (cause) {
    addon.closeSession(session);
    for (const tensor of tensors) addon.closeTensor(tensor);
    throw new CapacityError(
      "out_of_memory",
      `Cannot open ${model.address} on backend ort-native: a cache of ` +
        `${
          limits.blocks * limits.blockSize
        } tokens, ${spec.cacheBytesPerToken} bytes each, can not be ` +
        "had; lower contextLength or cacheTokens.",
      { cause },
    );
  }
  const outputs = resultNames(graph).map((name) =>
    new Output(graph.outputs.find((output) => output.name === name)!)
  );
  const runner = new NativeRunner(addon, session, tensors, outputs);
  return new GraphBackend(runner, caches, info, limits, spec.vocabSize);
}

/**
 * Lets ONNX Runtime multiply quantized weights as our kernels do, with activations in blocks of int8. The file
 * asks for f32 products, since it is the reference: they take a hundred times as long.
 */
function withIntegerProducts(bytes: Uint8Array): Uint8Array {
  const model = fromBinary(ModelProtoSchema, bytes);
  for (const node of model.graph?.node ?? []) {
    if (node.opType !== "MatMulNBits") continue;
    for (const attribute of node.attribute) {
      if (attribute.name === "accuracy_level") attribute.i = INTEGER_PRODUCTS;
    }
  }
  return toBinary(ModelProtoSchema, model);
}

/** An output [T or Q, columns], whose memory is kept from step to step. */
class Output {
  readonly name: string;
  readonly #columns: number;
  readonly #Elements: typeof Float32Array | typeof Int32Array;
  #memory: Float32Array | Int32Array;

  constructor({ name, type, dims: [, columns] }: GraphValue) {
    this.name = name;
    this.#columns = columns as number;
    this.#Elements = type === "i32" ? Int32Array : Float32Array;
    this.#memory = new this.#Elements(0);
  }

  /** Room for a step. */
  tensor(step: StepPlan): HostTensor {
    const rows = this.name === "logits" ? step.logitRows.length : step.tokenIds.length;
    const length = rows * this.#columns;
    if (this.#memory.length < length) this.#memory = new this.#Elements(length);
    return [this.name, [rows, this.#columns], this.#memory.subarray(0, length)];
  }
}

class NativeRunner implements GraphRunner {
  readonly #addon: Addon;
  readonly #session: NativeSession;
  readonly #caches: NativeTensor[];
  readonly #outputs: Output[];

  constructor(
    addon: Addon,
    session: NativeSession,
    caches: NativeTensor[],
    outputs: Output[],
  ) {
    this.#addon = addon;
    this.#session = session;
    this.#caches = caches;
    this.#outputs = outputs;
  }

  async run(inputs: StepInput[], step: StepPlan): Promise<StepResult> {
    const feeds = inputs.map(({ name, values, dims }): HostTensor => [name, dims, values]);
    const outputs = this.#outputs.map((output) => output.tensor(step));
    await this.#addon.run(this.#session, feeds, outputs);
    const results = new Map(outputs.map(([name, , values]) => [name, values]));
    return {
      logits: results.get("logits") as Float32Array,
      output: (name) => results.get(name) as Float32Array | Int32Array | undefined,
    };
  }

  readCache(cache: number, offset: number, into: Uint8Array): void {
    this.#addon.readTensor(this.#caches[cache]!, offset, into);
  }

  writeCache(cache: number, offset: number, from: Uint8Array): void {
    this.#addon.writeTensor(this.#caches[cache]!, offset, from);
  }

  copyWithin(cache: number, from: number, to: number, bytes: number): void {
    this.#addon.copyWithin(this.#caches[cache]!, from, to, bytes);
  }

  release(): Promise<void> {
    this.#addon.closeSession(this.#session);
    for (const cache of this.#caches) this.#addon.closeTensor(cache);
    return Promise.resolve();
  }
}
