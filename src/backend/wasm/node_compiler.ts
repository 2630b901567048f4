/**
 * What the compilation of one node may do: look at its inputs, plan tensors, emit instructions, refuse.
 * @module
 */
import { InvalidFileError, UnsupportedError } from "../../errors.ts";
import type { DataType } from "../../onnx/data_type.ts";
import type { GraphNode, Initializer } from "../../onnx/read_model.ts";
import type { StepLimits } from "../step_plan.ts";
import type { EngineSizes } from "./engine_module.ts";
import { type CacheType, FORMATS, type RowCount, type WeightFormat } from "./opcodes.ts";
import { PLACE_BYTES } from "./expert_places.ts";
import type { ProgramBuilder, TensorId } from "./program_builder.ts";

/** A value with one row per token or per wanted row of logits, f32 or i32 in memory. */
export interface RowsValue {
  kind: "rows";
  /** Its memory. */
  tensor: TensorId;
  /** What counts its rows. */
  rows: RowCount;
  /** Elements of a row. */
  width: number;
  /** Its type in the graph. Half-precision rows are f32 in memory and good for a Cast only. */
  type: DataType;
}

/** What a name of the graph stands for while it is compiled. */
export type Value =
  | RowsValue
  | { kind: "stored"; initializer: Initializer; widened: boolean } // widened: cast to f32
  | { kind: "input"; tensor: TensorId }
  | { kind: "cache"; tensor: TensorId; heads: number; width: number };

/** What all nodes of a graph share while they are compiled. */
export interface Compilation {
  /** The model file's address, for messages. */
  readonly file: string;
  /** The largest step. */
  readonly limits: StepLimits;
  /** How many threads compute. */
  readonly threads: number;
  /** How caches are stored. */
  readonly cacheType: CacheType;
  /** Whether a result must not depend on how prompts are cut into steps, nor on the machine. */
  readonly exact: boolean;
  /** Whether routed experts are read when they are chosen, and not loaded. */
  readonly expertsOnDemand: boolean;
  /** Tells how large packed weights and temporary memory are. */
  readonly engine: EngineSizes;
  /** The program so far. */
  readonly builder: ProgramBuilder;
  /** What each name stands for. */
  readonly values: Map<string, Value>;
  /** Quantized rows of a value, made once for all its uses. */
  readonly quantized: Map<TensorId, TensorId>;
  /** Names of the graph's outputs. */
  readonly wanted: ReadonlySet<string>;
}

/** What a kernel uses to compile one node. */
export class NodeCompiler {
  /** The node. */
  readonly node: GraphNode;
  /** The largest step. */
  readonly limits: StepLimits;
  /** How many threads compute. */
  readonly threads: number;
  /** How caches are stored. */
  readonly cacheType: CacheType;
  /** Whether a result must not depend on how prompts are cut into steps, nor on the machine. */
  readonly exact: boolean;
  /** Tells how large packed weights and temporary memory are. */
  readonly engine: EngineSizes;
  readonly #compilation: Compilation;

  constructor(compilation: Compilation, node: GraphNode) {
    this.node = node;
    this.limits = compilation.limits;
    this.threads = compilation.threads;
    this.cacheType = compilation.cacheType;
    this.exact = compilation.exact;
    this.engine = compilation.engine;
    this.#compilation = compilation;
  }

  /** Adds an instruction. */
  emit(...[opcode, operands]: Parameters<ProgramBuilder["emit"]>): void {
    this.#compilation.builder.emit(opcode, operands);
  }

  /** The value of an input. */
  input(index: number): Value {
    return this.#compilation.values.get(this.node.inputs[index] ?? "") ??
      this.refuse(`its input ${index} is missing`);
  }

  /** An input that must be rows of f32, of a given width where one is given. */
  rows(index: number, width?: number): RowsValue {
    const value = this.input(index);
    if (value.kind !== "rows" || value.type !== "f32") {
      this.refuse(`its input ${index} is no f32 row`);
    }
    if (width !== undefined && value.width !== width) {
      this.refuse(`its input ${index} has ${value.width} columns, needed are ${width}`);
    }
    return value;
  }

  /** An input that must be a stored tensor, with as many axes as given. */
  stored(index: number, axes: number): Initializer & { widened: boolean } {
    const value = this.input(index);
    if (value.kind !== "stored") this.refuse(`its input ${index} is no stored tensor`);
    if (value.initializer.dims.length !== axes) {
      this.refuse(`its input ${index} is [${value.initializer.dims}], needed are ${axes} axes`);
    }
    return { ...value.initializer, widened: value.widened };
  }

  /** An input of the step. */
  stepInput(index: number): TensorId {
    const value = this.input(index);
    return value.kind === "input"
      ? value.tensor
      : this.refuse(`its input ${index} is no step input`);
  }

  /** A cache. */
  cache(index: number, heads: number, width: number): TensorId {
    const value = this.input(index);
    if (value.kind !== "cache" || value.heads !== heads || value.width !== width) {
      this.refuse(`its input ${index} is no cache of ${heads} heads of ${width}`);
    }
    return value.tensor;
  }

  /** Declares an output with the same memory as another value. */
  alias(index: number, value: Value): void {
    const name = this.node.outputs[index];
    if (name) this.#compilation.values.set(name, value);
  }

  /** Declares an output and plans its memory. */
  output(index: number, rows: RowCount, width: number, type: DataType = "f32"): TensorId {
    const name = this.node.outputs[index] ?? "";
    const use = this.#compilation.wanted.has(name) ? "output" : "value";
    const count = this.limits[rows];
    const tensor = this.#compilation.builder.tensor(use, count * width * 4);
    this.alias(index, { kind: "rows", tensor, rows, width, type });
    return tensor;
  }

  /** Plans memory that only this node uses. */
  scratch(bytes: number): TensorId {
    return this.#compilation.builder.tensor("value", bytes);
  }

  /** A stored tensor, loaded as it is. */
  raw(initializer: Initializer): TensorId {
    const tensor = this.#compilation.builder.tensor("weight", initializer.bytes);
    this.#compilation.builder.loads.push({ kind: "raw", tensor, source: initializer });
    return tensor;
  }

  /** Stored matrices [count, rows, columns], packed while they are loaded. */
  matrices(
    format: WeightFormat,
    source: Initializer,
    scales: Initializer | undefined,
    [count, rows, columns]: [number, number, number],
  ): TensorId {
    const bytes = this.engine.packed_bytes(FORMATS[format], rows, columns) * count;
    const tensor = this.#compilation.builder.tensor("weight", bytes);
    this.#compilation.builder.loads.push({
      kind: "matrices",
      tensor,
      source,
      scales,
      format,
      rows,
      columns,
      count,
    });
    return tensor;
  }

  /** Routed experts: stacks that are loaded, or places that they are read to when they are chosen. */
  experts(
    format: WeightFormat,
    sizes: { held: number; k: number; hidden: number; width: number },
    gateUp: Initializer[],
    down: Initializer[],
  ): { layer: number; places: TensorId; supply: TensorId } {
    const { builder, expertsOnDemand } = this.#compilation;
    const { held, k, hidden, width } = sizes;
    const stackOf = ([levels, scales]: Initializer[], rows: number, columns: number) =>
      this.matrices(format, levels!, scales, [held, rows, columns]);
    const stacks = expertsOnDemand ? undefined : {
      gateUp: stackOf(gateUp, 2 * width, hidden),
      down: stackOf(down, hidden, width),
    };
    builder.supply ??= builder.tensor("table", 0);
    if (expertsOnDemand) {
      const supply = builder.tensors[builder.supply]!;
      supply.bytes = Math.max(supply.bytes, this.engine.supply_bytes(held));
    }
    const places = builder.tensor("table", held * PLACE_BYTES);
    builder.experts.push({
      ...{ places, held, k, stacks },
      stored: [...gateUp, ...down],
      stagedBytes: this.engine.staged_expert_bytes(FORMATS[format], hidden, width),
      packed: {
        gateUp: this.engine.packed_bytes(FORMATS[format], 2 * width, hidden),
        down: this.engine.packed_bytes(FORMATS[format], hidden, width),
      },
    });
    return { layer: builder.experts.length - 1, places, supply: builder.supply };
  }

  /** A stored kv_b_proj, packed while it is loaded. */
  latentUp(
    format: WeightFormat,
    source: Initializer,
    sizes: { heads: number; nope: number; value: number; rank: number },
  ): TensorId {
    const { heads, nope, value, rank } = sizes;
    const bytes = heads * this.engine.kv_b_head_bytes(FORMATS[format], nope, value, rank);
    const tensor = this.#compilation.builder.tensor("weight", bytes);
    this.#compilation.builder.loads.push({ kind: "latentUp", tensor, source, format, ...sizes });
    return tensor;
  }

  /** Rows as int8 blocks; made once for all uses of a value. */
  quantized({ tensor, rows, width }: RowsValue): TensorId {
    let blocks = this.#compilation.quantized.get(tensor);
    if (blocks === undefined) {
      const bytes = this.limits[rows] * this.engine.quantized_row_bytes(width);
      blocks = this.#compilation.builder.tensor("value", bytes);
      this.emit("quantize", [{ tensor }, width, { rows }, { tensor: blocks }]);
      this.#compilation.quantized.set(tensor, blocks);
    }
    return blocks;
  }

  /** A whole-number attribute; `fallback` is ONNX's default where the node leaves it out. */
  integer(name: string, fallback?: number): number {
    const value = this.node.attributes.get(name) ?? fallback;
    return Number.isSafeInteger(value) ? value as number : this.refuse(`its ${name} is ${value}`);
  }

  /** A float attribute. */
  float(name: string, fallback?: number): number {
    const value = this.node.attributes.get(name) ?? fallback;
    return typeof value === "number" ? value : this.refuse(`its ${name} is ${value}`);
  }

  /** Refuses a node that a kernel can not do. */
  refuse(what: string): never {
    throw new UnsupportedError(
      `Cannot run ${this.#compilation.file} on backend wasm: ${this.node.op} ${this.node.name}: ` +
        `${what}; use { backend: "ort" }.`,
    );
  }

  /** Refuses a file whose sizes contradict one another. */
  contradiction(what: string): never {
    throw new InvalidFileError(
      this.#compilation.file,
      `Cannot run ${this.#compilation.file}: ${this.node.op} ${this.node.name}: ${what}; export the ` +
        "checkpoint again.",
    );
  }
}
