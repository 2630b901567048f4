/**
 * The parts that every decoder of the family is built from: embedding, norms, linear layers, caches,
 * rotary rows, head. A part adds nodes to the graph and the weights they use to the store.
 * @module
 */
import { GraphBuilder, type Value, valueInfo } from "../../src/onnx/graph_builder.ts";
import type { FunctionProto, ValueInfoProto } from "../../src/onnx/onnx_pb.ts";
import type { DataType } from "../../src/onnx/data_type.ts";
import { InvalidFileError } from "../../src/errors.ts";
import type { CheckpointTensors, Rows } from "../checkpoint.ts";
import type { ModelConfig } from "../model_config.ts";
import { f32 } from "../quantization/f32.ts";
import { BLOCK, type MatrixFormat } from "../quantization/matrix_format.ts";
import { recipes, type Role, type Weights } from "../quantization/recipe.ts";
import { rotary } from "../rotary.ts";
import { sliceColumns, sliceRows } from "../row_sources.ts";
import { largestTensorBytes, type StoredTensor, WeightStore } from "../weight_store.ts";

/** The inputs of a step that every graph declares, see ARCHITECTURE.md, "The step". */
const STEP: [name: string, dims: string[]][] = [
  ["token_ids", ["T"]],
  ["positions", ["T"]],
  ["slots", ["T"]],
  ["query_starts", ["B_plus_1"]],
  ["context_lengths", ["B"]],
  ["block_tables", ["B", "M"]],
  ["logit_rows", ["Q"]],
];

/** How a checkpoint is exported. */
export interface DecoderOptions {
  /** Storage of the weights. */
  weights: Weights;
  /** No stored tensor may be larger, bytes; larger matrices are split. */
  maxTensorBytes: number;
}

/** Builds one decoder's graph. */
export class DecoderBuilder {
  /** The nodes. */
  readonly graph: GraphBuilder = new GraphBuilder();
  /** The weights. */
  readonly weights: WeightStore = new WeightStore();
  /** The graph's inputs. */
  readonly inputs: ValueInfoProto[];
  /** The graph's outputs. */
  readonly outputs: ValueInfoProto[] = [];
  /** config.json. */
  readonly config: ModelConfig;
  readonly #functions = new Map<string, FunctionProto>();
  readonly #checkpoint: CheckpointTensors;
  readonly #options: DecoderOptions;
  readonly #unused: Set<string>;

  /**
   * @param checkpoint Where config and weights come from.
   * @param options How they are stored.
   */
  constructor(checkpoint: CheckpointTensors, options: DecoderOptions) {
    this.#checkpoint = checkpoint;
    this.#options = options;
    this.#unused = new Set(checkpoint.names());
    this.config = checkpoint.config;
    this.inputs = STEP.map(([name, dims]) => valueInfo(name, "i32", dims));
  }

  /** The model-local functions that the nodes use. @returns One per op and overload. */
  functions(): FunctionProto[] {
    return [...this.#functions.values()];
  }

  /** Registers the body of an op that a node uses. @param body The function. */
  useFunction(body: FunctionProto): void {
    this.#functions.set(`${body.name} ${body.overload}`, body);
  }

  /** The format of a role's matrices. @param role What they are for. @returns The format. */
  format(role: Role): MatrixFormat {
    return recipes[this.#options.weights][role];
  }

  /**
   * A tensor of the checkpoint, marked as used.
   *
   * @param name Its name.
   * @param shape Its shape by the config.
   * @returns Its rows.
   */
  rows(name: string, shape: number[]): Rows {
    this.#unused.delete(name);
    return this.#checkpoint.rows(name, shape);
  }

  /**
   * Embedding rows of the step's tokens, f32.
   *
   * @param vocab Rows of the table.
   * @param hidden Columns of the table.
   * @returns [T, hidden].
   */
  embedding(vocab: number, hidden: number): Value {
    const name = "model.embed_tokens.weight";
    const table = this.rows(name, [vocab, hidden]);
    const format = this.format("embedding");
    const parts = this.#partCount(largestTensorBytes(vocab, hidden, format), hidden);
    const gathered = split(hidden, parts).map(([begin, end], part) => {
      const source = parts === 1 ? table : sliceColumns(table, begin, end);
      const [tensor] = this.weights.add(partName(name, part, parts), source, format);
      const rows = this.graph.op("Gather", [tensor!.name, "token_ids"]);
      return tensor!.type === "f32" ? rows : this.graph.cast(rows, "f32");
    });
    return this.#join(gathered, "embedding");
  }

  /**
   * The step's rows of the rotary tables, named `cos` and `sin`, [T, width/2].
   *
   * @param width How many elements of a head rotate.
   * @returns The factor on the softmax scale that the config asks for.
   */
  rotary(width: number): number {
    if (width % 2 !== 0) {
      throw new InvalidFileError(
        this.config.path,
        `Cannot use ${this.config.path}: ${width} rotary dimensions per head, needed is an even number.`,
      );
    }
    const { cos, sin, softmaxFactor } = rotary(this.config, width);
    for (const [name, table] of [["cos", cos], ["sin", sin]] as const) {
      const [tensor] = this.weights.add(`rotary.${name}`, table, f32);
      this.graph.op("Gather", [tensor!.name, "positions"], {}, { outputs: [name] });
    }
    return softmaxFactor;
  }

  /** RMS norm. @param x [rows, width]. @param name The weight. @returns [rows, width]. */
  norm(x: Value, name: string, width: number, epsilon: number, out: Value): Value {
    const weight = this.vector(name, width);
    const attributes = { axis: -1, epsilon: { float: epsilon } };
    return this.graph.op("RMSNormalization", [x, weight], attributes, { outputs: [out] });
  }

  /** A vector of the checkpoint as f32. @param name Its name. @returns The initializer's name. */
  vector(name: string, width: number): Value {
    return this.weights.add(name, this.rows(name, [width]), f32, [])[0]!.name;
  }

  /**
   * `x` times the transpose of a weight of the checkpoint: `Gemm` with its bytes as they are, or
   * `com.microsoft.MatMulNBits` where it is quantized.
   *
   * @param x [rows, columns].
   * @param name The weight.
   * @param shape [out, columns].
   * @param out Name of the result.
   * @param role Decides the format.
   * @param source The weight's rows, where they are not the checkpoint's of this name.
   * @returns [rows, out].
   */
  linear(
    x: Value,
    name: string,
    shape: [out: number, columns: number],
    out: Value,
    role: "linear" | "head" = "linear",
    source: Rows = this.rows(name, shape),
  ): Value {
    const format = this.format(role);
    const parts = this.#partCount(largestTensorBytes(...shape, format), shape[0]);
    const results = split(shape[0], parts).map(([begin, end], part) => {
      const rows = parts === 1 ? source : sliceRows(source, begin, end);
      return this.#multiply(
        x,
        partName(name, part, parts),
        rows,
        format,
        partName(out, part, parts),
      );
    });
    return this.#join(results, out);
  }

  #multiply(x: Value, name: string, source: Rows, format: MatrixFormat, out: Value): Value {
    const { rows, columns } = source;
    if (format.name === "f32" || format.name === "f16") {
      const [tensor] = this.weights.add(name, source, format);
      return this.graph.op("Gemm", [x, this.#asFloat(tensor!)], { transB: 1 }, { outputs: [out] });
    }
    const blocks = Math.ceil(columns / BLOCK);
    const [packed, scales] = this.weights.add(name, source, format);
    packed!.dims = [rows, blocks, packed!.dims[1]! / blocks]; // MatMulNBits wants the blocks as an axis
    const bits = format.name === "int4" ? 4 : 8;
    return this.graph.op(
      "MatMulNBits",
      [x, packed!.name, this.#asFloat(scales!)],
      { K: columns, N: rows, bits, block_size: BLOCK, accuracy_level: 0 },
      { domain: "com.microsoft", outputs: [out] },
    );
  }

  /** An initializer as f32: the ops of stock onnxruntime want one float type for all their inputs. */
  #asFloat(tensor: StoredTensor): Value {
    if (tensor.type === "f32") return tensor.name;
    return this.graph.op("Cast", [tensor.name], { to: 1 }, { outputs: [`${tensor.name}.f32`] });
  }

  /**
   * A gated MLP: down(silu(gate x) * up x).
   *
   * @param x [T, hidden].
   * @param prefix Of the names of its three weights.
   * @param hidden Width of input and output.
   * @param intermediate Width inside.
   * @param out Name of the result.
   * @returns [T, hidden].
   */
  mlp(x: Value, prefix: string, hidden: number, intermediate: number, out: Value): Value {
    const gate = this.linear(
      x,
      `${prefix}.gate_proj.weight`,
      [intermediate, hidden],
      `${out}.gate`,
    );
    const up = this.linear(x, `${prefix}.up_proj.weight`, [intermediate, hidden], `${out}.up`);
    const silu = this.graph.op("Mul", [gate, this.graph.op("Sigmoid", [gate])]);
    const product = this.graph.op("Mul", [silu, up]);
    return this.linear(product, `${prefix}.down_proj.weight`, [hidden, intermediate], out);
  }

  /** `a + b`. @param out Name of the result. @returns It. */
  add(a: Value, b: Value, out: Value): Value {
    return this.graph.op("Add", [a, b], {}, { outputs: [out] });
  }

  /**
   * Declares a cache: an input of this name and the output `<name>.out`.
   *
   * @param name For example `cache.layers.0.latent`.
   * @param heads Heads of a row.
   * @param width Elements of a head.
   * @returns Both names.
   */
  cache(name: string, heads: number, width: number): [cache: Value, out: Value] {
    const out = `${name}.out`;
    this.inputs.push(valueInfo(name, "f32", ["blocks", "P", heads, width]));
    this.outputs.push(valueInfo(out, "f32", ["blocks", "P", heads, width]));
    return [name, out];
  }

  /** Declares an output. @param name Its name. @param type Its type. @param dims Its sizes. */
  output(name: string, type: DataType, dims: (number | string)[]): void {
    this.outputs.push(valueInfo(name, type, dims));
  }

  /**
   * Final norm and head over the wanted rows; declares the output `logits` [Q, vocab].
   *
   * @param x [T, hidden].
   * @param vocab Rows of the head.
   * @param hidden Columns of the head.
   * @param epsilon Of the norm.
   */
  head(x: Value, vocab: number, hidden: number, epsilon: number): void {
    const rows = this.graph.op("Gather", [x, "logit_rows"]);
    const normed = this.norm(rows, "model.norm.weight", hidden, epsilon, "final");
    const weight = "lm_head.weight";
    const tied = this.config.boolean("tie_word_embeddings", false);
    if (tied) this.#unused.delete(weight);
    const source = this.rows(tied ? "model.embed_tokens.weight" : weight, [vocab, hidden]);
    this.linear(normed, weight, [vocab, hidden], "logits", "head", source);
    this.outputs.unshift(valueInfo("logits", "f32", ["Q", vocab]));
  }

  /**
   * Refuses a checkpoint with tensors that the graph does not use: leaving out a bias or an adapter
   * would give wrong numbers without a word.
   *
   * @throws {InvalidFileError} If such a tensor exists.
   */
  checkAllUsed(): void {
    const left = [...this.#unused].filter((name) => !name.endsWith(".rotary_emb.inv_freq"));
    if (left.length === 0) return;
    const some = left.sort().slice(0, 3).join(", ");
    throw new InvalidFileError(
      this.#checkpoint.folder,
      `Cannot export ${this.#checkpoint.folder}: ${left.length} of its tensors have no place in the ` +
        `graph that config.json describes (${some}${left.length > 3 ? ", ..." : ""}); check that ` +
        "config.json is of this model.",
    );
  }

  /** How many parts a matrix must be split into, along an axis of `axis` elements. */
  #partCount(bytes: number, axis: number): number {
    return Math.min(axis, Math.ceil(bytes / this.#options.maxTensorBytes));
  }

  #join(parts: Value[], out: Value): Value {
    if (parts.length === 1) return parts[0]!;
    return this.graph.op("Concat", parts, { axis: 1 }, { outputs: [out] });
  }

  /** How many experts of a stack one tensor may hold. @param bytes Of one. @returns At least 1. */
  expertsPerTensor(bytes: number): number {
    return Math.max(1, Math.floor(this.#options.maxTensorBytes / bytes));
  }
}

function partName(name: string, part: number, parts: number): string {
  return parts === 1 ? name : `${name}.part${part}`;
}

/** At least `count` ranges over [0, size), none larger than `size / count` rounded up. */
function split(size: number, count: number): [begin: number, end: number][] {
  const even = Math.ceil(size / count);
  const step = count > 1 && even >= 8 ? Math.floor(even / 8) * 8 : even; // kernels take rows by 8
  const ranges: [number, number][] = [];
  for (let begin = 0; begin < size; begin += step) {
    ranges.push([begin, Math.min(begin + step, size)]);
  }
  return ranges;
}
