/**
 * One rank's part of a model: a pass over the one-rank graph, node by node, in one function per op.
 *
 * Linear layers that make heads, hidden columns of an MLP or scores of the vocabulary keep a range of their
 * weight's rows; those behind them keep the same range of columns, so that their results are to be added up
 * over the ranks. Each rank holds a range of every layer's experts. Everything else (norms, routers, embedding,
 * rotary tables, compressed queries and latents) is whole on every rank.
 *
 * With data-parallel attention each rank has sequences of its own, and with them whole attention layers: tokens
 * are gathered from all ranks before a split layer, and its sums are scattered to the ranks of the tokens.
 *
 * Pure: nothing is read here. ARCHITECTURE.md, "Ranks".
 * @module
 */
import { clone, create } from "@bufbuild/protobuf";
import { UnsupportedError } from "../../errors.ts";
import { bytesPerElement, dataTypeOf, onnxType } from "../../onnx/data_type.ts";
import {
  type Attributes,
  DOMAIN,
  GraphBuilder,
  type Value,
  valueInfo,
} from "../../onnx/graph_builder.ts";
import {
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "../../onnx/onnx_pb.ts";

/** Which part of a model a process has. */
export interface Shard {
  /** Number of the process, from 0. */
  rank: number;
  /** How many there are, at least 2. */
  ranks: number;
  /** Whether sequences are divided over the ranks, instead of heads. */
  dataParallelAttention: boolean;
  /** What the native library calls the ranks' communicator; attribute of every collective. */
  communicator: number;
}

/** Where a tensor's bytes are: `rows` pieces of `bytes` bytes, each `stride` bytes behind the one before. */
export interface WeightSlice {
  /** Its name in the graph. */
  name: string;
  /** Number of its element type in ONNX. */
  type: number;
  /** Sizes of the axes. */
  dims: number[];
  /** The data file. */
  file: string;
  /** First byte in the file. */
  offset: number;
  /** Pieces; 1 where the bytes are contiguous, and the file itself can be mapped. */
  rows: number;
  /** Bytes of a piece. */
  bytes: number;
  /** Bytes from piece to piece. */
  stride: number;
  /** Of a stack of experts: the first one. */
  firstExpert?: number;
}

/** A rank's part of a model. */
export interface ShardedModel {
  /** Its graph. Tensors of several pieces are external data without a file: they must be given. */
  model: ModelProto;
  /** What it holds of the data files. */
  slices: WeightSlice[];
  /** Heads of its caches, by name. */
  cacheHeads: ReadonlyMap<string, number>;
}

/** The input with the tokens of each rank, [ranks] int32; only with data-parallel attention. */
export const RANK_TOKENS = "rank_tokens";
/** The input with the wanted rows of each rank, [ranks] int32; only with data-parallel attention. */
export const RANK_ROWS = "rank_rows";

/** What the graph calls the number of rows that a rank has, and that all ranks have, by the input that counts them. */
const OWN: Record<string, string> = { [RANK_TOKENS]: "T", [RANK_ROWS]: "Q" };
const ALL: Record<string, string> = { [RANK_TOKENS]: "all_T", [RANK_ROWS]: "all_Q" };

/** Columns that share a scale, the only places where quantized rows can be cut. */
const BLOCK = 32;

/**
 * Cuts a rank's part out of a model.
 *
 * @param model A model file of this library.
 * @param shard Which part.
 * @returns The part.
 * @throws {UnsupportedError} If heads, experts or columns can not be divided among so many, or an op of the graph
 *   is unknown here.
 */
export function shardModel(model: ModelProto, shard: Shard): ShardedModel {
  return new ShardPass(model, shard).run();
}

/** A range of a size, split as evenly as whole numbers allow. @returns Begin and end. */
export function rangeOf(size: number, rank: number, ranks: number): [begin: number, end: number] {
  return [Math.floor(size * rank / ranks), Math.floor(size * (rank + 1) / ranks)];
}

/**
 * What a rank has of a value: all of it; a range of its columns; something that adds up to it over all ranks; or
 * nothing, because its node's weights are on other ranks. With data-parallel attention a whole value has the
 * rank's own tokens, the others have those of all ranks.
 */
type Layout =
  | { kind: "whole" | "partial" | "absent" }
  | { kind: "columns"; begin: number; end: number; size: number };

class ShardPass {
  readonly #model: ModelProto;
  readonly #shard: Shard;
  readonly #graph: GraphBuilder = new GraphBuilder();
  /** All tensors of the model. */
  readonly #stored: ReadonlyMap<string, TensorProto>;
  readonly #slices = new Map<string, WeightSlice>();
  readonly #layouts = new Map<Value, Layout>();
  /** Values with a row per wanted row of logits, not per token. */
  readonly #wantedRows = new Set<Value>();
  /** Casts of weights, put into the graph when the weight is used. */
  readonly #casts = new Map<Value, NodeProto>();
  /** Values that are the same as others. */
  readonly #same = new Map<Value, Value>();
  /** Names of a layer's choice of experts that no node of this rank has given yet, by router. */
  readonly #choices = new Map<Value, [experts: Value, weights: Value]>();
  /** Nodes by the value that they use, and by the one that they make. */
  readonly #users = new Map<Value, NodeProto[]>();
  readonly #makers = new Map<Value, NodeProto>();
  /** Values with the rows of all ranks. */
  readonly #gathered = new Set<Value>();
  /** Shapes of what collectives make. */
  readonly #shapes: ValueInfoProto[] = [];
  /** Columns of the residual stream. */
  readonly #hidden: number;
  readonly #cacheHeads = new Map<string, number>();

  constructor(model: ModelProto, shard: Shard) {
    this.#model = model;
    this.#shard = shard;
    const { node, initializer, input } = model.graph!;
    this.#stored = new Map(initializer.map((tensor) => [tensor.name, tensor]));
    for (const user of node) {
      for (const name of user.input) {
        this.#users.set(name, [...this.#users.get(name) ?? [], user]);
      }
      for (const name of user.output) this.#makers.set(name, user);
    }
    const norm = node.find(({ opType }) => opType === "RMSNormalization");
    if (!norm) throw this.#refusal("it has no norm");
    this.#hidden = this.#dimsOf(norm.input[1]!)[0]!;
    for (const { name } of input) {
      if (name.startsWith("cache.")) this.#cacheHeads.set(name, this.#cacheSizes(name).heads);
    }
  }

  run(): ShardedModel {
    const ops: Record<string, (node: NodeProto) => void> = {
      "Gather": (node) => this.#gather(node),
      "Cast": (node) => this.#cast(node),
      "RMSNormalization": (node) => this.#norm(node),
      "Gemm": (node) => this.#linear(node),
      "com.microsoft.MatMulNBits": (node) => this.#linear(node),
      "Concat": (node) => this.#concat(node),
      "Sigmoid": (node) => this.#elementwise(node),
      "Mul": (node) => this.#elementwise(node),
      "Add": (node) => this.#add(node),
      "hybridseek.LatentAttention": (node) => this.#latentAttention(node),
      "hybridseek.PagedAttention": (node) => this.#pagedAttention(node),
      "hybridseek.SparseExperts": (node) => this.#sparseExperts(node),
    };
    for (const node of this.#model.graph!.node) {
      const op = node.domain === "" ? node.opType : `${node.domain}.${node.opType}`;
      const part = Object.hasOwn(ops, op) ? ops[op] : undefined;
      if (!part) throw this.#refusal(`node ${node.name} is of op ${op}, which is not divided`);
      part(node);
    }
    this.#gatherLogits();
    return {
      model: this.#result(),
      slices: [...this.#slices.values()],
      cacheHeads: this.#cacheHeads,
    };
  }

  // ---- one function per op

  /** Rows of the embedding and of the rotary tables; rows whose logits are wanted. */
  #gather(node: NodeProto) {
    const [table, indices] = node.input as [Value, Value];
    const input = this.#stored.has(table) ? this.#keep(table) : this.#whole(table);
    if (indices === "logit_rows") this.#wantedRows.add(node.output[0]!);
    this.#emit(node, [input, indices], { kind: "whole" });
  }

  #cast(node: NodeProto) {
    const [input] = node.input as [Value];
    if (this.#stored.has(input)) this.#casts.set(node.output[0]!, node);
    else this.#emit(node, [this.#whole(input)], { kind: "whole" });
  }

  #norm(node: NodeProto) {
    const [x, weight] = node.input as [Value, Value];
    if (this.#wantedRows.has(x)) this.#wantedRows.add(node.output[0]!);
    this.#emit(node, [this.#whole(x), this.#keep(weight)], { kind: "whole" });
  }

  #linear(node: NodeProto) {
    const [x, ...weights] = node.input as [Value, ...Value[]];
    const [out] = node.output as [Value];
    const given = this.#layoutOf(x);
    if (given.kind === "columns") {
      const kept = weights.map((name) => this.#weightColumns(node, name, given.begin, given.end));
      const columns = given.end - given.begin;
      this.#emit(node, [this.#resolve(x), ...kept], { kind: "partial" }, { K: columns });
      return;
    }
    const [offset, rows, size] = this.#rowsOf(node);
    const unit = node.opType === "Gemm" ? 1 : BLOCK;
    const wanted = this.#wantedRange(this.#concatOf(node)?.output[0] ?? out, size, unit);
    if (!wanted) {
      const kept = weights.map((name) => this.#weightRows(name, 0, rows));
      this.#emit(node, [this.#whole(x), ...kept], { kind: "whole" });
      return;
    }
    const begin = Math.max(wanted[0], offset);
    const end = Math.min(wanted[1], offset + rows);
    if (begin >= end) {
      this.#layouts.set(out, { kind: "absent" });
      return;
    }
    const kept = weights.map((name) => this.#weightRows(name, begin - offset, end - offset));
    const input = this.#everybodys(x);
    this.#emit(node, [input, ...kept], { kind: "columns", begin, end, size }, { N: end - begin });
  }

  /** Parts of a matrix that was too large for one file. */
  #concat(node: NodeProto) {
    const parts = node.input.filter((name) => this.#layoutOf(name).kind !== "absent");
    const layouts = parts.map((name) => this.#layoutOf(name));
    const [first, last] = [layouts[0], layouts.at(-1)];
    if (first?.kind !== "columns" || last?.kind !== "columns") {
      if (layouts.some(({ kind }) => kind !== first?.kind)) {
        throw this.#refusal(`node ${node.name} joins values that are divided in several ways`);
      }
      return this.#emit(node, parts.map((name) => this.#resolve(name)), first!);
    }
    const layout: Layout = { ...first, end: last.end };
    if (parts.length > 1) return this.#emit(node, parts.map((part) => this.#resolve(part)), layout);
    this.#same.set(node.output[0]!, this.#resolve(parts[0]!));
    this.#layouts.set(node.output[0]!, layout);
  }

  #elementwise(node: NodeProto) {
    const layouts = node.input.map((name) => this.#layoutOf(name));
    if (layouts.every(({ kind }) => kind === "columns")) {
      return this.#emit(node, node.input.map((name) => this.#resolve(name)), layouts[0]!);
    }
    this.#emit(node, node.input.map((name) => this.#whole(name)), { kind: "whole" });
  }

  #add(node: NodeProto) {
    const present = node.input.filter((name) => this.#layoutOf(name).kind !== "absent");
    const partial = present.every((name) => this.#layoutOf(name).kind === "partial");
    if (present.length === 1 && partial) {
      this.#same.set(node.output[0]!, this.#resolve(present[0]!));
      this.#layouts.set(node.output[0]!, { kind: "partial" });
    } else if (present.length === 0) {
      this.#layouts.set(node.output[0]!, { kind: "absent" });
    } else if (partial) {
      this.#emit(node, present.map((name) => this.#resolve(name)), { kind: "partial" });
    } else {
      this.#emit(node, node.input.map((name) => this.#whole(name)), { kind: "whole" });
    }
  }

  #latentAttention(node: NodeProto) {
    const [query, latent, norm, kvB, ...step] = node.input as [
      Value,
      Value,
      Value,
      Value,
      ...Value[],
    ];
    const [heads, up, rank] = this.#dimsOf(kvB) as [number, number, number];
    const layout = this.#layoutOf(query);
    const split = layout.kind === "columns";
    const [begin, end] = split ? this.#heads(heads, "attention") : [0, heads];
    const inputs = [
      split ? this.#resolve(query) : this.#whole(query),
      this.#whole(latent),
      this.#keep(norm),
      this.#weightRows(kvB, begin, end),
      ...step,
    ];
    if (!split) return this.#emit(node, inputs, { kind: "whole" });
    const rope = this.#cacheSizes(step.at(-1)!).width - rank;
    const value = up - (layout.size / heads - rope);
    this.#emit(node, inputs, {
      kind: "columns",
      begin: begin * value,
      end: end * value,
      size: heads * value,
    });
  }

  #pagedAttention(node: NodeProto) {
    const [query, key, value, ...step] = node.input as [Value, Value, Value, ...Value[]];
    const [keys, values] = [step.at(-2)!, step.at(-1)!];
    const layout = this.#layoutOf(query);
    if (layout.kind !== "columns") {
      const inputs = [query, key, value].map((name) => this.#whole(name));
      return this.#emit(node, [...inputs, ...step], { kind: "whole" });
    }
    const { heads: groups, width } = this.#cacheSizes(keys);
    const [begin, end] = this.#heads(groups, "key-value");
    for (const cache of [keys, values]) this.#cacheHeads.set(cache, end - begin);
    const perGroup = layout.size / width / groups * this.#cacheSizes(values).width;
    const inputs = [query, key, value].map((name) => this.#resolve(name));
    this.#emit(node, [...inputs, ...step], {
      kind: "columns",
      begin: begin * perGroup,
      end: end * perGroup,
      size: groups * perGroup,
    });
  }

  /** A node may hold some of a layer's experts only; so may the rank, and not those of this node. */
  #sparseExperts(node: NodeProto) {
    const [x, router, ...stacks] = node.input as [Value, Value, ...Value[]];
    const [y, ...choice] = node.output as [Value, Value, Value];
    const [count] = this.#dimsOf(router) as [number];
    const [held] = this.#dimsOf(stacks[0]!) as [number];
    const first = integerOf(node, "first_expert");
    const [least, most] = this.#shares(count, "routed experts");
    const begin = Math.max(least, first);
    const end = Math.min(most, first + held);
    if (choice[0] !== "") this.#choices.set(router, choice);
    if (begin >= end) {
      this.#layouts.set(y, { kind: "absent" });
      return;
    }
    const kept = stacks.map((name) => this.#weightRows(name, begin - first, end - first));
    for (const name of stacks) this.#slices.get(name)!.firstExpert = begin - first;
    const choices = this.#choices.get(router) ?? ["", ""];
    this.#choices.delete(router);
    const given = create(NodeProtoSchema, { ...node, output: [y, ...choices] });
    const inputs = [this.#everybodys(x), this.#keep(router), ...kept];
    this.#emit(given, inputs, { kind: "partial" }, { first_expert: begin });
  }

  /** The logits are made in ranges of the vocabulary and wanted whole. */
  #gatherLogits() {
    const layout = this.#layoutOf("logits");
    if (layout.kind !== "columns") {
      throw this.#refusal("its logits are not those of a linear layer");
    }
    for (const node of this.#graph.nodes) {
      if (!node.output.includes("logits")) continue;
      node.name = "logits.columns";
      node.output = ["logits.columns"];
      this.#same.set("logits", node.name);
    }
    const counts = Array.from({ length: this.#shard.ranks }, (_, rank) => {
      const [begin, end] = rangeOf(layout.size, rank, this.#shard.ranks);
      return end - begin;
    });
    // Collectives take rows: a Transpose of a single row moves nothing.
    const add = (op: string, inputs: Value[], attributes: Attributes, output: Value) =>
      this.#graph.op(op, inputs, attributes, { outputs: [output] });
    add("Constant", [], { value_ints: counts }, "logits.counts.i64");
    add("Cast", ["logits.counts.i64"], { to: onnxType("i32") }, "logits.counts");
    add("Transpose", [this.#resolve("logits")], { perm: [1, 0] }, "logits.own");
    const rows = this.#shard.dataParallelAttention ? ALL[RANK_ROWS]! : OWN[RANK_ROWS]!;
    this.#collective("AllGather", ["logits.own", "logits.counts"], "logits.all", [
      layout.size,
      rows,
    ]);
    add("Transpose", ["logits.all"], { perm: [1, 0] }, "logits");
  }

  // ---- values

  #layoutOf(value: Value): Layout {
    return this.#layouts.get(value) ?? { kind: "whole" };
  }

  #resolve(value: Value): Value {
    return this.#same.get(value) ?? value;
  }

  /** A value as every rank, or with data-parallel attention the rank of its tokens, has it whole. */
  #whole(value: Value): Value {
    const { kind } = this.#layoutOf(value);
    if (kind === "whole") return this.#resolve(value);
    if (kind !== "partial") throw this.#refusal(`${value} is divided, and wanted whole`);
    const name = this.#resolve(value);
    const sum = `${value}.sum`;
    if (this.#shard.dataParallelAttention) {
      const counts = this.#countsOf(value);
      this.#collective("ReduceScatter", [name, counts], sum, [OWN[counts]!, this.#hidden]);
    } else this.#collective("AllReduce", [name], sum);
    this.#layouts.set(value, { kind: "whole" });
    this.#same.set(value, sum);
    return sum;
  }

  /** A whole value with the rows of all ranks. */
  #everybodys(value: Value): Value {
    const whole = this.#whole(value);
    if (!this.#shard.dataParallelAttention) return whole;
    const name = `${value}.gathered`;
    if (!this.#gathered.has(name)) {
      const counts = this.#countsOf(value);
      this.#collective("AllGather", [whole, counts], name, [ALL[counts]!, this.#hidden]);
      this.#gathered.add(name);
    }
    return name;
  }

  #countsOf(value: Value): Value {
    return this.#wantedRows.has(value) ? RANK_ROWS : RANK_TOKENS;
  }

  #collective(op: string, inputs: Value[], output: Value, dims?: (number | string)[]): Value {
    const { communicator } = this.#shard;
    if (dims) this.#shapes.push(valueInfo(output, "f32", dims));
    return this.#graph.op(op, inputs, { communicator }, { domain: DOMAIN, outputs: [output] });
  }

  #emit(node: NodeProto, input: Value[], layout: Layout, integers: Record<string, number> = {}) {
    const attribute = node.attribute.map((given) =>
      Object.hasOwn(integers, given.name)
        ? create(AttributeProtoSchema, {
          name: given.name,
          type: AttributeType.INT,
          i: BigInt(integers[given.name]!),
        })
        : given
    );
    this.#graph.nodes.push(create(NodeProtoSchema, { ...node, input, attribute }));
    this.#layouts.set(node.output[0]!, layout);
  }

  // ---- ranges

  /** Which columns of a value this rank makes, by what uses it, in multiples of a unit; `undefined`: all. */
  #wantedRange(
    value: Value,
    size: number,
    unit: number,
  ): [begin: number, end: number] | undefined {
    const { dataParallelAttention } = this.#shard;
    if (value === "logits") return this.#shares(size, "rows of the vocabulary");
    for (const user of this.#users.get(value) ?? []) {
      const index = user.input.indexOf(value);
      if (user.opType === "Sigmoid" || user.opType === "Mul") {
        const what = unit === 1 ? "hidden columns" : `blocks of ${BLOCK} hidden columns`;
        const [begin, end] = this.#shares(Math.ceil(size / unit), what);
        return [begin * unit, Math.min(end * unit, size)];
      }
      if (dataParallelAttention) continue;
      const heads = user.opType === "LatentAttention" && index === 0
        ? this.#dimsOf(user.input[3]!)[0]!
        : user.opType === "PagedAttention" && index < 3
        ? this.#cacheSizes(user.input.at(-2)!).heads
        : undefined;
      if (heads === undefined) continue;
      const kind = user.opType === "LatentAttention" ? "attention" : "key-value";
      const [begin, end] = this.#heads(heads, kind);
      return [begin * size / heads, end * size / heads];
    }
    return undefined;
  }

  #heads(heads: number, kind: string): [begin: number, end: number] {
    const { rank, ranks } = this.#shard;
    if (heads % ranks === 0) return rangeOf(heads, rank, ranks);
    throw this.#refusal(
      `its ${heads} ${kind} heads do not divide evenly; use a number of ranks that divides ${heads}, or ` +
        "dataParallelAttention",
    );
  }

  #shares(size: number, what: string): [begin: number, end: number] {
    const { rank, ranks } = this.#shard;
    if (size >= ranks) return rangeOf(size, rank, ranks);
    throw this.#refusal(`it has ${size} ${what}, fewer than ranks; use at most ${size}`);
  }

  /** Where the rows of a linear layer are in the matrix that it is a part of. */
  #rowsOf(node: NodeProto): [offset: number, rows: number, size: number] {
    const rows = (part: NodeProto) => this.#dimsOf(this.#tensorOf(part.input[1]!))[0]!;
    const concat = this.#concatOf(node);
    if (!concat) return [0, rows(node), rows(node)];
    let offset = 0;
    let size = 0;
    for (const name of concat.input) {
      if (name === node.output[0]) offset = size;
      size += rows(this.#makers.get(name)!);
    }
    return [offset, rows(node), size];
  }

  #concatOf({ output: [out] }: NodeProto): NodeProto | undefined {
    return this.#users.get(out!)?.find(({ opType }) => opType === "Concat");
  }

  #cacheSizes(name: string): { heads: number; width: number } {
    const { type } = this.#model.graph!.input.find((input) => input.name === name)!;
    const { dim } = (type!.value as { value: { shape: { dim: { value: { value: bigint } }[] } } })
      .value.shape;
    return { heads: Number(dim[2]!.value.value), width: Number(dim[3]!.value.value) };
  }

  // ---- weights

  /** The stored tensor behind a weight, which may pass through a cast. */
  #tensorOf(weight: Value): string {
    return this.#casts.get(weight)?.input[0] ?? weight;
  }

  #dimsOf(tensor: string): number[] {
    return this.#stored.get(tensor)!.dims.map(Number);
  }

  #keep(tensor: string): Value {
    return this.#weightRows(tensor, 0, this.#dimsOf(tensor)[0]!);
  }

  #weightRows(weight: Value, begin: number, end: number): Value {
    const tensor = this.#tensorOf(weight);
    const [rows, ...inner] = this.#dimsOf(tensor) as [number, ...number[]];
    const { file, offset, bytes } = this.#placeOf(tensor);
    const row = bytes / rows;
    const length = row * (end - begin);
    return this.#use(weight, {
      ...{ dims: [end - begin, ...inner], file, offset: offset + begin * row },
      ...{ rows: 1, bytes: length, stride: length },
    });
  }

  #weightColumns(node: NodeProto, weight: Value, begin: number, end: number): Value {
    const tensor = this.#tensorOf(weight);
    const [rows, columns, ...inner] = this.#dimsOf(tensor) as [number, number, ...number[]];
    const unit = node.opType === "Gemm" ? 1 : BLOCK;
    const last = node.opType !== "Gemm" && end === integerOf(node, "K");
    if (begin % unit !== 0 || (end % unit !== 0 && !last)) {
      throw this.#refusal(
        `columns ${begin} to ${end} of ${tensor} are not blocks of ${BLOCK}; use fewer ranks`,
      );
    }
    const { file, offset, bytes } = this.#placeOf(tensor);
    const [from, to] = [begin / unit, Math.ceil(end / unit)];
    const column = bytes / rows / columns;
    return this.#use(weight, {
      ...{ dims: [rows, to - from, ...inner], file, offset: offset + from * column },
      ...{ rows, bytes: (to - from) * column, stride: columns * column },
    });
  }

  #use(weight: Value, place: Omit<WeightSlice, "name" | "type">): Value {
    const name = this.#tensorOf(weight);
    if (!this.#slices.has(name)) {
      const { dataType: type } = this.#stored.get(name)!;
      this.#slices.set(name, { name, type, ...place });
      const cast = this.#casts.get(weight);
      if (cast) this.#graph.nodes.push(cast);
    }
    return weight;
  }

  #placeOf(tensor: string): { file: string; offset: number; bytes: number } {
    const { externalData, dims, dataType } = this.#stored.get(tensor)!;
    const entries = new Map(externalData.map(({ key, value }) => [key, value]));
    const element = bytesPerElement(dataTypeOf(dataType)!);
    return {
      file: entries.get("location")!,
      offset: Number(entries.get("offset") ?? "0"),
      bytes: dims.reduce((product, size) => product * Number(size), element),
    };
  }

  // ---- the result

  #result(): ModelProto {
    const graph = this.#model.graph!;
    const { ranks, dataParallelAttention } = this.#shard;
    const cache = (name: string) => {
      const { width } = this.#cacheSizes(name.replace(/\.out$/, ""));
      return valueInfo(name, "f32", [
        ...["blocks", "P"],
        this.#cacheHeads.get(name.replace(/\.out$/, ""))!,
        width,
      ]);
    };
    const counts = dataParallelAttention ? [RANK_TOKENS, RANK_ROWS] : [];
    return create(ModelProtoSchema, {
      ...this.#model,
      graph: create(GraphProtoSchema, {
        name: graph.name,
        node: this.#graph.nodes,
        initializer: [...this.#slices.values()].map(tensorProto),
        input: [
          ...graph.input.map((value) =>
            value.name.startsWith("cache.") ? cache(value.name) : value
          ),
          ...counts.map((name) => valueInfo(name, "i32", [ranks])),
        ],
        valueInfo: this.#shapes,
        output: graph.output.map((value) =>
          value.name.startsWith("cache.") ? cache(value.name) : this.#output(value)
        ),
      }),
    });
  }

  /** An output; with data-parallel attention it has the rows of all ranks. */
  #output(value: ValueInfoProto): ValueInfoProto {
    if (!this.#shard.dataParallelAttention) return value;
    const copy = clone(ValueInfoProtoSchema, value);
    if (copy.type?.value.case !== "tensorType") return copy;
    const [rows] = copy.type.value.value.shape!.dim;
    if (rows?.value.case === "dimParam") rows.value.value = `all_${rows.value.value}`;
    return copy;
  }

  #refusal(what: string): UnsupportedError {
    return new UnsupportedError(
      `Cannot divide the model among ${this.#shard.ranks} ranks: ${what}.`,
    );
  }
}

/** A tensor of the data files; one of several pieces has no file. */
function tensorProto({ name, type, dims, file, offset, rows, bytes }: WeightSlice): TensorProto {
  const places = { location: rows === 1 ? file : "given", offset, length: rows * bytes };
  return create(TensorProtoSchema, {
    name,
    dataType: type,
    dims: dims.map(BigInt),
    dataLocation: 1,
    externalData: Object.entries(places).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value: String(value) })
    ),
  });
}

function integerOf(node: NodeProto, name: string): number {
  return Number(node.attribute.find((attribute) => attribute.name === name)?.i ?? 0);
}
