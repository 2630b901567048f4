import type { Value } from "../../src/onnx/graph_builder.ts";
import { InvalidFileError } from "../../src/errors.ts";
import { pagedAttention, pagedAttentionFunction } from "../ops/paged_attention.ts";
import { STEP_INPUTS } from "../ops/paged_sequences.ts";
import type { DecoderBuilder } from "./decoder_builder.ts";
import type { LayerPart } from "./decoder_layers.ts";

/**
 * Multi-head or grouped-query attention with Llama's rotary convention (the two halves of a head
 * rotate against one another).
 *
 * @param b Takes the nodes; the rotary rows are added at once.
 * @returns The attention half of a layer.
 */
export function multiHeadAttention(b: DecoderBuilder): LayerPart {
  const { config } = b;
  const hidden = config.integer("hidden_size");
  const heads = config.integer("num_attention_heads");
  const keyHeads = config.integer("num_key_value_heads", heads);
  const width = config.integer("head_dim", Math.floor(hidden / heads));
  if (heads % keyHeads !== 0 || (!config.has("head_dim") && hidden % heads !== 0)) {
    throw new InvalidFileError(
      config.path,
      `Cannot use ${config.path}: hidden_size ${hidden}, ${heads} attention heads and ${keyHeads} ` +
        "key-value heads do not divide evenly.",
    );
  }
  b.rotary(width);
  b.useFunction(pagedAttentionFunction());
  return (x, layer, prefix): Value => {
    const at = `layers.${layer}`;
    const project = (name: string, out: number) =>
      b.linear(x, `${prefix}.${name}_proj.weight`, [out, hidden], `${at}.${name}`);
    const query = project("q", heads * width);
    const key = project("k", keyHeads * width);
    const value = project("v", keyHeads * width);
    const [keys, keysOut] = b.cache(`cache.${at}.key`, keyHeads, width);
    const [values, valuesOut] = b.cache(`cache.${at}.value`, keyHeads, width);
    const y = b.graph.op(
      pagedAttention.name,
      [query, key, value, "cos", "sin", ...STEP_INPUTS, keys, values],
      { scale: { float: width ** -0.5 }, rotary_interleaved: 0 },
      { domain: "hybridseek", outputs: [`${at}.mixed`, keysOut, valuesOut] },
    );
    return b.linear(y, `${prefix}.o_proj.weight`, [hidden, heads * width], `${at}.attention`);
  };
}
