/**
 * Writing ONNX: nodes of a graph or of a function body, as expressions over value names.
 * @module
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  type FunctionProto,
  FunctionProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "./onnx_pb.ts";
import { type DataType, onnxType } from "./data_type.ts";

/** The domain of this library's ops, and the versions of all domains that a file imports. */
export const DOMAIN = "hybridseek";
/** Opset 23 is the first with RMSNormalization and RotaryEmbedding. */
export const OPSETS: Readonly<Record<string, number>> = { "": 23, "com.microsoft": 1, [DOMAIN]: 1 };

/** Name of a value: a node's output, an initializer or an input. `""` stands for "not given". */
export type Value = string;

/**
 * Value of an attribute. A plain number is an INT, since the types of ONNX can not be told from
 * JavaScript's; floats are written `{ float: 1e-6 }`. `{ ref, type }` refers to an attribute of
 * the function around.
 */
export type Attribute =
  | number
  | number[]
  | string
  | { float: number }
  | { tensor: TensorProto }
  | { graph: GraphProto }
  | { ref: string; type: "float" | "int" };

/** Attributes by name. */
export type Attributes = Record<string, Attribute>;

/** What a node can carry beside inputs and attributes. */
export interface NodeOptions {
  /** `""` (standard ONNX, the default), `com.microsoft` or `hybridseek`. */
  domain?: string;
  /** Which of several bodies of one function is meant. */
  overload?: string;
  /** Names of the outputs; made up when missing. */
  outputs?: Value[];
}

/** Collects nodes in order; each call returns the name of what it makes. */
export class GraphBuilder {
  /** The nodes so far, in topological order by construction. */
  readonly nodes: NodeProto[] = [];
  readonly #names: { count: number };

  /** @param outer The builder of the graph around, for the body of a Loop: names stay unique. */
  constructor(outer?: GraphBuilder) {
    this.#names = outer ? outer.#names : { count: 0 };
  }

  /**
   * Adds a node.
   *
   * @param type Op type, for example `MatMul`.
   * @param inputs Names of the inputs, `""` for one left out.
   * @param attributes By name.
   * @param options Domain, overload and names of the outputs (one, made up, by default).
   * @returns The name of the first output.
   */
  op(
    type: string,
    inputs: Value[],
    attributes: Attributes = {},
    options: NodeOptions = {},
  ): Value {
    const outputs = options.outputs ?? [this.#fresh(type)];
    this.nodes.push(create(NodeProtoSchema, {
      name: outputs[0]!,
      opType: type,
      domain: options.domain ?? "",
      overload: options.overload ?? "",
      input: inputs,
      output: outputs,
      attribute: Object.entries(attributes).map(([name, value]) => attributeProto(name, value)),
    }));
    return outputs[0]!;
  }

  /**
   * Adds a node with several outputs of made-up names.
   *
   * @param count How many outputs.
   * @param type Op type.
   * @param inputs Names of the inputs.
   * @param attributes By name.
   * @returns The names of the outputs.
   */
  ops(count: number, type: string, inputs: Value[], attributes: Attributes = {}): Value[] {
    const outputs = Array.from({ length: count }, () => this.#fresh(type));
    this.op(type, inputs, attributes, { outputs });
    return outputs;
  }

  /** A constant int64 vector. @param values Its elements. @returns Its name. */
  ints(...values: number[]): Value {
    return this.op("Constant", [], { value_ints: values });
  }

  /** A constant scalar. @param type Element type. @param value Its value. @returns Its name. */
  scalar(type: "f32" | "i32" | "i64" | "u8" | "bool", value: number): Value {
    return this.op("Constant", [], { value: { tensor: scalarTensor(type, value) } });
  }

  /** Size of one axis. @param x A tensor. @param axis Counted from 0. @returns int64 [1]. */
  dim(x: Value, axis: number): Value {
    return this.op("Shape", [x], { start: axis, end: axis + 1 });
  }

  /** `x` in another shape. @param x A tensor. @param dims int64 [1] each. @returns The name. */
  reshape(x: Value, ...dims: Value[]): Value {
    return this.op("Reshape", [x, this.op("Concat", dims, { axis: 0 })]);
  }

  /** `x[begin:end]` along an axis. @param bounds Begin and end, [1]. @returns The name. */
  slice(x: Value, bounds: [begin: Value, end: Value], axis: number): Value {
    return this.op("Slice", [x, ...bounds, this.ints(axis)]);
  }

  /** `x` with an axis of size 1 put in. @param x A tensor. @param axes Where. @returns The name. */
  unsqueeze(x: Value, ...axes: number[]): Value {
    return this.op("Unsqueeze", [x, this.ints(...axes)]);
  }

  /** `x` without axes of size 1. @param x A tensor. @param axes Which. @returns The name. */
  squeeze(x: Value, ...axes: number[]): Value {
    return this.op("Squeeze", [x, this.ints(...axes)]);
  }

  /** `x` as another type. @param x A tensor. @param type Element type. @returns The name. */
  cast(x: Value, type: DataType): Value {
    return this.op("Cast", [x], { to: onnxType(type) });
  }

  /**
   * A Loop that runs `count` times. Values of the graph around may be used inside. What it carries
   * has no declared type, so that one body serves every float type.
   *
   * @param count int64 scalar.
   * @param initial The carried value before the first round.
   * @param body Given the inner builder, the round's number (int64 scalar) and the carried value;
   *   returns the next carried value.
   * @returns The carried value after the last round.
   */
  loop(
    count: Value,
    initial: Value,
    body: (inner: GraphBuilder, round: Value, carried: Value) => Value,
  ): Value {
    const inner = new GraphBuilder(this);
    const [round, condition, carried] = ["round", "condition", "carried"].map((name) =>
      this.#fresh(name)
    ) as [Value, Value, Value];
    const next = body(inner, round, carried);
    const goOn = inner.op("Identity", [condition]);
    const graph = create(GraphProtoSchema, {
      name: this.#fresh("loop_body"),
      node: inner.nodes,
      input: [
        valueInfo(round, "i64", []),
        valueInfo(condition, "bool", []),
        create(ValueInfoProtoSchema, { name: carried }),
      ],
      output: [valueInfo(goOn, "bool", []), create(ValueInfoProtoSchema, { name: next })],
    });
    return this.op("Loop", [count, this.scalar("bool", 1), initial], { body: { graph } });
  }

  #fresh(stem: string): Value {
    return `${stem.toLowerCase()}_${this.#names.count++}`;
  }
}

/** Signature of a model-local function. */
export interface FunctionSignature {
  /** The op's type. */
  name: string;
  /** Which of several bodies of the op. */
  overload?: string;
  /** Names of the inputs in order. */
  inputs: string[];
  /** Names of the outputs in order. */
  outputs: string[];
  /** Attributes every node must have. */
  required: string[];
  /** Attributes with their defaults. */
  defaults: Attributes;
}

/**
 * Writes a model-local function of domain `hybridseek`.
 *
 * @param signature Name, inputs, outputs and attributes.
 * @param body Adds the nodes; inputs and outputs are values of these names.
 * @returns The function, to be put into `ModelProto.functions`.
 */
export function functionProto(
  signature: FunctionSignature,
  body: (builder: GraphBuilder) => void,
): FunctionProto {
  const builder = new GraphBuilder();
  body(builder);
  return create(FunctionProtoSchema, {
    domain: DOMAIN,
    name: signature.name,
    overload: signature.overload ?? "",
    input: signature.inputs,
    output: signature.outputs,
    attribute: signature.required,
    attributeProto: Object.entries(signature.defaults).map(([name, value]) =>
      attributeProto(name, value)
    ),
    opsetImport: opsetImports(),
    node: builder.nodes,
  });
}

/** The opset imports that every model and function of this library declares. @returns Messages. */
export function opsetImports(): { domain: string; version: bigint }[] {
  return Object.entries(OPSETS).map(([domain, version]) => ({ domain, version: BigInt(version) }));
}

/**
 * Declares a graph's input or output.
 *
 * @param name Its name.
 * @param type Element type.
 * @param dims A size, or the name of a size that varies from step to step.
 * @returns The declaration.
 */
export function valueInfo(name: string, type: DataType, dims: (number | string)[]): ValueInfoProto {
  const dim = dims.map((size) =>
    typeof size === "number"
      ? { value: { case: "dimValue" as const, value: BigInt(size) } }
      : { value: { case: "dimParam" as const, value: size } }
  );
  return create(ValueInfoProtoSchema, {
    name,
    type: { value: { case: "tensorType", value: { elemType: onnxType(type), shape: { dim } } } },
  });
}

function scalarTensor(type: "f32" | "i32" | "i64" | "u8" | "bool", value: number): TensorProto {
  const data: MessageInitShape<typeof TensorProtoSchema> = type === "f32"
    ? { floatData: [value] }
    : type === "i64"
    ? { int64Data: [BigInt(value)] }
    : { int32Data: [value] };
  return create(TensorProtoSchema, { dataType: onnxType(type), ...data });
}

function attributeProto(name: string, value: Attribute): AttributeProto {
  return create(AttributeProtoSchema, { name, ...attributeFields(value) });
}

function attributeFields(value: Attribute): MessageInitShape<typeof AttributeProtoSchema> {
  if (typeof value === "number") return { type: AttributeType.INT, i: BigInt(value) };
  if (typeof value === "string") {
    return { type: AttributeType.STRING, s: new TextEncoder().encode(value) };
  }
  if (Array.isArray(value)) return { type: AttributeType.INTS, ints: value.map(BigInt) };
  if ("float" in value) return { type: AttributeType.FLOAT, f: value.float };
  if ("tensor" in value) return { type: AttributeType.TENSOR, t: value.tensor };
  if ("graph" in value) return { type: AttributeType.GRAPH, g: value.graph };
  return {
    type: value.type === "float" ? AttributeType.FLOAT : AttributeType.INT,
    refAttrName: value.ref,
  };
}
