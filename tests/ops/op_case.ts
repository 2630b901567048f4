/**
 * The op cases that all languages share, and the smallest models around one op.
 * @module
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { latentAttentionFunction } from "../../export-tools/ops/latent_attention.ts";
import { pagedAttentionFunction } from "../../export-tools/ops/paged_attention.ts";
import { STEP_INPUTS } from "../../export-tools/ops/paged_sequences.ts";
import { type ExpertFormat, sparseExpertsFunction } from "../../export-tools/ops/sparse_experts.ts";
import { bytesPerElement, type DataType, onnxType } from "../../src/onnx/data_type.ts";
import {
  type Attributes,
  GraphBuilder,
  opsetImports,
  valueInfo,
} from "../../src/onnx/graph_builder.ts";
import {
  type FunctionProto,
  ModelProtoSchema,
  TensorProto_DataLocation,
  type ValueInfoProto,
} from "../../src/onnx/onnx_pb.ts";
import { readSafetensors, type Tensor } from "../safetensors_values.ts";
import tolerances from "../tolerances.json" with { type: "json" };

/** One case. */
export interface OpCase {
  /** File's stem. */
  name: string;
  /** Op type. */
  op: string;
  /** Which body. */
  overload: string;
  /** The node's attributes. */
  attributes: Record<string, number>;
  /** Inputs by the names of the op's signature. */
  inputs: Map<string, Tensor>;
  /** Expected results in float64, experts in i32. */
  outputs: Map<string, Tensor>;
}

const folder = new URL("../op-cases/", import.meta.url);
const TYPES: Record<string, DataType> = { F32: "f32", F16: "f16", I32: "i32", U8: "u8" };
/** Attributes that are whole numbers; the others are floats. */
const INTEGERS = /^(k|groups|top_groups|normalize|first_expert|rotary_interleaved)$/;

/** Every case. */
export function opCases(): OpCase[] {
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name);
  return names.filter((name) => name.endsWith(".safetensors")).sort().map((name) => {
    const { tensors, metadata } = readSafetensors(new URL(name, folder));
    const part = (prefix: string) =>
      new Map(
        [...tensors].filter(([key]) => key.startsWith(prefix))
          .map(([key, tensor]) => [key.slice(prefix.length), tensor]),
      );
    return {
      name: name.replace(".safetensors", ""),
      op: metadata.op!,
      overload: metadata.overload!,
      attributes: JSON.parse(metadata.attributes!),
      inputs: part("input."),
      outputs: part("output."),
    };
  });
}

/** The body that a case is about. */
export function bodyOf({ op, overload }: OpCase): FunctionProto {
  if (op === "LatentAttention") return latentAttentionFunction();
  if (op === "PagedAttention") return pagedAttentionFunction();
  return sparseExpertsFunction(overload as ExpertFormat);
}

/** Storage of the weights, for the tolerance. */
export function weightsOf({ overload, inputs }: OpCase): string {
  if (overload === "int8" || overload === "int4") return overload;
  const weight = inputs.get("kv_b") ?? inputs.get("gate_up");
  return weight?.type === "F16" ? "f16" : "f32";
}

/** Largest error allowed, as a fraction of the largest expected value. */
export function tolerance(op: string, weights: string, by: "kernel" | "body"): number {
  const row = tolerances.rows.find((row) =>
    row.op === op && row.weights === weights && row.by === by
  );
  return row!.bound;
}

/** Whether an input is a cache. */
export function isCache(name: string): boolean {
  return name === "cache" || name.endsWith("_cache");
}

/** Whether an input has one row per token. */
function isRows(name: string): boolean {
  return ["query", "latent", "key", "value", "x", "cos", "sin"].includes(name);
}

/** Whether an input varies from step to step; the others are weights. */
export function varies(name: string): boolean {
  return STEP_INPUTS.includes(name) || isCache(name) || isRows(name);
}

/** A model of one node with the weights inside: for stock ONNX Runtime. */
export function bodyModel(opCase: OpCase, body: FunctionProto = bodyOf(opCase)): Uint8Array {
  const builder = new GraphBuilder();
  const tensors = body.input.map((name) => ({ name, ...opCase.inputs.get(name)! }));
  const inputs = tensors.filter(({ name }) => varies(name))
    .map(({ name, type, dims }) => valueInfo(name, TYPES[type]!, dims));
  const weights = tensors.filter(({ name }) => !varies(name))
    .map(({ name, type, dims, values }) => ({
      name,
      dims: dims.map(BigInt),
      dataType: onnxType(TYPES[type]!),
      rawData: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    }));
  return model(opCase, body, builder, body.input, inputs, weights);
}

/** A model of one node whose rows are gathered from tables: for the engine. */
export function kernelModel(opCase: OpCase): { bytes: Uint8Array; data: Uint8Array } {
  const body = bodyOf(opCase);
  const builder = new GraphBuilder();
  const inputs: ValueInfoProto[] = [
    valueInfo("token_ids", "i32", ["T"]),
    ...STEP_INPUTS.map((name) => valueInfo(name, "i32", [name])),
  ];
  const initializers: { name: string; tensor: Tensor; offset: number }[] = [];
  let size = 0;
  const names = body.input.map((name) => {
    const tensor = opCase.inputs.get(name)!;
    if (STEP_INPUTS.includes(name)) return name;
    if (isCache(name)) {
      inputs.push(valueInfo(`cache.${name}`, "f32", ["blocks", "P", ...tensor.dims.slice(2)]));
      return `cache.${name}`;
    }
    initializers.push({ name: `${name}.stored`, tensor, offset: size });
    size += tensor.values.byteLength;
    return isRows(name) ? builder.op("Gather", [`${name}.stored`, "token_ids"]) : `${name}.stored`;
  });
  const data = new Uint8Array(size);
  for (const { tensor: { values }, offset } of initializers) {
    data.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), offset);
  }
  const stored = initializers.map(({ name, tensor: { type, dims }, offset }) => ({
    name,
    dims: dims.map(BigInt),
    dataType: onnxType(TYPES[type]!),
    dataLocation: TensorProto_DataLocation.EXTERNAL,
    externalData: Object.entries({
      location: "case.data",
      offset: String(offset),
      length: String(dims.reduce((a, b) => a * b, bytesPerElement(TYPES[type]!))),
    }).map(([key, value]) => ({ key, value })),
  }));
  return { bytes: model(opCase, body, builder, names, inputs, stored), data };
}

function model(
  opCase: OpCase,
  body: FunctionProto,
  builder: GraphBuilder,
  inputs: string[],
  graphInputs: ValueInfoProto[],
  initializer: object[],
): Uint8Array {
  const attributes: Attributes = Object.fromEntries(
    Object.entries(opCase.attributes).map(([name, value]) => [
      name,
      INTEGERS.test(name) ? value : { float: value },
    ]),
  );
  const { op, overload } = opCase;
  builder.op(op, inputs, attributes, { domain: "hybridseek", overload, outputs: body.output });
  return toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      irVersion: 11n,
      opsetImport: opsetImports(),
      functions: [body],
      metadataProps: [{ key: "hybridseek.contract", value: "1" }],
      graph: {
        name: "case",
        node: builder.nodes,
        input: graphInputs,
        initializer,
        output: body.output.map((name) => {
          const { type, dims } = opCase.outputs.get(name)!;
          return valueInfo(name, type === "I32" ? "i32" : "f32", dims);
        }),
      },
    }),
  );
}
