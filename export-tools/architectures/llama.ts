import type { Architecture } from "./architecture.ts";
import { decoderLayers } from "./decoder_layers.ts";
import { denseFeedForward } from "./feed_forward.ts";
import { multiHeadAttention } from "./multi_head_attention.ts";

/** Llama's shape: multi-head or grouped-query attention and a dense gated MLP. */
export const llama: Architecture = {
  name: "llama",
  covers: "DeepSeek LLM 7B and 67B, base and chat",
  accepts: (config) => config.raw("model_type") === "llama",
  build: (b) => decoderLayers(b, multiHeadAttention(b), denseFeedForward(b)),
};
