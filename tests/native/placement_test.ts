/**
 * Where experts lie: bytes of either side against sums over the shapes of config.json, what is refused and what
 * the refusal advises, and which nodes the pass gives to the CPU.
 */
import { strict as assert } from "node:assert";
import { graphOf, shapeModel } from "../../bench/synthetic/shape_graph.ts";
import { type ShapeConfig, shapes } from "../../bench/synthetic/shapes.ts";
import { planCudaMemory } from "../../src/backend/native/cuda_model.ts";
import { PREFERENCES } from "../../src/backend/native/native_session.ts";
import {
  type ExpertsPlace,
  placeExperts,
  planPlacement,
} from "../../src/backend/native/placement.ts";
import { CapacityError, InvalidArgumentError } from "../../src/errors.ts";
import { modelSpec } from "../../src/model_spec.ts";
import type { GraphModel } from "../../src/onnx/read_model.ts";

const GiB = 2 ** 30;

/** Plans of graphs for a GPU that nobody else uses. */
function planner(whole: GraphModel, total: number, contextLength: number, gpuMemory: number) {
  const spec = modelSpec(whole);
  const wanted = { ...PREFERENCES, cacheType: "bf16", gpuMemory, contextLength } as const;
  return (part: GraphModel) => planCudaMemory(part, spec, { free: total, total }, wanted);
}

interface Expected {
  weights: number;
  layer: number;
  layers: number;
  block: number;
}

/** Sums over an int4 package's tensors as a GPU has them, cache in bf16. */
function expected(shape: ShapeConfig): Expected {
  const c = shape as unknown as Record<string, number>;
  const D = c.hidden_size!, L = c.num_hidden_layers!, F = c.moe_intermediate_size!;
  const H = c.num_attention_heads!, C = c.kv_lora_rank!, R = c.qk_rope_head_dim!;
  const query = H * (c.qk_nope_head_dim! + R), up = H * (c.qk_nope_head_dim! + c.v_head_dim!);
  const V = c.vocab_size!, Q = c.q_lora_rank ?? 0, E = c.n_routed_experts!;
  // A block of 32 elements: 16 or 32 bytes, and a scale, which is f32 in linear layers.
  const linear = (rows: number, columns: number) => rows * columns / 32 * (16 + 4);
  const attention = linear(C + R, D) + linear(D, H * c.v_head_dim!) +
    (Q ? linear(Q, D) + linear(query, Q) + 4 * Q : linear(query, D)) +
    up * C * (2 + 2) + 4 * C; // kv_b in f16, and once more in bf16
  const mlp = (width: number) => 3 * linear(width, D);
  const dense = c.first_k_dense_replace!, layers = L - dense;
  return {
    weights: 2 * V * D + V * D / 32 * (32 + 4) + 2 * c.max_position_embeddings! * R / 2 * 4 +
      L * (attention + 2 * 4 * D) + 4 * D + dense * mlp(c.intermediate_size!) +
      layers * mlp(c.n_shared_experts! * F),
    layer: E * 3 * F * D / 32 * (16 + 2) + 4 * E * D,
    layers,
    block: 16 * L * (C + R) * 2,
  };
}

const cases: [name: string, shape: ShapeConfig, device: number, host: number][] = [
  ["V2-Lite on 8 GiB", shapes["v2-lite"]!, 8 * GiB, 16 * GiB],
  ["V2 on 80 GiB and 128 GiB of RAM", shapes["v2"]!, 80 * GiB, 128 * GiB],
];

for (const [name, shape, total, hostBytes] of cases) {
  Deno.test(`${name}: int4, bytes on either side, and the least that fits`, () => {
    const graph = graphOf(shapeModel(shape, "int4"));
    const e = expected(shape);
    const context = 8192;
    const planDevice = planner(graph, total, context, 0.9);
    const leastCache = (1 + context / 16) * e.block;
    const { workspace } = planPlacement(graph, e.layers, Infinity, planDevice).device.bytes;
    const over = e.weights + e.layers * e.layer + workspace + leastCache - 0.9 * total;
    const least = Math.ceil(over / e.layer);
    assert(least > 0 && least < e.layers);
    for (const count of [least, e.layers]) {
      const { layers, hostRouters, hostBytes: onHost, device } = planPlacement(
        graph,
        count,
        hostBytes,
        planDevice,
      );
      const { weights, cache } = device.bytes;
      assert.deepEqual(layers, { all: e.layers, host: count });
      assert.equal(hostRouters.size, count);
      assert.equal(onHost, count * e.layer);
      assert.equal(weights, e.weights + (e.layers - count) * e.layer);
      // The cache has what is left.
      assert.equal(cache, device.limits.blocks * e.block);
      const left = 0.9 * total - weights - workspace - cache;
      assert(left >= -1 && left < e.block);
      assert(cache >= leastCache);
    }
    for (const experts of ["gpu", least - 1] as const) {
      assert.throws(
        () => planPlacement(graph, experts, hostBytes, planDevice),
        (error: Error) =>
          error instanceof CapacityError && error.message.includes(`--experts ${least}) it fits`),
      );
    }
    const { hostBytes: all } = planPlacement(graph, "cpu", hostBytes, planDevice);
    assert.equal(all, e.layers * e.layer);
  });
}

const tiny = graphOf(shapeModel(shapes.tiny!, "f32"));
/** A GPU with room for so many bytes of weights. */
const roomFor = (bytes: number) => (part: GraphModel) => {
  const taken = [...part.initializers.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
  if (taken > bytes) throw new CapacityError("out_of_memory", "It does not fit.");
  return taken;
};

Deno.test("the GPU is planned without what is on the host; rows are padded to eight there", () => {
  // tiny: two layers of 16 experts of 96 in 160 columns.
  const layer = 4 * (16 * 3 * 96 * 160 + 16 * 160);
  const [all, one, none] = [0, 1, 2].map((count) =>
    planPlacement(tiny, count, GiB, roomFor(Infinity))
  );
  assert.deepEqual([all!.hostBytes, one!.hostBytes, none!.hostBytes], [0, layer, 2 * layer]);
  assert.deepEqual([all!.device - one!.device, one!.device - none!.device], [layer, layer]);
  // Ten experts: a router of ten rows takes sixteen.
  const ten = graphOf(shapeModel({ ...shapes.tiny!, n_routed_experts: 10 }, "f16"));
  const plan = planPlacement(ten, "cpu", GiB, roomFor(Infinity));
  assert.equal(plan.hostBytes, 2 * (10 * 3 * 96 * 160 * 2 + 16 * 160 * 4));
});

Deno.test("a number of layers that there are not is refused", () => {
  for (const experts of [-1, 3, 1.5, NaN, "host"] as ExpertsPlace[]) {
    assert.throws(
      () => planPlacement(tiny, experts, GiB, roomFor(Infinity)),
      (error: Error) =>
        error instanceof InvalidArgumentError && error.field === "experts" &&
        error.message.includes("0 to 2"),
    );
  }
});

Deno.test("what can not fit is refused with what would", () => {
  const [all, one, none] = [0, 1, 2].map((count) =>
    planPlacement(tiny, count, GiB, roomFor(Infinity)).device
  );
  const refusal = (deviceBytes: number, hostBytes: number, experts: ExpertsPlace) => {
    let message = "";
    assert.throws(() => planPlacement(tiny, experts, hostBytes, roomFor(deviceBytes)), (error) => {
      message = (error as Error).message;
      return error instanceof CapacityError;
    });
    return message;
  };
  assert.equal(planPlacement(tiny, "gpu", 0, roomFor(all!)).device, all);
  assert.match(
    refusal(all! - 1, GiB, "gpu"),
    /It does not fit\. With experts: 1 \(--experts 1\) it fits/,
  );
  assert.match(refusal(one! - 1, GiB, 1), /--experts 2\) it fits/);
  assert.match(refusal(none! - 1, GiB, "cpu"), /all experts on the host it does not fit either/);
  // Too little on the host: fewer layers there, or nothing.
  assert.match(refusal(all!, 1000, "cpu"), /experts of 2 layers take .*--experts 0\) it fits/);
  assert.match(refusal(all! - 1, 1000, "gpu"), /would have to be on the host, which has 0\.00 GiB/);
  const broken = () => planPlacement(tiny, "gpu", GiB, () => assert.fail("broken"));
  assert.throws(broken, /broken/);
});

Deno.test("the last layers' nodes go to the CPU, all nodes of a layer together", () => {
  const model = shapeModel({ ...shapes.tiny!, num_hidden_layers: 4 }, "int8", 400_000);
  const nodes = (op: string) => model.graph!.node.filter(({ opType }) => opType === op);
  const all = nodes("SparseExperts").length;
  assert(all > 3); // of three layers
  const { hostRouters } = planPlacement(graphOf(model), 2, GiB, roomFor(Infinity));
  placeExperts(model, hostRouters);
  const layersOf = (op: string) => new Set(nodes(op).map(({ input }) => input[1]!.split(".")[2]));
  assert.deepEqual(layersOf("SparseExperts"), new Set(["1"]));
  assert.deepEqual(layersOf("HostSparseExperts"), new Set(["2", "3"]));
  assert.equal(nodes("HostSparseExperts").length, all * 2 / 3);
});
