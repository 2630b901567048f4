/**
 * What a graph says of its model. Nothing here knows a model by its name: sizes are those of the graph's
 * inputs, outputs and tensors.
 * @module
 */
import { InvalidFileError } from "./errors.ts";
import { bytesPerElement, type DataType } from "./onnx/data_type.ts";
import type { GraphModel } from "./onnx/read_model.ts";

/** A cache that the graph declares. */
export interface CacheSpec {
  /** Input's name, for example `cache.layers.0.latent`; the output is `<name>.out`. */
  name: string;
  /** Element type. */
  type: DataType;
  /** Heads of a row. */
  heads: number;
  /** Elements of a head. */
  width: number;
}

/** A layer that chooses experts. */
export interface ExpertLayer {
  /** Its number, from 0. */
  layer: number;
  /** The graph's output that says which were chosen: [T, K]. */
  output: string;
  /** How many there are to choose from. */
  experts: number;
}

/** What a runtime must know of a model. */
export interface ModelSpec {
  /** Family, as the exporter named it. */
  architecture: string;
  /** Storage of the weights, as the exporter named it. */
  weights: string;
  /** Columns of the logits. */
  vocabSize: number;
  /** Positions that the rotary tables hold. */
  contextLength: number;
  /** Every cache. */
  caches: CacheSpec[];
  /** Bytes that one token takes in all caches together. */
  cacheBytesPerToken: number;
  /** The layers with experts whose choices the graph tells. */
  expertLayers: ExpertLayer[];
}

/**
 * Reads the spec off a graph.
 *
 * @param graph A model file's graph.
 * @returns The spec.
 * @throws {InvalidFileError} If the graph has not the inputs and outputs of the step contract.
 */
export function modelSpec(graph: GraphModel): ModelSpec {
  const logits = graph.outputs.find(({ name }) => name === "logits");
  const vocabSize = logits?.dims[1];
  if (typeof vocabSize !== "number") fail(graph, "it has no output logits [Q, vocabulary]");
  const rotary = graph.nodes.find(({ op, inputs }) => op === "Gather" && inputs[1] === "positions");
  const contextLength = rotary && graph.initializers.get(rotary.inputs[0]!)?.dims[0];
  if (contextLength === undefined) fail(graph, "it has no rotary tables");
  const caches = graph.inputs
    .filter(({ name }) => name.startsWith("cache."))
    .map(({ name, type, dims }): CacheSpec => {
      const [, , heads, width] = dims;
      if (dims.length !== 4 || typeof heads !== "number" || typeof width !== "number") {
        fail(graph, `cache ${name} is [${dims}], not [blocks, P, heads, width]`);
      }
      return { name, type, heads, width };
    });
  if (caches.length === 0) fail(graph, "it has no cache");
  const cacheBytesPerToken = caches.reduce(
    (sum, { type, heads, width }) => sum + bytesPerElement(type) * heads * width,
    0,
  );
  const { architecture = "unknown", weights = "unknown" } = graph.metadata;
  return {
    ...{ architecture, weights, vocabSize, contextLength, caches, cacheBytesPerToken },
    expertLayers: expertLayersOf(graph),
  };
}

function expertLayersOf(graph: GraphModel): ExpertLayer[] {
  return graph.outputs.flatMap(({ name }) => {
    const layer = /^layers\.(\d+)\.experts$/.exec(name)?.[1];
    const router = layer && graph.nodes.find(({ outputs }) => outputs.includes(name))?.inputs[1];
    const experts = router && graph.initializers.get(router)?.dims[0];
    return experts ? [{ layer: Number(layer), output: name, experts }] : [];
  });
}

function fail(graph: GraphModel, what: string): never {
  throw new InvalidFileError(
    graph.file,
    `Cannot run ${graph.file}: ${what}; export the checkpoint again.`,
  );
}
