/**
 * `PagedAttention`: multi-head and grouped-query attention with rotary embedding over paged caches of
 * keys and values (DeepSeek LLM 7B and 67B, DeepSeekMoE 16B).
 *
 * Dimension letters: B sequences, T tokens of the step, S context, H query heads, G key heads (H is a
 * multiple), W key width, V value width, P tokens per block, M blocks per sequence.
 * @module
 */
import { functionProto, type FunctionSignature } from "../../src/onnx/graph_builder.ts";
import type { FunctionProto } from "../../src/onnx/onnx_pb.ts";
import { appendToCache, forEachSequence, maskedSoftmax, STEP_INPUTS } from "./paged_sequences.ts";

/** Name, inputs, outputs and attributes. */
export const pagedAttention: FunctionSignature = {
  name: "PagedAttention",
  inputs: [
    "query", // [T, H*W], before the rotation
    "key", // [T, G*W], before the rotation
    "value", // [T, G*V]
    "cos", // [T, W/2]
    "sin", // [T, W/2]
    ...STEP_INPUTS,
    "key_cache", // [blocks, P, G, W]: rotated keys
    "value_cache", // [blocks, P, G, V]
  ],
  outputs: [
    "y", // [T, H*V]
    "key_cache_out",
    "value_cache_out",
  ],
  required: ["scale"],
  defaults: { rotary_interleaved: 0 }, // 1: neighbouring pairs rotate; 0: the two halves do
};

/** The body of `PagedAttention`. @returns The function. */
export function pagedAttentionFunction(): FunctionProto {
  return functionProto(pagedAttention, (b) => {
    const groups = b.dim("key_cache", 2);
    const keyWidth = b.dim("key_cache", 3);
    const valueWidth = b.dim("value_cache", 3);
    const heads = b.op("Div", [b.dim("query", 1), keyWidth]);
    const headsPerGroup = b.op("Div", [heads, groups]);
    const tokens = b.dim("query", 0);
    const one = b.ints(1);
    const cos = b.unsqueeze("cos", 0);
    const sin = b.unsqueeze("sin", 0);
    /** Rows [T, heads*W] as rotated heads [1, heads, T, W]. */
    const rotatedHeads = (x: string, count: string) => {
      const byHead = b.op("Transpose", [b.reshape(x, one, tokens, count, keyWidth)], {
        perm: [0, 2, 1, 3],
      });
      return b.op("RotaryEmbedding", [byHead, cos, sin], {
        interleaved: { ref: "rotary_interleaved", type: "int" },
      });
    };

    const keys = b.op("Transpose", [rotatedHeads("key", groups)], { perm: [0, 2, 1, 3] });
    appendToCache(b, b.squeeze(keys, 0), "key_cache", "key_cache_out");
    const values = b.reshape("value", tokens, groups, valueWidth);
    appendToCache(b, values, "value_cache", "value_cache_out");

    const scaleFloat = b.op("Constant", [], { value_float: { ref: "scale", type: "float" } });
    const scaled = b.op("Mul", [
      rotatedHeads("query", heads),
      b.op("CastLike", [scaleFloat, "query"]),
    ]);
    const query = b.reshape(scaled, groups, headsPerGroup, tokens, keyWidth); // [G, H/G, T, W]

    const emptyShape = b.op("Concat", [groups, headsPerGroup, b.ints(0), valueWidth], { axis: 0 });
    const empty = b.op("CastLike", [b.op("ConstantOfShape", [emptyShape]), "query"]);
    const mixed = forEachSequence(b, "key_cache", empty, 2, (inner, sequence) => {
      const keyRows = sequence.context("key_cache_out", query); // [S, G, W]
      const valueRows = sequence.context("value_cache_out", query); // [S, G, V]
      const queries = inner.slice(query, sequence.queries, 2); // [G, H/G, q, W]
      const keysByGroup = inner.op("Transpose", [keyRows], { perm: [1, 2, 0] }); // [G, W, S]
      const scores = inner.op("MatMul", [queries, inner.unsqueeze(keysByGroup, 1)]);
      const weights = maskedSoftmax(inner, scores, sequence.visible); // [G, H/G, q, S]
      const valuesByGroup = inner.op("Transpose", [valueRows], { perm: [1, 0, 2] }); // [G, S, V]
      return inner.op("MatMul", [weights, inner.unsqueeze(valuesByGroup, 1)]);
    }); // [G, H/G, T, V]
    const y = b.op("Transpose", [mixed], { perm: [2, 0, 1, 3] });
    const shape = b.op("Concat", [tokens, b.op("Mul", [heads, valueWidth])], { axis: 0 });
    b.op("Reshape", [y, shape], {}, { outputs: ["y"] });
  });
}
