/**
 * What the CUDA kernels want of a graph, and what it takes of a device's memory. Pure.
 * @module
 */
import { CapacityError, InvalidArgumentError, UnsupportedError } from "../../errors.ts";
import type { ModelSpec } from "../../model_spec.ts";
import { bytesPerElement } from "../../onnx/data_type.ts";
import { DOMAIN, valueInfo } from "../../onnx/graph_builder.ts";
import { type ModelProto, TensorProto_DataType } from "../../onnx/onnx_pb.ts";
import type { GraphModel } from "../../onnx/read_model.ts";
import type { CacheShape } from "../graph_backend.ts";
import type { StepLimits } from "../step_plan.ts";

/** How the elements of a cache on a CUDA device are stored; `fp8` is e4m3. */
export type CudaCacheType = "bf16" | "fp8";

/** Their types in ONNX, by the native library's names, and bytes. */
const ELEMENTS = {
  bf16: { onnx: TensorProto_DataType.BFLOAT16, type: "bfloat16", bytes: 2 },
  fp8: { onnx: TensorProto_DataType.FLOAT8E4M3FN, type: "float8e4m3fn", bytes: 1 },
} as const;

/** The input that names the step's plan of attention, the last one of the ops that take it. */
export const PLAN = "attention_plan";
/** Ops with a cache that have a CUDA kernel: for which caches, and whether they are given the step's plan. */
const CACHED_OPS: Readonly<Record<string, { caches: readonly CudaCacheType[]; planned: boolean }>> =
  {
    LatentAttention: { caches: ["bf16", "fp8"], planned: true },
    PagedAttention: { caches: ["bf16"], planned: false },
  };

/**
 * Checks how the caches are to be stored.
 *
 * @param asked What the caller asked for, `bf16` by default.
 * @returns The type.
 * @throws {InvalidArgumentError} If there is no such type on CUDA.
 */
export function cudaCacheType(asked = "bf16"): CudaCacheType {
  if (asked === "bf16" || asked === "fp8") return asked;
  throw new InvalidArgumentError(
    "cacheType",
    `Cannot open the model: cacheType is ${JSON.stringify(asked)}, backend cuda has ` +
      `${Object.keys(ELEMENTS).join(", ")}.`,
  );
}

/**
 * Gives the caches their type, and attention the step's plan as an input.
 *
 * @param model The model; changed here.
 * @param cacheType How its caches are stored.
 * @returns Whether attention takes a plan.
 * @throws {UnsupportedError} If an op with a cache has no CUDA kernel for it.
 */
export function adaptToCuda(model: ModelProto, cacheType: CudaCacheType): boolean {
  const { graph } = model;
  let planned = false;
  if (!graph) return planned;
  for (const value of [...graph.input, ...graph.output]) {
    const { type } = value;
    if (value.name.startsWith("cache.") && type?.value.case === "tensorType") {
      type.value.value.elemType = ELEMENTS[cacheType].onnx;
    }
  }
  for (const node of graph.node) {
    if (node.domain !== DOMAIN || !node.input.some((name) => name.startsWith("cache."))) continue;
    const op = CACHED_OPS[node.opType];
    if (!op?.caches.includes(cacheType)) {
      throw new UnsupportedError(
        `Cannot open the model on backend cuda: ${node.opType} has no CUDA kernel` +
          (op ? ` for a cache of ${cacheType}; use ${op.caches}.` : "; use ort-native or wasm."),
      );
    }
    if (!op.planned) continue;
    planned = true;
    node.input.push(PLAN);
  }
  if (planned) graph.input.push(valueInfo(PLAN, "i32", [1]));
  return planned;
}

/**
 * The heads of attention that takes a plan.
 *
 * @param graph The graph.
 * @returns How many queries a token has in each layer; 0 if none does.
 */
export function attentionHeads(graph: GraphModel): number {
  const node = graph.nodes.find(({ op }) => op === `${DOMAIN}.LatentAttention`);
  return graph.initializers.get(node?.inputs[3] ?? "")?.dims[0] ?? 0;
}

/** What a device has, bytes. */
export interface DeviceMemory {
  /** What nobody has taken. */
  free: number;
  /** All of it. */
  total: number;
}

/** How a device's memory is divided. */
export interface CudaMemoryPlan {
  /** What a step may hold. */
  limits: StepLimits;
  /** The caches. */
  caches: CacheShape[];
  /** Of ONNX Runtime's arena, bytes. */
  arena: number;
  /** By what it is for, bytes. */
  bytes: { weights: number; cache: number; workspace: number };
}

/** Values of a step inside the graph and temporary memory of kernels: room for the widest models, bytes. */
const STEP_BYTES = 512 * 2 ** 20;
/** Of the plan of attention and partial results of split contexts, as the native library takes it, bytes. */
const PLAN_BYTES = (128 + 8) * 2 ** 20;

/**
 * Divides a device's memory: weights, what steps take, and the cache, which gets what is left.
 *
 * @param graph The package's graph.
 * @param spec What it says of the model.
 * @param device What the device has.
 * @param wanted Largest step without its blocks; `gpuMemory`: the part of all memory that may be taken, by
 *   others too; `cacheTokens`: what the cache is to hold, all that is left by default.
 * @returns The plan.
 * @throws {CapacityError} If it does not fit.
 */
export function planCudaMemory(
  graph: GraphModel,
  spec: ModelSpec,
  device: DeviceMemory,
  wanted: Omit<StepLimits, "blocks"> & {
    cacheType: CudaCacheType;
    gpuMemory: number;
    cacheTokens?: number;
  },
): CudaMemoryPlan {
  const { cacheType, gpuMemory, cacheTokens, ...sizes } = wanted;
  const { tokens, sequences, logitRows, contextLength, blockSize } = sizes;
  const { weights, dequantized } = weightBytes(graph);
  const arena = STEP_BYTES + dequantized;
  const columns = Math.ceil(contextLength / blockSize);
  const indices = 4 * (4 * tokens + sequences * columns);
  const workspace = arena + PLAN_BYTES + indices + 4 * logitRows * spec.vocabSize;
  const available = Math.floor(device.free - (1 - gpuMemory) * device.total);
  const blockBytes = spec.caches.reduce(
    (sum, { heads, width }) => sum + ELEMENTS[cacheType].bytes * blockSize * heads * width,
    0,
  );
  const affordable = Math.floor((available - weights - workspace) / blockBytes);
  const useful = sequences * columns;
  const least = 1 + Math.ceil((cacheTokens ?? contextLength) / blockSize);
  const blocks = cacheTokens === undefined ? Math.min(affordable, 1 + useful) : least;
  if (affordable < least) {
    const giga = (bytes: number) => `${(Math.max(0, bytes) / 1e9).toFixed(1)} GB`;
    throw new CapacityError(
      "out_of_memory",
      `Cannot open ${graph.file} on backend cuda: weights take ${giga(weights)}, steps ${
        giga(workspace)
      } and a cache of ${(least - 1) * blockSize} tokens ${
        giga(least * blockBytes)
      }; of the GPU's ${giga(device.total)} there are ${
        giga(available)
      } with gpuMemory ${gpuMemory}. Lower contextLength or cacheTokens, ` +
        "store the cache as fp8, export with int4 weights, or raise gpuMemory.",
    );
  }
  const caches = spec.caches.map(({ name, heads, width }): CacheShape => ({
    name,
    ...{ type: ELEMENTS[cacheType].type, elementBytes: ELEMENTS[cacheType].bytes },
    dims: [blocks, blockSize, heads, width],
  }));
  const bytes = { weights, cache: blocks * blockBytes, workspace };
  return { limits: { ...sizes, blocks }, caches, arena, bytes };
}

/**
 * Bytes of the weights on the device, with the copies that kernels make of some, and of the largest quantized
 * matrix as f32, which ONNX Runtime makes of it for prompts.
 */
function weightBytes(graph: GraphModel): { weights: number; dequantized: number } {
  let [weights, dequantized] = [0, 0];
  for (const { bytes } of graph.initializers.values()) weights += bytes;
  for (const { op, inputs, overload, attributes } of graph.nodes) {
    const elements = (i: number) => {
      const tensor = graph.initializers.get(inputs[i] ?? "");
      return tensor ? tensor.bytes / bytesPerElement(tensor.type) : 0;
    };
    if (op === "Cast") weights += 2 * elements(0); // from f16 to f32, when the session is made
    if (op === `${DOMAIN}.LatentAttention`) weights += 2 * elements(3);
    if (op === `${DOMAIN}.SparseExperts` && overload === "float") {
      weights += 2 * (elements(2) + elements(3));
    }
    if (op === "com.microsoft.MatMulNBits") {
      const [rows, columns] = ["N", "K"].map((name) => Number(attributes.get(name)));
      dequantized = Math.max(dequantized, 4 * rows! * columns!);
    }
  }
  return { weights, dequantized };
}
