/**
 * Element types of tensors: the ones that this library reads and writes.
 * @module
 */
import { TensorProto_DataType } from "./onnx_pb.ts";

/** Element type by its common short name. */
export type DataType = "f32" | "f64" | "f16" | "bf16" | "u8" | "i8" | "i32" | "i64" | "bool";

const rows: Record<DataType, [onnx: TensorProto_DataType, bytes: number]> = {
  f32: [TensorProto_DataType.FLOAT, 4],
  f64: [TensorProto_DataType.DOUBLE, 8],
  f16: [TensorProto_DataType.FLOAT16, 2],
  bf16: [TensorProto_DataType.BFLOAT16, 2],
  u8: [TensorProto_DataType.UINT8, 1],
  i8: [TensorProto_DataType.INT8, 1],
  i32: [TensorProto_DataType.INT32, 4],
  i64: [TensorProto_DataType.INT64, 8],
  bool: [TensorProto_DataType.BOOL, 1],
};

/**
 * ONNX's number of a type.
 *
 * @param type Short name.
 * @returns The value of `TensorProto.DataType`.
 */
export function onnxType(type: DataType): TensorProto_DataType {
  return rows[type][0];
}

/**
 * Size of one element.
 *
 * @param type Short name.
 * @returns Bytes.
 */
export function bytesPerElement(type: DataType): number {
  return rows[type][1];
}

/**
 * The type with a given ONNX number.
 *
 * @param onnx A value of `TensorProto.DataType`.
 * @returns The short name; `undefined` for types that this library does not handle.
 */
export function dataTypeOf(onnx: number): DataType | undefined {
  return (Object.keys(rows) as DataType[]).find((type) => rows[type][0] === onnx);
}
