import type { Architecture } from "./architecture.ts";
import { decoderLayers } from "./decoder_layers.ts";
import { denseFeedForward, mixtureFeedForward } from "./feed_forward.ts";
import { multiHeadAttention } from "./multi_head_attention.ts";

/** DeepSeekMoE: multi-head attention and DeepSeekMoE experts (arXiv 2401.06066). */
export const deepseek: Architecture = {
  name: "deepseek",
  covers: "DeepSeekMoE-16B base and chat",
  accepts: (config) => config.raw("model_type") === "deepseek" && !config.has("kv_lora_rank"),
  build(b) {
    const attention = multiHeadAttention(b);
    const feedForward = b.config.has("n_routed_experts")
      ? mixtureFeedForward(b, { groups: 1, topGroups: 1, scaling: 1 })
      : denseFeedForward(b);
    decoderLayers(b, attention, feedForward);
  },
};
