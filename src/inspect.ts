/**
 * What a package holds and what it needs, from its graph alone: no weight is read.
 * @module
 */
import { planWasmBackend } from "./backend/wasm/wasm_backend.ts";
import { InvalidArgumentError } from "./errors.ts";
import { embeddedModel } from "./files/embedded_model.ts";
import { ModelPackage } from "./files/model_package.ts";
import type { ModelLocation } from "./files/open_source.ts";
import { modelSpec } from "./model_spec.ts";
import { bytesPerElement, type DataType } from "./onnx/data_type.ts";
import { type GraphModel, type GraphNode, readModel } from "./onnx/read_model.ts";

/** Report of {@linkcode inspectPackage}. */
export interface PackageReport {
  /** The package's folder or address. */
  address: string;
  /** Family, as the exporter named it. */
  architecture: string;
  /** Storage of the weights, as the exporter named it. */
  weights: string;
  /** How many layers. */
  layers: number;
  /** How many of them have routed experts. */
  expertLayers: number;
  /** Columns of the logits. */
  vocabSize: number;
  /** Positions that the rotary tables hold. */
  contextLength: number;
  /** Numbers that were trained. */
  parameters: number;
  /** Bytes of all stored tensors. */
  weightBytes: number;
  /** Bytes of the stored tensors by element type. */
  bytesByType: Partial<Record<DataType, number>>;
  /** What a token takes in the cache. */
  cache: {
    /** Latents shared by all heads, or keys and values. */
    kind: "latent" | "keys and values";
    /** All layers together. */
    bytesPerToken: number;
    /** What K and V of all heads would take, in the same element type; for latents only. */
    expandedBytesPerToken?: number;
  };
  /** Memory of backend `wasm` for one sequence of a certain length. */
  memory: {
    /** Tokens of the sequence. */
    contextLength: number;
    /** Weights as the kernels hold them. */
    weightBytes: number;
    /** The cache. */
    cacheBytes: number;
    /** Everything a step makes and uses up, and what loading needs. */
    workBytes: number;
    /** All of it. */
    totalBytes: number;
  };
  /** The layer whose tensors are listed: the last, as the family's first ones are dense. */
  tensorsOfLayer: number;
  /** Tensors of that layer and of none, in the order of their use. */
  tensors: { name: string; type: DataType; dims: number[] }[];
}

/**
 * Reads what a package holds.
 *
 * @param location Where it is; the embedded model by default.
 * @param options `contextLength`: tokens to count memory for, 1 to the model's own (the default).
 * @returns The report.
 * @throws {InvalidFileError} If it is no package, or damaged.
 * @throws {InvalidArgumentError} If `contextLength` is out of range.
 * @example
 * ```ts
 * import { inspectPackage } from "@hybridseek/hybridseek";
 * import assert from "node:assert/strict";
 * const { cache } = await inspectPackage(); // the embedded model
 * assert.equal(cache.kind, "latent");
 * assert(cache.expandedBytesPerToken! > 5 * cache.bytesPerToken);
 * ```
 */
export async function inspectPackage(
  location?: ModelLocation,
  options: { contextLength?: number } = {},
): Promise<PackageReport> {
  const model = await ModelPackage.open(location ?? embeddedModel());
  try {
    const graph = readModel(`${model.address} model.onnx`, await model.readAll("model.onnx"));
    return report(model.address, graph, options.contextLength);
  } finally {
    await model.close();
  }
}

function report(address: string, graph: GraphModel, contextLength: number | undefined) {
  const spec = modelSpec(graph);
  const wanted = contextLength ?? spec.contextLength;
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > spec.contextLength) {
    throw new InvalidArgumentError(
      "contextLength",
      `Cannot inspect ${address}: contextLength is ${wanted}, it can be 1 to ${spec.contextLength}.`,
    );
  }
  const { plan } = planWasmBackend(graph, spec, { contextLength: wanted, cacheTokens: wanted }, 1);
  const { weights, cache, ...work } = plan.bytes;
  const workBytes = Object.values(work).reduce((sum, bytes) => sum + bytes, 0);
  const initializers = [...graph.initializers.values()];
  const bytesByType: Partial<Record<DataType, number>> = {};
  for (const { type, bytes } of initializers) bytesByType[type] = (bytesByType[type] ?? 0) + bytes;
  const layers = new Set(spec.caches.map(({ name }) => layerOf(name)));
  const lastLayer = Math.max(...layers as Set<number>);
  const expanded = expandedElementsPerToken(graph);
  const result: PackageReport = {
    address,
    architecture: spec.architecture,
    weights: spec.weights,
    layers: layers.size,
    expertLayers:
      new Set(nodesOf(graph, "SparseExperts").map(({ inputs }) => layerOf(inputs[1]!))).size,
    vocabSize: spec.vocabSize,
    contextLength: spec.contextLength,
    parameters: graph.nodes.reduce((sum, node) => sum + parametersOf(graph, node), 0),
    weightBytes: initializers.reduce((sum, { bytes }) => sum + bytes, 0),
    bytesByType,
    cache: {
      kind: expanded === 0 ? "keys and values" : "latent",
      bytesPerToken: spec.cacheBytesPerToken,
      ...(expanded > 0 && {
        expandedBytesPerToken: expanded * bytesPerElement(spec.caches[0]!.type),
      }),
    },
    memory: {
      contextLength: wanted,
      weightBytes: weights,
      cacheBytes: cache,
      workBytes,
      totalBytes: weights + cache + workBytes,
    },
    tensorsOfLayer: lastLayer,
    tensors: initializers
      .filter(({ name }) => [undefined, lastLayer].includes(layerOf(name)))
      .map(({ name, type, dims }) => ({ name, type, dims })),
  };
  return result;
}

/** The layer in a name such as `model.layers.3.mlp` or `cache.layers.3.latent`. */
function layerOf(name: string): number | undefined {
  const match = /\blayers\.(\d+)\./.exec(name);
  return match ? Number(match[1]) : undefined;
}

function nodesOf(graph: GraphModel, op: string): GraphNode[] {
  return graph.nodes.filter((node) => node.op === `hybridseek.${op}`);
}

/** H * (N + R + V) of every layer of latent attention: keys of nope and rope, and values. */
function expandedElementsPerToken(graph: GraphModel): number {
  const rope = 2 * (graph.initializers.get("rotary.cos")?.dims[1] ?? 0);
  return nodesOf(graph, "LatentAttention").reduce((sum, { inputs }) => {
    const [heads, upWidth] = graph.initializers.get(inputs[3]!)!.dims as [number, number];
    return sum + heads * (upWidth + rope);
  }, 0);
}

/** Trained numbers that a node brings in: quantized levels count once, scales and tables do not. */
function parametersOf({ initializers }: GraphModel, node: GraphNode): number {
  const elements = (name: string | undefined) => {
    const dims = initializers.get(name ?? "")?.dims;
    return dims ? dims.reduce((product, size) => product * size, 1) : 0;
  };
  const { inputs, attributes } = node;
  switch (node.op) {
    case "com.microsoft.MatMulNBits":
      return (attributes.get("N") as number) * (attributes.get("K") as number);
    case "hybridseek.SparseExperts": {
      const [, hidden] = initializers.get(inputs[1]!)!.dims as [number, number];
      const [held, pairs] = initializers.get(inputs[2]!)!.dims as [number, number];
      const router = attributes.get("first_expert") === 0 ? elements(inputs[1]) : 0;
      return router + held * hidden * (pairs + pairs / 2);
    }
    case "Gather":
      return inputs[1] === "positions" ? 0 : elements(inputs[0]);
    case "Cast": // of weights that a Gemm uses; scales go to MatMulNBits, which counts by itself
      return initializers.get(inputs[0]!)?.name.endsWith(".scales") ? 0 : elements(inputs[0]);
    default:
      return inputs.reduce((sum, name) => sum + elements(name), 0);
  }
}
