/**
 * A model of one's own making with many experts, large enough that its data file has several chunks.
 * @module
 */
import { exportCheckpoint, type ExportOptions } from "../../export-tools/export_checkpoint.ts";
import { temporaryPath } from "../packages.ts";
import { checkpointOf, type NewTensor, safetensorsOf } from "./checkpoint_files.ts";

/** Odd sizes: no row of an expert, nor an expert, ends where a chunk does. */
export const expertConfig = {
  model_type: "deepseek_v2",
  num_hidden_layers: 3,
  hidden_size: 192,
  num_attention_heads: 2,
  kv_lora_rank: 32,
  qk_nope_head_dim: 16,
  qk_rope_head_dim: 8,
  v_head_dim: 16,
  intermediate_size: 300,
  moe_intermediate_size: 356,
  n_routed_experts: 24,
  n_shared_experts: 1,
  num_experts_per_tok: 3,
  first_k_dense_replace: 1,
  vocab_size: 1000,
  max_position_embeddings: 256,
};

function shapes(): Record<string, number[]> {
  const { hidden_size: hidden, num_attention_heads: heads, kv_lora_rank: rank } = expertConfig;
  const { qk_nope_head_dim: nope, qk_rope_head_dim: rope, v_head_dim: value } = expertConfig;
  const mlp = (prefix: string, width: number) => ({
    [`${prefix}.gate_proj.weight`]: [width, hidden],
    [`${prefix}.up_proj.weight`]: [width, hidden],
    [`${prefix}.down_proj.weight`]: [hidden, width],
  });
  const layers = Array.from({ length: expertConfig.num_hidden_layers }, (_, layer) => {
    const prefix = `model.layers.${layer}`;
    const experts = Array.from(
      { length: expertConfig.n_routed_experts },
      (_, expert) => mlp(`${prefix}.mlp.experts.${expert}`, expertConfig.moe_intermediate_size),
    );
    return {
      [`${prefix}.input_layernorm.weight`]: [hidden],
      [`${prefix}.post_attention_layernorm.weight`]: [hidden],
      [`${prefix}.self_attn.q_proj.weight`]: [heads * (nope + rope), hidden],
      [`${prefix}.self_attn.kv_a_proj_with_mqa.weight`]: [rank + rope, hidden],
      [`${prefix}.self_attn.kv_a_layernorm.weight`]: [rank],
      [`${prefix}.self_attn.kv_b_proj.weight`]: [heads * (nope + value), rank],
      [`${prefix}.self_attn.o_proj.weight`]: [hidden, heads * value],
      ...layer < expertConfig.first_k_dense_replace
        ? mlp(`${prefix}.mlp`, expertConfig.intermediate_size)
        : {
          [`${prefix}.mlp.gate.weight`]: [expertConfig.n_routed_experts, hidden],
          ...mlp(`${prefix}.mlp.shared_experts`, expertConfig.moe_intermediate_size),
          ...Object.assign({}, ...experts),
        },
    };
  });
  return {
    "model.embed_tokens.weight": [expertConfig.vocab_size, hidden],
    "lm_head.weight": [expertConfig.vocab_size, hidden],
    "model.norm.weight": [hidden],
    ...Object.assign({}, ...layers),
  };
}

let checkpoint: Promise<string> | undefined;

async function writeCheckpoint(): Promise<string> {
  let state = 1;
  const random = () => (state = state * 48271 % 2147483647) / 2147483647 - 0.5;
  const tensors = Object.entries(shapes()).map(([name, shape]): [string, NewTensor] => {
    const count = shape.reduce((product, size) => product * size, 1);
    return [name, { shape, values: Float32Array.from({ length: count }, random) }];
  });
  return await checkpointOf({
    "config.json": expertConfig,
    "model.safetensors": safetensorsOf(tensors),
  });
}

/**
 * Exports it.
 *
 * @param weights The storage format.
 * @returns The package's folder.
 */
export async function expertPackage(weights: ExportOptions["weights"]): Promise<string> {
  checkpoint ??= writeCheckpoint();
  const path = temporaryPath(`experts-${weights}`);
  await exportCheckpoint(await checkpoint, path, { weights });
  return path;
}
