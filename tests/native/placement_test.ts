/**
 * Where experts lie: bytes of either side against sums over the shapes of config.json, what is refused and what
 * the refusal advises, and which nodes the pass gives to the CPU.
 */
import { strict as assert } from "node:assert";
import { graphOf, shapeModel } from "../../bench/synthetic/shape_graph.ts";
import { type ShapeConfig, shapes } from "../../bench/synthetic/shapes.ts";
import {
  type ExpertsPlace,
  placeExperts,
  planPlacement,
} from "../../src/backend/native/placement.ts";
import { CapacityError, InvalidArgumentError } from "../../src/errors.ts";

const GiB = 2 ** 30;
const LOGIT_ROWS = 256;

interface Expected {
  weights: number;
  layer: number;
  layers: number;
  workspace: number;
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
    workspace: 4 * V * D + 4 * LOGIT_ROWS * V,
    block: 16 * L * (C + R) * 2,
  };
}

const cases: [name: string, shape: ShapeConfig, device: number, host: number, least: number][] = [
  ["V2-Lite on 8 GiB", shapes["v2-lite"]!, 0.9 * 8 * GiB, 16 * GiB, 10],
  ["V2 on 80 GiB and 128 GiB of RAM", shapes["v2"]!, 0.9 * 80 * GiB, 128 * GiB, 30],
];

for (const [name, shape, deviceBytes, hostBytes, least] of cases) {
  Deno.test(`${name}: int4, bytes on either side, and the least that fits`, () => {
    const graph = graphOf(shapeModel(shape, "int4"));
    const e = expected(shape);
    const leastBlocks = 1 + 8192 / 16;
    const room = {
      ...{ deviceBytes, hostBytes, blockBytes: e.block, leastBlocks, logitRows: LOGIT_ROWS },
    };
    const over = e.weights + e.layers * e.layer + e.workspace + leastBlocks * e.block - deviceBytes;
    assert.equal(Math.ceil(over / e.layer), least);
    for (const count of [least, e.layers]) {
      const plan = planPlacement(graph, room, count);
      const left = deviceBytes - e.weights - (e.layers - count) * e.layer - e.workspace;
      assert.deepEqual(plan.layers, { all: e.layers, host: count });
      assert.deepEqual(plan.device, {
        weights: e.weights,
        experts: (e.layers - count) * e.layer,
        workspace: e.workspace,
        cache: Math.floor(left / e.block) * e.block,
      });
      assert.deepEqual(plan.host, { experts: count * e.layer });
      assert.equal(plan.blocks, Math.floor(left / e.block));
      assert(plan.blocks >= leastBlocks);
    }
    assert.deepEqual(planPlacement(graph, room, "cpu"), planPlacement(graph, room, e.layers));
    for (const experts of ["gpu", least - 1] as const) {
      assert.throws(() => planPlacement(graph, room, experts), (error: Error) => {
        assert(error instanceof CapacityError);
        assert.match(error.message, new RegExp(`--experts ${least}\\) fits`));
        return true;
      });
    }
  });
}

const tiny = graphOf(shapeModel(shapes.tiny!, "f32"));
const ample = {
  ...{ deviceBytes: GiB, hostBytes: GiB, blockBytes: 1000, leastBlocks: 2, logitRows: 1 },
};

Deno.test("float experts are on the GPU twice, in bf16 too; rows are padded to eight on the host", () => {
  // tiny: two layers of 16 experts of 96 in 160 columns.
  const elements = 16 * 3 * 96 * 160;
  const router = 16 * 160 * 4;
  const { device, host } = planPlacement(tiny, ample, 1);
  assert.equal(device.experts, elements * (4 + 2) + router);
  assert.equal(host.experts, elements * 4 + router);
  // Ten experts: a router of ten rows takes sixteen.
  const ten = { ...shapes.tiny!, n_routed_experts: 10 };
  const plan = planPlacement(graphOf(shapeModel(ten, "f16")), ample, "cpu");
  assert.equal(plan.host.experts, 2 * (10 * 3 * 96 * 160 * 2 + 16 * 160 * 4));
});

Deno.test("a number of layers that there are not is refused", () => {
  for (const experts of [-1, 3, 1.5, NaN, "host"] as ExpertsPlace[]) {
    assert.throws(
      () => planPlacement(tiny, ample, experts),
      (error: Error) =>
        error instanceof InvalidArgumentError && error.field === "experts" &&
        error.message.includes("0 to 2"),
    );
  }
});

Deno.test("what can not fit is refused with what would", () => {
  const { device, host } = planPlacement(tiny, ample, 0);
  const layer = device.experts / 2;
  const all = device.weights + device.experts + device.workspace + 2 * ample.blockBytes;
  const refusal = (deviceBytes: number, hostBytes: number, experts: ExpertsPlace) => {
    let message = "";
    assert.throws(() => planPlacement(tiny, { ...ample, deviceBytes, hostBytes }, experts), (e) => {
      message = (e as Error).message;
      return e instanceof CapacityError;
    });
    return message;
  };
  assert.equal(host.experts, 0);
  assert.doesNotThrow(() => planPlacement(tiny, { ...ample, deviceBytes: all }, "gpu"));
  assert.match(refusal(all - 1, GiB, "gpu"), /--experts 1\) fits/);
  assert.match(refusal(all - layer - 1, GiB, 1), /--experts 2\) fits/);
  assert.match(refusal(all - 2 * layer - 1, GiB, "cpu"), /without any experts.*--weights int4/);
  // Too little on the host: fewer layers there, or nothing.
  assert.match(refusal(all, 1000, "cpu"), /--experts 0\) fits/);
  assert.match(refusal(all - 1, 1000, "gpu"), /host, which has 0\.00 GiB.*contextLength/);
});

Deno.test("the last layers' nodes go to the CPU, all nodes of a layer together", () => {
  const model = shapeModel({ ...shapes.tiny!, num_hidden_layers: 4 }, "int8", 400_000);
  const graph = graphOf(model);
  const nodes = (op: string) => model.graph!.node.filter(({ opType }) => opType === op);
  const all = nodes("SparseExperts").length;
  assert(all > 3); // of three layers
  placeExperts(model, planPlacement(graph, ample, 2).hostRouters);
  const layersOf = (op: string) => new Set(nodes(op).map(({ input }) => input[1]!.split(".")[2]));
  assert.deepEqual(layersOf("SparseExperts"), new Set(["1"]));
  assert.deepEqual(layersOf("HostSparseExperts"), new Set(["2", "3"]));
  assert.equal(nodes("SparseExperts").length + nodes("HostSparseExperts").length, all);
  placeExperts(model, new Set());
  assert.equal(nodes("HostSparseExperts").length, all * 2 / 3);
});
