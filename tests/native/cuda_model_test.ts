/** What backend cuda makes of a graph and of a device's memory, without either. */
import { strict as assert } from "node:assert";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  adaptToCuda,
  attentionHeads,
  PLAN,
  planCudaMemory,
} from "../../src/backend/native/cuda_model.ts";
import { CapacityError, UnsupportedError } from "../../src/errors.ts";
import { modelSpec } from "../../src/model_spec.ts";
import { ModelProtoSchema, TensorProto_DataType } from "../../src/onnx/onnx_pb.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { packageOf } from "../packages.ts";
import { needsShared, readShared } from "../shared.ts";

async function protoOf(fixture: string, weights: "f32" | "int4") {
  const bytes = Deno.readFileSync(`${await packageOf(fixture, { weights })}/model.onnx`);
  return fromBinary(ModelProtoSchema, bytes);
}

Deno.test(
  needsShared("caches get their type, and attention the plan; nothing else changes"),
  async () => {
    const { BFLOAT16, FLOAT8E4M3FN, FLOAT, INT32 } = TensorProto_DataType;
    for (const [cacheType, element] of [["bf16", BFLOAT16], ["fp8", FLOAT8E4M3FN]] as const) {
      const before = await protoOf("deepseek-v2-wide", "f32");
      const model = await protoOf("deepseek-v2-wide", "f32");
      adaptToCuda(model, cacheType);
      const elementOf = (name: string) => {
        const value = [...model.graph!.input, ...model.graph!.output].find((one) =>
          one.name === name
        );
        assert(value?.type?.value.case === "tensorType");
        return value.type.value.value.elemType;
      };
      let [caches, attentions] = [0, 0];
      for (const { name } of before.graph!.input.filter(({ name }) => name.startsWith("cache."))) {
        assert.equal(elementOf(name), element);
        assert.equal(elementOf(`${name}.out`), element);
        caches++;
      }
      assert.equal(elementOf(PLAN), INT32);
      assert.equal(elementOf("logits"), FLOAT);
      for (const [i, node] of model.graph!.node.entries()) {
        const { input } = before.graph!.node[i]!;
        const attends = node.opType === "LatentAttention";
        assert.deepEqual(node.input, attends ? [...input, PLAN] : input);
        attentions += Number(attends);
      }
      assert(caches > 0 && caches === attentions);
    }
  },
);

Deno.test(
  needsShared("an op that takes no plan is given none; a cache without a kernel is refused"),
  async () => {
    const model = await protoOf("deepseek-llm-mha", "f32");
    const before = structuredClone(model.graph!.node.map(({ input }) => input));
    assert.throws(
      () => adaptToCuda(model, "fp8"),
      (error) =>
        error instanceof UnsupportedError &&
        /PagedAttention has no CUDA kernel for a cache of fp8; use bf16/.test(error.message),
    );
    assert.equal(adaptToCuda(model, "bf16"), false);
    assert.deepEqual(model.graph!.node.map(({ input }) => input), before);
    assert(!model.graph!.input.some(({ name }) => name === PLAN));
  },
);

Deno.test(
  needsShared("the cache gets what weights and steps leave of the part that may be taken"),
  async () => {
    const model = await protoOf("deepseek-v2-wide", "f32");
    const graph = readModel("model.onnx", toBinary(ModelProtoSchema, model));
    const spec = modelSpec(graph);
    const config = JSON.parse(readShared("fixtures/deepseek-v2-wide/config.json"));
    assert.equal(attentionHeads(graph), config.num_attention_heads);
    const sizes = {
      ...{ tokens: 512, sequences: 256, logitRows: 256, blockSize: 16, contextLength: 4096 },
      ...{ cacheType: "bf16" as const, gpuMemory: 0.9 },
    };
    const device = { free: 2e9, total: 2.1e9 };
    const { limits, bytes, caches } = planCudaMemory(graph, spec, device, sizes);
    const available = device.free - 0.1 * device.total;
    const blockBytes = caches.length * 2 * 16 * 576;
    const stored = [...graph.initializers.values()].reduce((sum, { bytes }) => sum + bytes, 0);
    assert(bytes.weights >= stored);
    assert.equal(bytes.cache, limits.blocks * blockBytes);
    const taken = bytes.weights + bytes.workspace + bytes.cache;
    assert(taken <= available && taken > available - blockBytes, `${taken} of ${available}`);
    // Half the bytes: twice the blocks.
    const fp8 = planCudaMemory(graph, spec, device, { ...sizes, cacheType: "fp8" });
    assert(Math.abs(fp8.limits.blocks - 2 * limits.blocks) <= 1);
    // As many as sequences can use, and no more.
    const large = planCudaMemory(graph, spec, { free: 8e10, total: 8e10 }, sizes);
    assert.equal(large.limits.blocks, 1 + 256 * 256);
    // As asked for.
    const asked = planCudaMemory(graph, spec, device, { ...sizes, cacheTokens: 5000 });
    assert.equal(asked.limits.blocks, 1 + Math.ceil(5000 / 16));
    for (const wanted of [{ ...sizes, cacheTokens: 1e7 }, { ...sizes, gpuMemory: 0.3 }]) {
      assert.throws(
        () => planCudaMemory(graph, spec, device, wanted),
        (error) =>
          error instanceof CapacityError && error.code === "out_of_memory" &&
          /of the GPU's 2\.1 GB.*lower contextLength or cacheTokens/i.test(error.message),
      );
    }
  },
);
