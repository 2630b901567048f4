/**
 * What a token costs by a package's graph: bytes that must be read and operations that must be done.
 * @module
 */
import { ModelPackage } from "../src/files/model_package.ts";
import { type ModelSpec, modelSpec } from "../src/model_spec.ts";
import { type GraphModel, type GraphNode, readModel } from "../src/onnx/read_model.ts";

/** Costs of a model. */
export interface PackageFacts {
  /** Layers, by the caches. */
  layers: number;
  /** Columns of the logits. */
  vocabSize: number;
  /** Storage of the weights. */
  weights: string;
  /** Bytes of all tensors. */
  weightBytes: number;
  /** Bytes of routed experts, of all layers. */
  expertBytes: number;
  /** Cache bytes read for each token of the context, as f32. */
  cacheBytesPerToken: number;
  /**
   * Bytes of weights that one step reads: everything once, but of the experts those that are chosen,
   * and no embedding rows nor rotary tables.
   * @param sequences Tokens of the step, each choosing its experts evenly by itself.
   * @returns Expected bytes.
   */
  stepBytes(sequences: number): number;
  /** Multiply-adds of one token without attention over the context and without the head, times 2. */
  operationsPerToken: number;
  /** Multiply-adds of one token with one cached token, times 2: scores and values of all heads. */
  attentionOperationsPerKey: number;
}

/**
 * Reads the costs off a package.
 *
 * @param folder The package.
 * @returns Its costs.
 */
export async function packageFacts(folder: string): Promise<PackageFacts> {
  const model = await ModelPackage.open(folder);
  try {
    const graph = readModel("model.onnx", await model.readAll("model.onnx"));
    const spec = modelSpec(graph);
    const sums = sumOf(graph);
    return {
      layers: new Set(spec.caches.map(({ name }) => /layers\.\d+/.exec(name)?.[0])).size,
      vocabSize: spec.vocabSize,
      weights: spec.weights,
      weightBytes: [...graph.initializers.values()].reduce((sum, { bytes }) => sum + bytes, 0),
      expertBytes: sums.experts.reduce((sum, { bytes }) => sum + bytes, 0),
      cacheBytesPerToken: spec.cacheBytesPerToken,
      stepBytes: (sequences) =>
        sums.always +
        sums.experts.reduce(
          (sum, { bytes, share }) => sum + bytes * (1 - (1 - share) ** sequences),
          0,
        ),
      operationsPerToken: sums.operations,
      attentionOperationsPerKey: attentionOperations(graph, spec),
    };
  } finally {
    await model.close();
  }
}

/** Bytes that every step reads, those of expert stacks with the share a token uses, and operations. */
function sumOf(graph: GraphModel) {
  const experts: { bytes: number; share: number }[] = [];
  let always = 0;
  let operations = 0;
  const counted = new Set<string>();
  for (const node of graph.nodes) {
    if (node.op === "Gather") continue;
    const stacked = node.op === "hybridseek.SparseExperts";
    for (const [index, name] of node.inputs.entries()) {
      const tensor = graph.initializers.get(name);
      if (!tensor || counted.has(name)) continue;
      counted.add(name);
      const isStack = stacked && index >= 2; // after x and router
      const share = isStack ? expertShare(graph, node) : 1;
      if (isStack) experts.push({ bytes: tensor.bytes, share });
      else always += tensor.bytes;
      if (name.endsWith(".scales") || name.startsWith("lm_head")) continue;
      const perByte = tensor.type === "u8" ? (isInt4(graph, name) ? 2 : 1) : 0;
      const elements = perByte > 0
        ? tensor.bytes * perByte
        : tensor.dims.reduce((product, size) => product * size, 1);
      operations += 2 * elements * share;
    }
  }
  return { always, experts, operations };
}

/**
 * Latents: each head meets the whole row [C + R] for its score and C of it for its value. Keys and values:
 * each query head meets one key and one value.
 */
function attentionOperations(graph: GraphModel, { caches }: ModelSpec): number {
  const widthOf = (name: string) => caches.find((cache) => cache.name === name)?.width ?? 0;
  return graph.nodes.reduce((sum, { op, inputs }) => {
    if (op === "hybridseek.LatentAttention") {
      const [heads, , rank] = graph.initializers.get(inputs[3]!)!.dims;
      return sum + 2 * heads! * (widthOf(inputs.at(-1)!) + rank!);
    }
    if (op !== "hybridseek.PagedAttention") return sum;
    const width = widthOf(inputs.at(-2)!);
    const heads = queryWidth(graph, inputs[0]!) / width;
    return sum + 2 * heads * (width + widthOf(inputs.at(-1)!));
  }, 0);
}

/** Columns of a value that a linear layer made. */
function queryWidth(graph: GraphModel, name: string): number {
  const node = graph.nodes.find(({ outputs }) => outputs.includes(name))!;
  const weight = node.inputs.map((input) => graph.initializers.get(input)).find((found) => found);
  return weight?.dims[0] ?? 0;
}

function expertShare(graph: GraphModel, node: GraphNode): number {
  const count = graph.initializers.get(node.inputs[1]!)!.dims[0]!;
  return (node.attributes.get("k") as number) / count;
}

/** Two levels a byte: a block of 32 has one scale, so 16 bytes. */
function isInt4(graph: GraphModel, name: string): boolean {
  const scales = graph.initializers.get(`${name}.scales`);
  return scales !== undefined && graph.initializers.get(name)!.bytes / (scales.bytes / 2) === 16;
}
