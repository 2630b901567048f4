/**
 * A rank of a fixture in f32 whose session has the CUDA kernels: heads and experts divided, NCCL between ranks.
 *
 *     cuda_ranks_program.ts FIXTURE PACKAGE
 *
 * The environment says which rank this is, and names the library whose CUDA kernels serve CPU sessions, the
 * emulated runtime and the emulated NCCL. Every rank runs the same steps, of the fixture's trace. Fails
 * where a logit is farther from the golden than `session_tolerances.json` declares, or where the likeliest token
 * is another although it leads by four times that.
 * @module
 */
import { strict as assert } from "node:assert";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { loadAddon, type NativeTensor, openOnnxRuntime } from "../../src/backend/native/addon.ts";
import {
  adaptToCuda,
  attentionHeads,
  planCudaMemory,
} from "../../src/backend/native/cuda_model.ts";
import { openCudaSession } from "../../src/backend/native/cuda_session.ts";
import { PREFERENCES } from "../../src/backend/native/native_session.ts";
import { RankGroup } from "../../src/backend/native/rank_group.ts";
import { NCCL_VARIABLE } from "../../src/backend/native/rank_place.ts";
import { shardModel } from "../../src/backend/native/sharding.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { modelSpec } from "../../src/model_spec.ts";
import { ModelProtoSchema } from "../../src/onnx/onnx_pb.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { readSafetensors } from "../safetensors_values.ts";
import { readShared, shared } from "../shared.ts";
import tolerances from "./session_tolerances.json" with { type: "json" };

const [fixture, folder] = Deno.args as [string, string];
const { trace } = JSON.parse(readShared(`fixtures/${fixture}/golden.json`));
const tokens: number[] = trace.input_ids;
const { tensors } = readSafetensors(new URL(`fixtures/${fixture}/golden.safetensors`, shared));
const golden = tensors.get("trace.logits")!.values as Float32Array;

const addon = await loadAddon();
const runtime = await openOnnxRuntime(addon);
const group = await RankGroup.join(addon);
await group.useNccl(Deno.env.get(NCCL_VARIABLE)!);
const model = await ModelPackage.open(folder);
const { rank, ranks, communicator } = group;
const part = shardModel(fromBinary(ModelProtoSchema, await model.readAll("model.onnx")), {
  ...{ rank, ranks, communicator, dataParallelAttention: false },
});
const graph = readModel("a rank's part", toBinary(ModelProtoSchema, part.model));
const given: [string, NativeTensor][] = [];
for (const slice of part.slices.filter(({ rows }) => rows > 1)) {
  const tensor = addon.createTensor(runtime.path, "cpu", "float32", slice.dims);
  addon.writeTensor(tensor, 0, await model.readPieces(slice.file, slice));
  given.push([slice.name, tensor]);
}
adaptToCuda(part.model, "bf16");
const [free, total] = addon.gpu();
const wanted = { ...PREFERENCES, contextLength: 64, cacheTokens: 64 };
const { limits, caches, arena } = planCudaMemory(graph, modelSpec(graph), { free, total }, {
  ...{ ...wanted, cacheType: "bf16", gpuMemory: 1 },
});
const runner = await openCudaSession({
  ...{ addon, runtime: runtime.path, address: folder, folder: `${folder}/`, model: part.model },
  ...{ graph, caches, heads: attentionHeads(graph), limits, arena, graphs: false, threads: 1 },
  given,
});

const vocab = golden.length / tokens.length;
const ends = [tokens.length - 4, ...[3, 2, 1, 0].map((left) => tokens.length - left)];
let decided = 0;
for (let i = 0, begin = 0; i < ends.length; begin = ends[i++]!) {
  const end = ends[i]!;
  const count = end - begin;
  const places = Int32Array.from({ length: count }, (_, row) => begin + row);
  const step = {
    tokenIds: Int32Array.from(tokens.slice(begin, end)),
    positions: places,
    slots: places.map((place) => place + 16),
    queryStarts: Int32Array.of(0, count),
    contextLengths: Int32Array.of(end),
    blockTables: Int32Array.of(1, 2, 3, 4),
    logitRows: Int32Array.from({ length: count }, (_, row) => row),
  };
  const { logits } = await runner.run([], step);
  assert.equal(logits.length, count * vocab);
  for (let row = 0; row < count; row++) {
    const got = logits.subarray(row * vocab, (row + 1) * vocab);
    const want = golden.subarray((begin + row) * vocab, (begin + row + 1) * vocab);
    for (const [column, value] of got.entries()) {
      const error = Math.abs(value - want[column]!);
      assert(error <= tolerances.f32, `token ${begin + row}: a logit is ${error} off`);
    }
    const [first, second] = [...want].sort((a, b) => b - a) as [number, number];
    if (first - second <= 4 * tolerances.f32) continue;
    decided++;
    assert.equal(got.indexOf(Math.max(...got)), want.indexOf(first));
  }
}
assert(decided > 0);
await runner.release();
for (const [, tensor] of given) addon.closeTensor(tensor);
await model.close();
await group.leave();
console.log(
  `rank ${rank} of ${ranks} over ${group.transport}: ${decided} of ${tokens.length} tokens decided`,
);
