/**
 * What all families share: pre-norm residual layers between embedding and head.
 * @module
 */
import type { Value } from "../../src/onnx/graph_builder.ts";
import type { DecoderBuilder } from "./decoder_builder.ts";

/** One half of a layer. @returns [T, hidden], to be added to the residual stream. */
export type LayerPart = (x: Value, layer: number, prefix: string) => Value;

/**
 * Builds embedding, layers and head.
 *
 * @param b Takes the nodes.
 * @param attention The first half of a layer; `prefix` is for example `model.layers.0.self_attn`.
 * @param feedForward The second half; `prefix` is for example `model.layers.0.mlp`.
 */
export function decoderLayers(
  b: DecoderBuilder,
  attention: LayerPart,
  feedForward: LayerPart,
): void {
  const { config } = b;
  config.requireOneOf("hidden_act", "silu");
  config.requireOneOf("attention_bias", false);
  config.requireOneOf("mlp_bias", false);
  const hidden = config.integer("hidden_size");
  const vocab = config.integer("vocab_size");
  const epsilon = config.positive("rms_norm_eps", 1e-6);
  let x = b.embedding(vocab, hidden);
  for (let layer = 0; layer < config.integer("num_hidden_layers"); layer++) {
    const prefix = `model.layers.${layer}`;
    const at = `layers.${layer}`;
    const norm = (name: string, from: Value) =>
      b.norm(from, `${prefix}.${name}.weight`, hidden, epsilon, `${at}.${name}`);
    const attended = attention(norm("input_layernorm", x), layer, `${prefix}.self_attn`);
    x = b.add(x, attended, `${at}.attended`);
    const fed = feedForward(norm("post_attention_layernorm", x), layer, `${prefix}.mlp`);
    x = b.add(x, fed, `${at}.out`);
  }
  b.head(x, vocab, hidden, epsilon);
}
