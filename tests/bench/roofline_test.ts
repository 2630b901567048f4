/**
 * The model of speed against published sizes and sums made by hand.
 * @module
 */
import assert from "node:assert/strict";
import { devices, hosts } from "../../bench/roofline/devices.ts";
import { hybridSeconds, leastPlacement } from "../../bench/roofline/hybrid.ts";
import {
  cacheBytesPerToken,
  type ModelConfig,
  parameters,
  type Setting,
  stepCost,
  stepSeconds,
  weightBytesPerRank,
} from "../../bench/roofline/step_cost.ts";
import { graphOf, shapeModel } from "../../bench/synthetic/shape_graph.ts";
import { shapes } from "../../bench/synthetic/shapes.ts";

const v2 = shapes["v2"] as unknown as ModelConfig;
const lite = shapes["v2-lite"] as unknown as ModelConfig;

const decode: Setting = {
  ranks: 8,
  layout: "tensor",
  weights: "bf16",
  cache: "bf16",
  tokens: 64,
  sequences: 64,
  context: 1000,
  logitRows: 64,
};

Deno.test("roofline: parameters are those of the published checkpoints", () => {
  assert.equal(parameters(v2).total, 235_741_434_880);
  assert.equal(parameters(lite).total, 15_706_484_224);
});

Deno.test("roofline: a cached token takes 576 elements a layer, or rows of 656 bytes", () => {
  assert.equal(cacheBytesPerToken(v2, "bf16"), 60 * 576 * 2);
  assert.equal(cacheBytesPerToken(v2, "fp8"), 60 * 656);
  assert.equal(cacheBytesPerToken(v2, "6bit"), 25_920); // the paper's 93.3 % less than 389,120
  assert.equal(cacheBytesPerToken(lite, "bf16"), 31_104);
});

Deno.test("roofline: ranks together hold every weight, and copies only of what is not divided", () => {
  const p = parameters(v2);
  const norms = 60 * (2 * 5120 + 512 + 1536) + 5120;
  const eight = 8 * weightBytesPerRank(v2, { ranks: 8, layout: "tensor", weights: "bf16" });
  const copies = 7 * 2 * (p.attentionShared + p.router);
  assert.equal(eight - copies, 2 * (p.total - norms));
  const data = 8 * weightBytesPerRank(v2, { ranks: 8, layout: "data", weights: "bf16" });
  assert.equal(data - eight, 7 * 2 * p.attentionByHead);
});

Deno.test("roofline: attention reads every sequence's rows, on all ranks where heads are divided", () => {
  const attention = (layout: Setting["layout"]) =>
    stepCost(v2, { ...decode, layout }).find(({ op }) => op === "latent attention")!;
  assert.equal(attention("tensor").bytes, 64 * 1000 * 69_120);
  assert.equal(attention("data").bytes, 8 * 1000 * 69_120);
  // 128 heads, scores over 576 and values over 512 columns, two operations each.
  const operations = 64 * 1000 * 60 * 128 * 2 * (576 + 512) / 8;
  assert.equal(attention("tensor").operations, operations);
  assert.equal(attention("data").operations, operations);
});

Deno.test("roofline: ranks' operations add up to two per active parameter and token", () => {
  const p = parameters(v2);
  const active = p.attentionShared / 8 + p.attentionByHead / 8 + p.router / 8 +
    (6 * 59 * p.expert + p.sharedExperts + p.dense + p.head) / 8;
  const sum = stepCost(v2, { ...decode, layout: "data" })
    .filter(({ op }) => op !== "latent attention")
    .reduce((total, { operations }) => total + operations, 0);
  assert.ok(Math.abs(sum / (2 * 64 * active) - 1) < 1e-12);
});

Deno.test("roofline: one token reads one token's experts, a large batch all that a rank holds", () => {
  const experts = (tokens: number) =>
    stepCost(v2, { ...decode, tokens }).find(({ op }) => op === "routed experts")!.bytes;
  const all = 2 * 59 * 160 * 3 * 5120 * 1536 / 8;
  assert.ok(Math.abs(experts(1) / (all * 6 / 160) - 1) < 1e-12);
  assert.ok(Math.abs(experts(4096) / all - 1) < 1e-6);
});

Deno.test("roofline: the time of a step by hand, one GPU and one token", () => {
  const setting = { ...decode, ranks: 1, tokens: 1, sequences: 1, logitRows: 1 };
  // V2-Lite in bf16: 2.24 billion active parameters and the head's 0.21 are read, and 1000 cached rows.
  const p = parameters(lite);
  const read = 2 * (p.attentionShared + p.attentionByHead + p.router + 6 * 26 * p.expert +
        p.sharedExperts + p.dense + p.head) + 1000 * 31_104;
  const { inTurn, overlapped } = stepSeconds(lite, devices["h100"]!, setting);
  assert.ok(Math.abs(inTurn / (read / 3.35e12) - 1) < 1e-9);
  assert.equal(inTurn, overlapped);
});

Deno.test("roofline: experts of ten layers on the host by hand, V2-Lite and one token", () => {
  const p = parameters(lite);
  const stored = 0.5 + 2 / 32;
  const setting: Omit<Setting, "ranks" | "layout"> = {
    weights: "int4",
    cache: "bf16",
    ...{ tokens: 1, sequences: 1, context: 1000, logitRows: 1 },
  };
  const { gpu, host, link, total } = hybridSeconds(
    lite,
    devices["rtx3070"]!,
    hosts["desktop"]!,
    setting,
    10,
  );
  // 448 GB/s. Six experts of 8,650,752 weights in each of 16 layers, and those layers' routers.
  const read = stored * (p.attentionShared + p.attentionByHead + p.sharedExperts + p.dense +
        16 * 6 * 8_650_752) + 2 * (16 * 64 * 2048 + p.head) + 1000 * 31_104;
  assert.ok(Math.abs(gpu / (read / 448e9) - 1) < 1e-9);
  // 89.6 GB/s: 292 MB of experts, 5 MB of routers in f32.
  const hostBytes = stored * 10 * 6 * 8_650_752 + 4 * 10 * 64 * 2048;
  assert.ok(Math.abs(host / (hostBytes / 89.6e9) - 1) < 1e-9);
  // 8 KiB to the host and back in each layer, 16 lanes of 16 GT/s at 128 bits in 130.
  assert.ok(Math.abs(link / (10 * 2 * 8192 / (16 * 16e9 / 8 * 128 / 130)) - 1) < 1e-9);
  assert.equal(total, gpu + host + link);
});

Deno.test("roofline: many tokens are bound by the host's operations, none on the host by the GPU alone", () => {
  const setting: Omit<Setting, "ranks" | "layout"> = {
    weights: "int4",
    cache: "bf16",
    ...{ tokens: 4096, sequences: 1, context: 1, logitRows: 1 },
  };
  const [gpu, host] = [devices["h100"]!, hosts["server"]!];
  // 59 layers: six experts of 23,592,960 weights, a router of 160 rows; 32 cores of 2 GHz, 64 operations each.
  const operations = 2 * 4096 * 59 * (6 * 23_592_960 + 160 * 5120);
  const all = hybridSeconds(v2, gpu, host, setting, 59);
  assert.ok(Math.abs(all.host / (operations / (32 * 2e9 * 64)) - 1) < 1e-9);
  const none = hybridSeconds(v2, gpu, host, setting, 0);
  const { inTurn } = stepSeconds(v2, gpu, { ...setting, ranks: 1, layout: "tensor" });
  assert.deepEqual([none.host, none.link], [0, 0]);
  assert.ok(Math.abs(none.total / inTurn - 1) < 1e-12);
});

Deno.test("roofline: V2-Lite in int4 fits 8 GB, and V2 80 GB beside 128 GB of RAM, by the plan", () => {
  const least = (shape: string, device: string, host: string) =>
    leastPlacement(
      graphOf(shapeModel(shapes[shape]!, "int4")),
      devices[device]!,
      hosts[host]!,
      8192,
    )?.layers;
  for (
    const [shape, device, host] of [["v2-lite", "rtx3070", "desktop"], ["v2", "h100", "server"]]
  ) {
    const layers = least(shape!, device!, host!)!;
    assert.ok(layers.host > 0 && layers.host < layers.all);
  }
  assert.equal(least("v2", "rtx3070", "server"), undefined);
});
