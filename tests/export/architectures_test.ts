/**
 * The graphs of the published models, built from their configs without any weights: parameter counts against
 * those of the papers' model cards, file limits, and what the softmax scale must be.
 */
import { strict as assert } from "node:assert";
import { architectureOf } from "../../export-tools/architectures/registry.ts";
import { DecoderBuilder } from "../../export-tools/architectures/decoder_builder.ts";
import { layOut } from "../../export-tools/data_layout.ts";
import { ModelConfig } from "../../export-tools/model_config.ts";
import type { Weights } from "../../export-tools/quantization/recipe.ts";

const mla = {
  model_type: "deepseek_v2",
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  norm_topk_prob: false,
  scoring_func: "softmax",
  first_k_dense_replace: 1,
  moe_layer_freq: 1,
  hidden_act: "silu",
  rms_norm_eps: 1e-6,
  attention_bias: false,
  vocab_size: 102400,
  rope_theta: 10000,
  max_position_embeddings: 163840,
  rope_scaling: {
    type: "yarn",
    factor: 40,
    original_max_position_embeddings: 4096,
    beta_fast: 32,
    beta_slow: 1,
    mscale: 0.707,
    mscale_all_dim: 0.707,
  },
};
const dense = {
  model_type: "llama",
  vocab_size: 102400,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  rope_scaling: null,
  max_position_embeddings: 4096,
};
const v2 = {
  ...mla,
  num_hidden_layers: 60,
  hidden_size: 5120,
  num_attention_heads: 128,
  q_lora_rank: 1536,
  intermediate_size: 12288,
  moe_intermediate_size: 1536,
  n_routed_experts: 160,
  topk_method: "group_limited_greedy",
  n_group: 8,
  topk_group: 3,
  routed_scaling_factor: 16,
};
const v2Lite = {
  ...mla,
  num_hidden_layers: 27,
  hidden_size: 2048,
  num_attention_heads: 16,
  q_lora_rank: null,
  intermediate_size: 10944,
  moe_intermediate_size: 1408,
  n_routed_experts: 64,
  topk_method: "greedy",
  n_group: 1,
  topk_group: 1,
  routed_scaling_factor: 1,
};

/** Parameters are counted from the published weights' shapes, layer by layer. */
const models: [name: string, config: Record<string, unknown>, parameters: number][] = [
  ["DeepSeek-V2", v2, 235_741_434_880],
  ["DeepSeek-V2-Lite", v2Lite, 15_706_484_224],
  ["DeepSeekMoE-16B", {
    ...dense,
    model_type: "deepseek",
    num_hidden_layers: 28,
    hidden_size: 2048,
    num_attention_heads: 16,
    num_key_value_heads: 16,
    intermediate_size: 10944,
    moe_intermediate_size: 1408,
    n_routed_experts: 64,
    n_shared_experts: 2,
    num_experts_per_tok: 6,
    norm_topk_prob: false,
    first_k_dense_replace: 1,
  }, 16_375_728_128],
  ["DeepSeek LLM 7B", {
    ...dense,
    num_hidden_layers: 30,
    hidden_size: 4096,
    num_attention_heads: 32,
    num_key_value_heads: 32,
    intermediate_size: 11008,
  }, 6_910_365_696],
  ["DeepSeek LLM 67B", {
    ...dense,
    num_hidden_layers: 95,
    hidden_size: 8192,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    intermediate_size: 22016,
  }, 67_425_001_472],
];

const MAX_FILE_BYTES = 2 ** 31 - 1;

/** A graph over tensors that exist in the config's shapes and are never read. */
function build(config: Record<string, unknown>, weights: Weights): DecoderBuilder {
  const read = () => Promise.reject(new Error("no weights here"));
  const checkpoint = {
    folder: "published",
    config: new ModelConfig("config.json", config),
    names: () => [],
    rows: (_: string, shape: number[]) => ({
      rows: shape.slice(0, -1).reduce((product, size) => product * size, 1),
      columns: shape.at(-1)!,
      read,
    }),
  };
  const builder = new DecoderBuilder(checkpoint, { weights, maxTensorBytes: MAX_FILE_BYTES });
  architectureOf(checkpoint.config).build(builder);
  return builder;
}

for (const [name, config, parameters] of models) {
  Deno.test(`${name}: the graph holds every parameter once`, () => {
    const stored = build(config, "f32").weights.matrices
      .filter(({ tensors }) => !tensors[0]!.name.startsWith("rotary."))
      .reduce((sum, { source }) => sum + source.rows * source.columns, 0);
    assert.equal(stored, parameters);
  });

  for (const weights of ["f32", "f16", "int8", "int4"] as const) {
    Deno.test(`${name} in ${weights}: no file reaches 2 GB, tensors are aligned`, () => {
      const { files, tensors } = layOut(build(config, weights).weights.tensors(), MAX_FILE_BYTES);
      assert(files.every(({ bytes }) => bytes > 0 && bytes < 2 ** 31));
      assert(tensors.every(({ offset }) => offset % 4096 === 0));
      const names = tensors.map(({ tensor }) => tensor.name);
      assert.equal(new Set(names).size, names.length);
      const bits = { f32: 32, f16: 16, int8: 8.5, int4: 4.5 }[weights];
      const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
      // Embeddings stay half precision below f16, which weighs most in the small dense model.
      const least = parameters * bits / 8;
      assert(total >= least && total < least * 1.22, `${total} bytes`);
    });
  }
}

/** The scale attribute of the first attention node. */
function scaleOf(config: Record<string, unknown>): number {
  const node = build(config, "int4").graph.nodes.find(({ opType }) =>
    opType.endsWith("Attention")
  )!;
  return node.attribute.find(({ name }) => name === "scale")!.f;
}

Deno.test("the softmax scale follows the config's mscale_all_dim, which differs within the family", () => {
  // DeepSeek's own code: 192^-0.5 * (0.1 * mscale_all_dim * ln 40 + 1)^2
  const near = (got: number, want: number) =>
    assert(Math.abs(got - want) < 1e-6, `${got}, ${want}`);
  near(scaleOf(v2), 0.114721);
  near(scaleOf(v2Lite), 0.114721);
  const v25 = { ...mla.rope_scaling, mscale: 1, mscale_all_dim: 1 };
  near(scaleOf({ ...v2, rope_scaling: v25 }), 0.135234);
  near(scaleOf({ ...v2, rope_scaling: null }), 192 ** -0.5);
  near(scaleOf(models[2]![1]), 128 ** -0.5);
});

Deno.test("both dialects of config.json give the same rotary tables", async () => {
  const { rope_scaling, rope_theta, ...rest } = v2Lite;
  const { type, ...scaling } = rope_scaling;
  const hub = await cosinesOf({ ...v2Lite, max_position_embeddings: 64 });
  const rewritten = { rope_type: type, rope_theta, ...scaling };
  const other = { ...rest, max_position_embeddings: 64, rope_parameters: rewritten };
  assert.deepEqual(await cosinesOf(other), hub);
});

async function cosinesOf(config: Record<string, unknown>): Promise<Float32Array> {
  const { matrices } = build(config, "int4").weights;
  const table = matrices.find(({ tensors }) => tensors[0]!.name === "rotary.cos")!;
  return await table.source.read(0, table.source.rows);
}

Deno.test("YaRN leaves the fast pairs of V2, divides the slow ones by the factor and ramps between", async () => {
  const cos = await cosinesOf({ ...v2, max_position_embeddings: 2 });
  const frequencies = [...cos.subarray(32)].map(Math.acos); // angles at position 1
  const plain = Array.from({ length: 32 }, (_, i) => 10000 ** (-i / 32));
  // Bounds for dim 64, base 10000, 4096 positions, beta 32 and 1: pairs 10 and 23.
  for (let i = 0; i <= 10; i++) {
    assert(Math.abs(frequencies[i]! / plain[i]! - 1) < 1e-4, `pair ${i}`);
  }
  for (let i = 11; i < 23; i++) {
    const kept = 1 - (i - 10) / 13;
    const want = plain[i]! * (kept + (1 - kept) / 40);
    assert(Math.abs(frequencies[i]! - want) < 1e-3, `pair ${i}`);
  }
  for (let i = 23; i < 32; i++) assert(frequencies[i]! < plain[i]! / 20, `pair ${i}`);
});

Deno.test("configs that no graph is written for are refused by the field's name", () => {
  const refusals: [change: Record<string, unknown>, message: RegExp][] = [
    [{ model_type: "qwen2" }, /model_type "qwen2" is not supported, supported are deepseek_v2/],
    [{ topk_method: "noaux_tc" }, /topk_method is "noaux_tc", needed is "greedy" or/],
    [{ scoring_func: "sigmoid" }, /scoring_func is "sigmoid"/],
    [{ attention_bias: true }, /attention_bias is true/],
    [{ hidden_act: "gelu" }, /hidden_act is "gelu"/],
    [{ rope_scaling: { type: "dynamic", factor: 2 } }, /its type is "dynamic"/],
    [{ num_hidden_layers: 0 }, /num_hidden_layers is 0, needed is a whole number of at least 1/],
    [{ hidden_size: undefined }, /hidden_size is missing/],
    [{ n_group: 7 }, /6 of 160 experts from 3 of 7 groups can not be chosen/],
    [{ qk_rope_head_dim: 63 }, /63 rotary dimensions/],
    [{ rms_norm_eps: -1 }, /rms_norm_eps is -1, needed is a number above 0/],
  ];
  for (const [change, message] of refusals) {
    assert.throws(() => build({ ...v2, ...change }, "int8"), message);
  }
});
