/**
 * Backend `ort-native`: ONNX Runtime with the kernels of this library for its own ops, as a native library
 * (`gpu/`) that calls ONNX Runtime directly. Caches are updated in place; a step runs beside the event loop.
 * @module
 */
import { fromBinary } from "@bufbuild/protobuf";
import { InvalidArgumentError, UnsupportedError } from "../../errors.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { ModelSpec } from "../../model_spec.ts";
import { ModelProtoSchema } from "../../onnx/onnx_pb.ts";
import type { GraphModel } from "../../onnx/read_model.ts";
import type { Backend, BackendInfo } from "../backend.ts";
import { cacheShapes, GraphBackend, verifyFiles } from "../graph_backend.ts";
import { stepLimits, type StepSizes } from "../step_plan.ts";
import { availableCores, MAX_THREADS } from "../wasm/threads.ts";
import { loadAddon, openOnnxRuntime } from "./addon.ts";
import { openNativeSession, PREFERENCES } from "./native_session.ts";
import { openRanks } from "./ranks_backend.ts";

/** Options of {@linkcode openNativeBackend}. */
export interface NativeBackendOptions extends StepSizes {
  /** The path of ONNX Runtime's library; it is looked for by default. */
  onnxruntime?: string;
  /** How many threads compute; one per core by default. */
  threads?: number;
  /** Processes that compute the model together; 1 by default. */
  tensorParallel?: number;
  /** Whether each of them has sequences of its own. */
  dataParallelAttention?: boolean;
  /** Told what will be taken, before anything is loaded. */
  onPlan?: (info: BackendInfo) => void;
}

/** Most processes. */
const MAX_RANKS = 64;

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
  checkThreads(threads);
  checkRanks(options);
  const addon = await loadAddon();
  const runtime = await openOnnxRuntime(addon, options.onnxruntime);
  const path = model.path("model.onnx");
  if (path === undefined) {
    throw new UnsupportedError(
      `Cannot open ${model.address} on backend ort-native: it must be a folder of this machine; use ` +
        "backend wasm, or copy it.",
    );
  }
  const { tensorParallel: ranks = 1, dataParallelAttention = false } = options;
  if (ranks > 1) {
    return await openRanks(model, graph, spec, {
      ...{ ...options, addon, runtime, ranks, dataParallelAttention },
      folder: path.replace(/[^/\\]*$/, ""),
    });
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
  const runner = await openNativeSession({
    ...{ addon, runtime: runtime.path, address: model.address, graph, caches, threads: count },
    folder: path.replace(/[^/\\]*$/, ""),
    model: fromBinary(ModelProtoSchema, await model.readAll("model.onnx")),
  });
  return new GraphBackend(runner, caches, info, limits, spec.vocabSize);
}

/** Checks how many threads compute. @param threads As asked for. @throws {InvalidArgumentError} If out of range. */
export function checkThreads(threads: number | undefined): void {
  if (
    threads === undefined || (Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS)
  ) return;
  throw new InvalidArgumentError(
    "threads",
    `Cannot open the model: threads is ${threads}, it can be 1 to ${MAX_THREADS}.`,
  );
}

function checkRanks(
  { tensorParallel: ranks = 1, dataParallelAttention = false }: NativeBackendOptions,
) {
  const refuse = (field: string, what: string) => {
    throw new InvalidArgumentError(field, `Cannot open the model: ${field} is ${what}.`);
  };
  if (!(Number.isInteger(ranks) && ranks >= 1 && ranks <= MAX_RANKS)) {
    refuse("tensorParallel", `${ranks}, it can be 1 to ${MAX_RANKS}`);
  }
  if (typeof dataParallelAttention !== "boolean") {
    refuse("dataParallelAttention", `${dataParallelAttention}, it can be true or false`);
  }
  if (dataParallelAttention && ranks === 1) {
    refuse("dataParallelAttention", "true, which needs tensorParallel above 1");
  }
}
