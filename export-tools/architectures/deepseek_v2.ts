import { latentAttention, latentAttentionFunction } from "../ops/latent_attention.ts";
import { STEP_INPUTS } from "../ops/paged_sequences.ts";
import type { Architecture } from "./architecture.ts";
import type { DecoderBuilder } from "./decoder_builder.ts";
import { decoderLayers, type LayerPart } from "./decoder_layers.ts";
import { denseFeedForward, mixtureFeedForward } from "./feed_forward.ts";

/** Epsilon of the norms of the compressed query and latent: DeepSeek's code never configures it. */
const COMPRESSED_NORM_EPSILON = 1e-6;

/** DeepSeek-V2: Multi-head Latent Attention and DeepSeekMoE (arXiv 2405.04434). */
export const deepseekV2: Architecture = {
  name: "deepseek_v2",
  covers: "DeepSeek-V2, V2.5 and V2-Lite with their Chat and Coder models",

  // The first upload of DeepSeek-V2 said `deepseek`; only MLA has a latent rank.
  accepts: (config) =>
    config.raw("model_type") === "deepseek_v2" ||
    (config.raw("model_type") === "deepseek" && config.has("kv_lora_rank")),

  build(b) {
    const { config } = b;
    const method = config.string("topk_method", "greedy");
    config.requireOneOf("topk_method", "greedy", "group_limited_greedy");
    const limited = method === "group_limited_greedy";
    const attention = multiHeadLatentAttention(b);
    const feedForward = config.has("n_routed_experts")
      ? mixtureFeedForward(b, {
        groups: limited ? config.integer("n_group") : 1,
        topGroups: limited ? config.integer("topk_group") : 1,
        scaling: config.number("routed_scaling_factor", 1),
      })
      : denseFeedForward(b);
    decoderLayers(b, attention, feedForward);
  },
};

function multiHeadLatentAttention(b: DecoderBuilder): LayerPart {
  const { config } = b;
  const hidden = config.integer("hidden_size");
  const heads = config.integer("num_attention_heads");
  const rank = config.integer("kv_lora_rank");
  const nope = config.integer("qk_nope_head_dim");
  const rope = config.integer("qk_rope_head_dim");
  const valueWidth = config.integer("v_head_dim");
  const queryRank = config.integer("q_lora_rank", 0, 0); // 0: the query is not compressed
  const width = nope + rope;
  const scale = width ** -0.5 * b.rotary(rope);
  b.useFunction(latentAttentionFunction());

  return (x, layer, prefix) => {
    const at = `layers.${layer}`;
    const weight = (name: string) => `${prefix}.${name}.weight`;
    let queryInput = x;
    let queryWeight = weight("q_proj");
    if (queryRank > 0) {
      const low = b.linear(x, weight("q_a_proj"), [queryRank, hidden], `${at}.q_a`);
      const name = weight("q_a_layernorm");
      queryInput = b.norm(low, name, queryRank, COMPRESSED_NORM_EPSILON, `${at}.q_a_normed`);
      queryWeight = weight("q_b_proj");
    }
    const queryShape: [number, number] = [heads * width, queryRank || hidden];
    const query = b.linear(queryInput, queryWeight, queryShape, `${at}.query`);
    const latentShape: [number, number] = [rank + rope, hidden];
    const latent = b.linear(x, weight("kv_a_proj_with_mqa"), latentShape, `${at}.latent`);
    const normWeight = b.vector(weight("kv_a_layernorm"), rank);
    const kvB = b.weights.add(
      weight("kv_b_proj"),
      b.rows(weight("kv_b_proj"), [heads * (nope + valueWidth), rank]),
      b.format("latentUp"),
      [heads, nope + valueWidth],
    )[0]!;
    const [cache, cacheOut] = b.cache(`cache.${at}.latent`, 1, rank + rope);
    const y = b.graph.op(
      latentAttention.name,
      [query, latent, normWeight, kvB.name, "cos", "sin", ...STEP_INPUTS, cache],
      { scale: { float: scale }, epsilon: { float: COMPRESSED_NORM_EPSILON } },
      { domain: "hybridseek", outputs: [`${at}.mixed`, cacheOut] },
    );
    const outShape: [number, number] = [hidden, heads * valueWidth];
    return b.linear(y, weight("o_proj"), outShape, `${at}.attention`);
  };
}
