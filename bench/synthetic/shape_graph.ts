/**
 * The exporter's graph of a shape, with the places of weights that nobody has: what plans are made of.
 * @module
 */
import { toBinary } from "@bufbuild/protobuf";
import { DecoderBuilder } from "../../export-tools/architectures/decoder_builder.ts";
import { architectureOf } from "../../export-tools/architectures/registry.ts";
import { layOut } from "../../export-tools/data_layout.ts";
import type { Weights } from "../../export-tools/quantization/recipe.ts";
import { MAX_FILE_BYTES, modelProto } from "../../export-tools/write_package.ts";
import { type ModelProto, ModelProtoSchema } from "../../src/onnx/onnx_pb.ts";
import { type GraphModel, readModel } from "../../src/onnx/read_model.ts";
import { RandomCheckpoint } from "./random_checkpoint.ts";
import type { ShapeConfig } from "./shapes.ts";

/**
 * Builds a model file.
 *
 * @param shape The shape.
 * @param weights Storage of the weights.
 * @param maxFileBytes Largest data file.
 * @returns The file, whose data files are not there.
 */
export function shapeModel(
  shape: ShapeConfig,
  weights: Weights,
  maxFileBytes: number = MAX_FILE_BYTES,
): ModelProto {
  const checkpoint = new RandomCheckpoint(shape, new Float32Array(0), 1);
  const builder = new DecoderBuilder(checkpoint, { weights, maxTensorBytes: maxFileBytes });
  const architecture = architectureOf(checkpoint.config);
  architecture.build(builder);
  const layout = layOut(builder.weights.tensors(), maxFileBytes);
  return modelProto(builder, layout, { architecture: architecture.name, weights });
}

/** The graph of a model file. @param model The file. @returns Its graph. */
export function graphOf(model: ModelProto): GraphModel {
  return readModel("model.onnx", toBinary(ModelProtoSchema, model));
}
