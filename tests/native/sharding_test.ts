/**
 * Dividing a model among ranks: together the ranks hold every byte once, but for what each needs whole; what can
 * not be divided is refused.
 */
import { strict as assert } from "node:assert";
import { clone, create, fromBinary, toBinary as encode } from "@bufbuild/protobuf";
import type { ExportOptions } from "../../export-tools/export_checkpoint.ts";
import { shardModel, type WeightSlice } from "../../src/backend/native/sharding.ts";
import { UnsupportedError } from "../../src/errors.ts";
import { type ModelProto, ModelProtoSchema, NodeProtoSchema } from "../../src/onnx/onnx_pb.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { packageOf } from "../packages.ts";
import { needsShared } from "../shared.ts";

type Interval = [begin: number, end: number];

async function modelOf(name: string, options: ExportOptions): Promise<ModelProto> {
  const folder = await packageOf(name, options);
  return fromBinary(ModelProtoSchema, Deno.readFileSync(`${folder}/model.onnx`));
}

function shardsOf(model: ModelProto, ranks: number, dataParallelAttention: boolean) {
  return Array.from(
    { length: ranks },
    (_, rank) => shardModel(model, { rank, ranks, dataParallelAttention, communicator: 1 }),
  );
}

/** Byte ranges of the file that a slice is made of. */
function intervals({ offset, rows, bytes, stride }: WeightSlice): Interval[] {
  return Array.from({ length: rows }, (_, i) => [offset + i * stride, offset + i * stride + bytes]);
}

/** Of tensors that every rank has whole, by the checkpoint's names. */
const WHOLE = /norm|rotary|embed_tokens|mlp\.gate\.weight|q_a_proj|kv_a_proj/;
/** With data-parallel attention also these. */
const ATTENTION = /self_attn/;

const variants: [name: string, options: ExportOptions, ranks: number[]][] = [
  ["deepseek-v2-wide", { weights: "f32" }, [2, 4, 8]],
  ["deepseek-v2-wide", { weights: "int4" }, [2, 4]],
  ["deepseek-v2-wide", { weights: "int8", maxFileBytes: 40_000 }, [2, 4]],
  ["deepseek-v2-lite", { weights: "f16" }, [2, 4]],
  ["deepseek-moe", { weights: "f32" }, [2, 4]],
  ["deepseek-llm-gqa", { weights: "int8" }, [2]],
  ["deepseek-llm-mha", { weights: "f32", maxFileBytes: 40_000 }, [2, 4]],
];

for (const [name, options, counts] of variants) {
  for (const ranks of counts) {
    for (const dataParallel of [false, true]) {
      const how = `${name} ${JSON.stringify(options)}, ${ranks} ranks${dataParallel ? ", DP" : ""}`;
      Deno.test(needsShared(`every byte is on one rank, or whole on all: ${how}`), async () => {
        const model = await modelOf(name, options);
        const shards = shardsOf(model, ranks, dataParallel);
        for (const tensor of readModel(name, toBytes(model)).initializers.values()) {
          const slices = shards.flatMap((shard) =>
            shard.slices.filter((slice) => slice.name === tensor.name)
          );
          const whole = WHOLE.test(tensor.name) || (dataParallel && ATTENTION.test(tensor.name));
          const pieces = slices.flatMap(intervals).sort(([a], [b]) => a - b);
          const end = tensor.offset + tensor.bytes;
          if (whole) {
            assert.equal(slices.length, ranks, tensor.name);
            for (const piece of pieces) assert.deepEqual(piece, [tensor.offset, end], tensor.name);
          } else {
            let at = tensor.offset;
            for (const [from, to] of pieces) {
              assert.equal(from, at, `${tensor.name}: a gap, or bytes on two ranks`);
              at = to;
            }
            assert.equal(at, end, tensor.name);
            assert(slices.length > 1 || options.maxFileBytes !== undefined, tensor.name);
          }
        }
      });
    }
  }
}

function toBytes(model: ModelProto): Uint8Array {
  return encode(ModelProtoSchema, model);
}

Deno.test(needsShared("what can not be divided is refused with the reason"), async () => {
  const refused = (model: ModelProto, ranks: number, reason: RegExp, dataParallel = false) =>
    assert.throws(
      () => shardsOf(model, ranks, dataParallel),
      (error: Error) => error instanceof UnsupportedError && reason.test(error.message),
    );
  const lite = await modelOf("deepseek-v2-lite", { weights: "f32" });
  refused(lite, 3, /3 ranks: its 4 attention heads do not divide evenly/);
  refused(lite, 8, /its 4 attention heads do not divide evenly/);
  refused(lite, 32, /16 routed experts, fewer than ranks/, true);
  const gqa = await modelOf("deepseek-llm-gqa", { weights: "f32" });
  refused(gqa, 4, /its 2 key-value heads do not divide evenly/);
  const blocks = await modelOf("deepseek-v2-lite", { weights: "int4" });
  refused(blocks, 4, /2 blocks of 32 hidden columns, fewer than ranks/);

  const strange = clone(ModelProtoSchema, lite);
  strange.graph!.node.push(
    create(NodeProtoSchema, { name: "odd", opType: "Erf", input: ["final"] }),
  );
  refused(strange, 2, /node odd is of op Erf/);
});
