/**
 * Backend `cuda`: ONNX Runtime's CUDA provider with the native library's CUDA kernels for its own ops.
 * @module
 */
import { fromBinary } from "@bufbuild/protobuf";
import { InvalidArgumentError, UnsupportedError } from "../../errors.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { ModelSpec } from "../../model_spec.ts";
import { ModelProtoSchema } from "../../onnx/onnx_pb.ts";
import type { GraphModel } from "../../onnx/read_model.ts";
import type { Backend, BackendInfo } from "../backend.ts";
import { GraphBackend, verifyFiles } from "../graph_backend.ts";
import type { StepSizes } from "../step_plan.ts";
import { availableCores, MAX_THREADS } from "../wasm/threads.ts";
import {
  type Addon,
  BUILD_COMMAND,
  libraryPath,
  loadAddon,
  ONNXRUNTIME_VARIABLE,
  openOnnxRuntime,
} from "./addon.ts";
import {
  adaptToCuda,
  attentionHeads,
  cudaCacheType,
  type CudaMemoryPlan,
  planCudaMemory,
} from "./cuda_model.ts";
import { openCudaSession } from "./cuda_session.ts";
import { checkThreads } from "./native_backend.ts";
import { PREFERENCES } from "./native_session.ts";
import { type ExpertsPlace, placeExperts, type Placement, planPlacement } from "./placement.ts";

/** Options of {@linkcode openCudaBackend}. */
export interface CudaBackendOptions extends StepSizes {
  /** The path of ONNX Runtime's library, which must have its CUDA provider beside it. */
  onnxruntime?: string;
  /** Threads for nodes without a CUDA kernel; one per core by default. */
  threads?: number;
  /** How the cache is stored, `bf16` (the default) or `fp8`. */
  cacheType?: string;
  /** The part of the GPU's memory that may be taken, by others too; 0.9 by default. */
  gpuMemory?: number;
  /** Whether steps that decode are captured as CUDA graphs; `false` by default. */
  cudaGraphs?: boolean;
  /** Where routed experts are, `gpu` by default. */
  experts?: ExpertsPlace;
  /** What experts may take of the host's memory, bytes; by default what nobody has taken. */
  memoryBytes?: number;
  /** Told what will be taken, before anything is loaded. */
  onPlan?: (info: BackendInfo) => void;
}

/** The least compute capability: tensor cores that multiply bf16. */
export const LEAST_CAPABILITY = 8;

/** The artefact that brings ONNX Runtime's CUDA provider, and how it is used. */
export const CUDA_PROVIDER_ADVICE: string =
  'run pip install "onnxruntime-gpu[cuda,cudnn]==1.30.0", set ' +
  `${ONNXRUNTIME_VARIABLE} to its onnxruntime/capi/libonnxruntime.so.1.30.0 and LD_LIBRARY_PATH to the lib ` +
  "folders of its nvidia packages";

/**
 * Opens a model on backend `cuda`.
 *
 * @param model The package.
 * @param graph Its graph.
 * @param spec What the graph says of the model.
 * @param options Sizes, ONNX Runtime, memory.
 * @returns The backend, ready to run.
 * @throws {UnsupportedError} If the native library, its CUDA kernels, the CUDA runtime, a GPU, or ONNX Runtime
 *   with its CUDA provider is missing; or the model has an op without a CUDA kernel, or is not on a disk.
 * @throws {InvalidArgumentError} If an option is out of range.
 * @throws {CapacityError} If it does not fit the GPU's memory.
 * @throws {BackendError} If ONNX Runtime refuses the model.
 */
export async function openCudaBackend(
  model: ModelPackage,
  graph: GraphModel,
  spec: ModelSpec,
  options: CudaBackendOptions = {},
): Promise<Backend> {
  const { gpuMemory = 0.9, cudaGraphs = false, experts = "gpu" } = options;
  const cacheType = cudaCacheType(options.cacheType);
  checkThreads(options.threads);
  const invalid = (field: string, what: string) => {
    throw new InvalidArgumentError(field, `Cannot open the model: ${field} is ${what}.`);
  };
  if (!(typeof gpuMemory === "number" && gpuMemory > 0 && gpuMemory <= 1)) {
    invalid("gpuMemory", `${gpuMemory}, it can be above 0 to 1`);
  }
  if (typeof cudaGraphs !== "boolean") {
    invalid("cudaGraphs", `${cudaGraphs}, it can be true or false`);
  }
  const proto = fromBinary(ModelProtoSchema, await model.readAll("model.onnx"));
  const planned = adaptToCuda(proto, cacheType);
  if (cudaGraphs && !planned) {
    invalid("cudaGraphs", "true, which needs attention that takes a plan: LatentAttention");
  }
  const path = model.path("model.onnx");
  if (path === undefined) throw unsupported(`${model.address} is no folder of this machine`);
  const { addon, runtime, gpu: [free, total, major, minor] } = await openCuda(options);
  const device = `compute capability ${major}.${minor}`;
  if (major < LEAST_CAPABILITY) {
    throw unsupported(`the GPU is of ${device}, ${LEAST_CAPABILITY}.0 or later is needed`);
  }
  const wanted = {
    ...{ ...PREFERENCES, cacheType, gpuMemory, cacheTokens: options.cacheTokens },
    contextLength: options.contextLength ?? spec.contextLength,
  };
  const hostBytes = options.memoryBytes ?? await availableMemory();
  const planDevice = (part: GraphModel) => planCudaMemory(part, spec, { free, total }, wanted);
  const placement = planPlacement(graph, experts, hostBytes, planDevice);
  const { limits, caches, arena }: CudaMemoryPlan = placement.device;
  if (cudaGraphs && placement.layers.host > 0) {
    invalid("cudaGraphs", "true, which needs all experts on the GPU");
  }
  placeExperts(proto, placement.hostRouters);
  const threads = options.threads ?? Math.min(await availableCores(), MAX_THREADS);
  const info: BackendInfo = {
    backend: "cuda",
    build: `onnxruntime ${runtime.version}, ${device}${cudaGraphs ? ", CUDA graphs" : ""}`,
    threads,
    threadsReason: options.threads !== undefined ? "as asked for" : "for what is on the host",
    cacheType,
    verified: model.verifies,
    bytes: bytesOf(placement),
  };
  options.onPlan?.(info);
  await verifyFiles(model, graph);
  const runner = await openCudaSession({
    ...{ addon, runtime: runtime.path, address: model.address, model: proto, graph, caches },
    ...{ heads: attentionHeads(graph), limits, arena, graphs: cudaGraphs, threads },
    folder: path.replace(/[^/\\]*$/, ""),
  });
  return new GraphBackend(runner, caches, info, limits, spec.vocabSize);
}

/** Memory that nobody has taken, bytes; Deno tells it with `--allow-sys`. */
async function availableMemory(): Promise<number> {
  const name = "node:process"; // not written into the import: bundlers for browsers leave it alone
  try {
    return (await import(name) as { availableMemory(): number }).availableMemory();
  } catch {
    return Infinity;
  }
}

/** Memory by what it is for. */
function bytesOf({ layers, hostBytes, device }: Placement<CudaMemoryPlan>): BackendInfo["bytes"] {
  if (layers.host === 0) return device.bytes;
  return {
    ...device.bytes,
    [`experts of ${layers.host} of ${layers.all} layers on the host`]: hostBytes,
  };
}

function unsupported(what: string, cause?: unknown): UnsupportedError {
  return new UnsupportedError(`Cannot open backend cuda: ${what}.`, { cause });
}

/** The native library, ONNX Runtime and the GPU; whatever is missing is named with what brings it. */
async function openCuda({ onnxruntime }: CudaBackendOptions) {
  const addon = await loadAddon();
  if (!addon.cuda) {
    throw unsupported(`${await libraryPath()} has no CUDA kernels; run ${BUILD_COMMAND} --cuda`);
  }
  let gpu: ReturnType<Addon["gpu"]>;
  try {
    gpu = addon.gpu();
  } catch (cause) {
    const { message } = cause as Error;
    throw unsupported(`${message} hybridseek gpu doctor says what else is missing`, cause);
  }
  const runtime = await openOnnxRuntime(addon, onnxruntime);
  try {
    addon.checkCuda(runtime.path);
  } catch (cause) {
    throw unsupported(
      `${runtime.path}, ONNX Runtime ${runtime.version}, has no CUDA provider that can be used (${
        (cause as Error).message.replace(/^.* FAIL : /s, "").trim()
      }); ${CUDA_PROVIDER_ADVICE}`,
      cause,
    );
  }
  return { addon, runtime, gpu };
}
