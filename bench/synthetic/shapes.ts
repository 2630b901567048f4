/**
 * Shapes of the family, as config.json writes them, for packages of random weights.
 * @module
 */

/** Fields of a config.json. */
export type ShapeConfig = Readonly<Record<string, unknown>> & { num_hidden_layers: number };

const yarn = {
  type: "yarn",
  factor: 40,
  original_max_position_embeddings: 4096,
  beta_fast: 32,
  beta_slow: 1,
};

/** DeepSeek-V2-Lite, 15.7 billion parameters. */
const v2Lite: ShapeConfig = {
  model_type: "deepseek_v2",
  num_hidden_layers: 27,
  vocab_size: 102400,
  hidden_size: 2048,
  intermediate_size: 10944,
  first_k_dense_replace: 1,
  moe_intermediate_size: 1408,
  n_routed_experts: 64,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  norm_topk_prob: false,
  routed_scaling_factor: 1,
  topk_method: "greedy",
  num_attention_heads: 16,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  rope_scaling: { ...yarn, mscale: 0.707, mscale_all_dim: 0.707 },
  max_position_embeddings: 163840,
};

/** DeepSeek-V2, 236 billion parameters: choose few layers. */
const v2: ShapeConfig = {
  ...v2Lite,
  num_hidden_layers: 60,
  hidden_size: 5120,
  intermediate_size: 12288,
  moe_intermediate_size: 1536,
  n_routed_experts: 160,
  routed_scaling_factor: 16,
  topk_method: "group_limited_greedy",
  n_group: 8,
  topk_group: 3,
  num_attention_heads: 128,
  q_lora_rank: 1536,
  rope_scaling: { ...yarn, mscale: 1, mscale_all_dim: 1 },
};

/** DeepSeekMoE-16B. */
const moe16b: ShapeConfig = {
  model_type: "deepseek",
  num_hidden_layers: 28,
  vocab_size: 102400,
  hidden_size: 2048,
  intermediate_size: 10944,
  first_k_dense_replace: 1,
  moe_intermediate_size: 1408,
  n_routed_experts: 64,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  norm_topk_prob: false,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  max_position_embeddings: 4096,
};

/** DeepSeek LLM 7B. */
const llm7b: ShapeConfig = {
  model_type: "llama",
  num_hidden_layers: 30,
  vocab_size: 102400,
  hidden_size: 4096,
  intermediate_size: 11008,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  max_position_embeddings: 4096,
};

/** V2-Lite in small: every op and no size that another one has. */
const tiny: ShapeConfig = {
  ...v2Lite,
  num_hidden_layers: 3,
  vocab_size: 1000,
  hidden_size: 160,
  intermediate_size: 352,
  moe_intermediate_size: 96,
  n_routed_experts: 16,
  num_attention_heads: 4,
  kv_lora_rank: 64,
  qk_nope_head_dim: 32,
  qk_rope_head_dim: 16,
  v_head_dim: 48,
  max_position_embeddings: 8192,
};

/** Every shape by its name. */
export const shapes: Readonly<Record<string, ShapeConfig>> = {
  "v2-lite": v2Lite,
  "v2-lite-sparse": { ...v2Lite, first_k_dense_replace: 0 }, // so that one layer can be timed
  "v2": v2,
  "moe-16b": moe16b,
  "llm-7b": llm7b,
  "tiny": tiny,
  "tiny-v2": {
    ...tiny,
    topk_method: "group_limited_greedy",
    n_group: 4,
    topk_group: 2,
    routed_scaling_factor: 16,
    q_lora_rank: 96,
  },
  "tiny-llm": {
    ...llm7b,
    num_hidden_layers: 2,
    vocab_size: 1000,
    hidden_size: 128,
    intermediate_size: 352,
    num_attention_heads: 4,
    num_key_value_heads: 4,
  },
};
