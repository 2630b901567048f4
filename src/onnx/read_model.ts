/**
 * Reading ONNX: a file's graph as plain values, checked, without its weights.
 * @module
 */
import { fromBinary } from "@bufbuild/protobuf";
import { InvalidFileError, UnsupportedError } from "../errors.ts";
import { bytesPerElement, type DataType, dataTypeOf } from "./data_type.ts";
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  type ModelProto,
  ModelProtoSchema,
  type TensorProto,
  TensorProto_DataLocation,
  type ValueInfoProto,
} from "./onnx_pb.ts";

/** Version of the step contract that this library runs, see ARCHITECTURE.md. */
const CONTRACT = "1";

/** An input or output of a graph. */
export interface GraphValue {
  /** Its name. */
  name: string;
  /** Element type. */
  type: DataType;
  /** A size, or the name of a size that varies from step to step. */
  dims: (number | string)[];
}

/** A tensor stored in a data file of the package. */
export interface Initializer {
  /** Its name. */
  name: string;
  /** Element type. */
  type: DataType;
  /** Sizes of the axes. */
  dims: number[];
  /** The data file, a plain name in the package's folder. */
  file: string;
  /** First byte in the file. */
  offset: number;
  /** Length in bytes. */
  bytes: number;
}

/** A node. */
export interface GraphNode {
  /** Its name, for messages. */
  name: string;
  /** Op type with its domain: `Gemm`, `com.microsoft.MatMulNBits`, `hybridseek.LatentAttention`. */
  op: string;
  /** Which of several bodies of the op. */
  overload: string;
  /** Names of the inputs, `""` for one left out. */
  inputs: string[];
  /** Names of the outputs, `""` for one unwanted. */
  outputs: string[];
  /** Attributes; those of the op's function that the node leaves out have their defaults. */
  attributes: ReadonlyMap<string, number | number[] | string>;
}

/** A model file's graph. */
export interface GraphModel {
  /** The file's address, for messages. */
  file: string;
  /** Metadata whose keys begin with `hybridseek.`, without that. */
  metadata: Readonly<Record<string, string>>;
  /** Inputs in order. */
  inputs: GraphValue[];
  /** Outputs in order. */
  outputs: GraphValue[];
  /** Nodes in the order of execution. */
  nodes: GraphNode[];
  /** Stored tensors by name. */
  initializers: ReadonlyMap<string, Initializer>;
}

/**
 * Decodes and checks a model file.
 *
 * @param file Its address, for messages.
 * @param bytes Its contents.
 * @returns The graph.
 * @throws {InvalidFileError} If it is no ONNX file or its tensors' places are malformed.
 * @throws {UnsupportedError} If it is not of this library's making, or of another contract version.
 */
export function readModel(file: string, bytes: Uint8Array): GraphModel {
  let model: ModelProto;
  try {
    model = fromBinary(ModelProtoSchema, bytes);
  } catch (cause) {
    fail(file, `it is no ONNX file (${(cause as Error).message})`, cause);
  }
  const metadata = Object.fromEntries(
    model.metadataProps
      .filter(({ key }) => key.startsWith("hybridseek."))
      .map(({ key, value }) => [key.slice("hybridseek.".length), value]),
  );
  if (metadata.contract !== CONTRACT) {
    throw new UnsupportedError(
      metadata.contract === undefined
        ? `Cannot run ${file}: it was not made by hybridseek; export the checkpoint with \`hybridseek export\`.`
        : `Cannot run ${file}: it is of step contract ${metadata.contract}, this version runs ` +
          `${CONTRACT}; export the checkpoint again, or update hybridseek.`,
    );
  }
  const { graph } = model;
  if (!graph) fail(file, "it has no graph");
  const initializers = new Map<string, Initializer>();
  for (const tensor of graph.initializer) {
    if (initializers.has(tensor.name)) fail(file, `two tensors are called ${tensor.name}`);
    initializers.set(tensor.name, readInitializer(file, tensor));
  }
  const defaults = new Map(
    model.functions.map((body) => [
      `${body.domain}.${body.name} ${body.overload}`,
      body.attributeProto,
    ]),
  );
  const nodes = graph.node.map((node): GraphNode => {
    const op = node.domain === "" ? node.opType : `${node.domain}.${node.opType}`;
    const own = readAttributes(node.attribute);
    const missing = readAttributes(defaults.get(`${op} ${node.overload}`) ?? []);
    return {
      name: node.name,
      op,
      overload: node.overload,
      inputs: node.input,
      outputs: node.output,
      attributes: new Map([...missing, ...own]),
    };
  });
  const inputs = graph.input.map((value) => readValue(file, value));
  const outputs = graph.output.map((value) => readValue(file, value));
  checkOrder(file, nodes, [...inputs.map(({ name }) => name), ...initializers.keys()], outputs);
  return { file, metadata, inputs, outputs, nodes, initializers };
}

function readInitializer(file: string, tensor: TensorProto): Initializer {
  const { name } = tensor;
  const type = dataTypeOf(tensor.dataType);
  if (!type) fail(file, `tensor ${name} is of the unknown type ${tensor.dataType}`);
  if (tensor.dataLocation !== TensorProto_DataLocation.EXTERNAL) {
    fail(file, `tensor ${name} is not in a data file`);
  }
  const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]));
  const location = entries.get("location") ?? "";
  if (!/^[^/\\\0]+$/.test(location) || location === "." || location === "..") {
    fail(
      file,
      `tensor ${name} lies at ${
        JSON.stringify(location)
      }, which is no file of the package's folder`,
    );
  }
  const dims = tensor.dims.map(Number);
  const offset = Number(entries.get("offset") ?? "0");
  const bytes = Number(entries.get("length"));
  const needed = dims.reduce((product, size) => product * size, bytesPerElement(type));
  const sizes = [...dims, offset, bytes, needed];
  if (!sizes.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    fail(file, `tensor ${name}, [${dims}] at ${offset}, has no sensible size`);
  }
  if (bytes !== needed) {
    fail(file, `tensor ${name}, ${type} [${dims}], is stored in ${bytes} bytes`);
  }
  return { name, type, dims, file: location, offset, bytes };
}

function readAttributes(attributes: AttributeProto[]): [string, number | number[] | string][] {
  return attributes.flatMap((attribute): [string, number | number[] | string][] => {
    const { name, type } = attribute;
    if (type === AttributeType.FLOAT) return [[name, attribute.f]];
    if (type === AttributeType.INT) return [[name, Number(attribute.i)]];
    if (type === AttributeType.INTS) return [[name, attribute.ints.map(Number)]];
    if (type === AttributeType.STRING) return [[name, new TextDecoder().decode(attribute.s)]];
    return []; // graphs and tensors stand in bodies only, which are not executed here
  });
}

function readValue(file: string, { name, type }: ValueInfoProto): GraphValue {
  const tensor = type?.value.case === "tensorType" ? type.value.value : undefined;
  const elements = tensor && dataTypeOf(tensor.elemType);
  if (!tensor?.shape || !elements) fail(file, `the type of ${name} is missing`);
  const dims = tensor.shape.dim.map(({ value }) => {
    if (value.case === "dimValue") return Number(value.value);
    if (value.case === "dimParam") return value.value;
    fail(file, `a size of ${name} is missing`);
  });
  return { name, type: elements, dims };
}

/** Every value must be made once, before it is used, and every output be made. */
function checkOrder(file: string, nodes: GraphNode[], given: string[], outputs: GraphValue[]) {
  const known = new Set(given);
  for (const node of nodes) {
    const unknown = node.inputs.find((name) => name !== "" && !known.has(name));
    if (unknown !== undefined) fail(file, `node ${node.name} uses ${unknown} before it is made`);
    for (const name of node.outputs) {
      if (name !== "" && known.has(name)) fail(file, `${name} is made twice`);
      known.add(name);
    }
  }
  for (const { name } of outputs) {
    if (!known.has(name)) fail(file, `no node makes the output ${name}`);
  }
}

function fail(file: string, what: string, cause?: unknown): never {
  throw new InvalidFileError(
    file,
    `Cannot read ${file}: ${what}; export the checkpoint again, or get the file anew.`,
    { cause },
  );
}
