/**
 * `LatentAttention`: Multi-head Latent Attention over a paged cache of latents, in the absorbed form
 * at every length (DeepSeek-V2, arXiv 2405.04434, section 2.1): queries are carried into the latent
 * space by W_UK, attend to the cached latents themselves, and W_UV carries the result out.
 *
 * Dimension letters: B sequences, T tokens of the step, S context, H heads, N nope dim, R rope dim,
 * C latent rank, V value dim, P tokens per block, M blocks per sequence.
 * @module
 */
import { functionProto, type FunctionSignature } from "../../src/onnx/graph_builder.ts";
import type { FunctionProto } from "../../src/onnx/onnx_pb.ts";
import { appendToCache, forEachSequence, maskedSoftmax, STEP_INPUTS } from "./paged_sequences.ts";

/** Name, inputs, outputs and attributes. */
export const latentAttention: FunctionSignature = {
  name: "LatentAttention",
  inputs: [
    "query", // [T, H*(N+R)], per head nope then rope, before the rotation
    "latent", // [T, C+R], before the norm and the rotation
    "norm_weight", // [C]
    "kv_b", // [H, N+V, C]: per head W_UK [N, C], then W_UV [V, C]
    "cos", // [T, R/2]
    "sin", // [T, R/2]
    ...STEP_INPUTS,
    "cache", // [blocks, P, 1, C+R]: rows [RMS-normed latent | rotated key]
  ],
  outputs: [
    "y", // [T, H*V]
    "cache_out",
  ],
  required: ["scale"], // of the scores, YaRN's factor included
  defaults: { epsilon: { float: 1e-6 } }, // of the latent's RMS norm
};

/** The body of `LatentAttention`. @returns The function. */
export function latentAttentionFunction(): FunctionProto {
  return functionProto(latentAttention, (b) => {
    const heads = b.dim("kv_b", 0);
    const rank = b.dim("kv_b", 2);
    const halfRope = b.dim("cos", 1);
    const rope = b.op("Add", [halfRope, halfRope]);
    const headWidth = b.op("Div", [b.dim("query", 1), heads]);
    const nope = b.op("Sub", [headWidth, rope]);
    const valueWidth = b.op("Sub", [b.dim("kv_b", 1), nope]);
    const tokens = b.dim("query", 0);
    const cos = b.unsqueeze("cos", 0);
    const sin = b.unsqueeze("sin", 0);
    const split = (x: string, axis: number, first: string, second: string) =>
      b.ops(2, "Split", [x, b.op("Concat", [first, second], { axis: 0 })], { axis }) as [
        string,
        string,
      ];
    /** Rotates neighbouring pairs. @param x [1, heads, T, R] @returns the same shape */
    const rotate = (x: string) => b.op("RotaryEmbedding", [x, cos, sin], { interleaved: 1 });

    const [compressed, keyRope] = split("latent", 1, rank, rope);
    const normed = b.op("RMSNormalization", [compressed, "norm_weight"], {
      axis: -1,
      epsilon: { ref: "epsilon", type: "float" },
    });
    const rotatedKey = b.squeeze(rotate(b.unsqueeze(keyRope, 0, 1)), 0, 1);
    const rows = b.op("Concat", [normed, rotatedKey], { axis: 1 });
    appendToCache(b, b.unsqueeze(rows, 1), "cache", "cache_out");

    const kvB = b.op("CastLike", ["kv_b", "query"]);
    const [keyUp, valueUp] = split(kvB, 1, nope, valueWidth);
    const byHead = b.op("Transpose", [b.reshape("query", tokens, heads, headWidth)], {
      perm: [1, 0, 2],
    });
    const [queryNope, queryRope] = split(byHead, 2, nope, rope);
    const rotatedQuery = b.squeeze(rotate(b.unsqueeze(queryRope, 0)), 0);
    const absorbed = b.op("Concat", [b.op("MatMul", [queryNope, keyUp]), rotatedQuery], {
      axis: 2,
    });
    const scaleFloat = b.op("Constant", [], { value_float: { ref: "scale", type: "float" } });
    const query = b.op("Mul", [absorbed, b.op("CastLike", [scaleFloat, "query"])]); // [H, T, C+R]

    const emptyShape = b.op("Concat", [heads, b.ints(0), rank], { axis: 0 });
    const empty = b.op("CastLike", [b.op("ConstantOfShape", [emptyShape]), "query"]);
    const mixed = forEachSequence(b, "cache", empty, 1, (inner, sequence) => {
      const context = inner.squeeze(sequence.context("cache_out", query), 1); // [S, C+R]
      const queries = inner.slice(query, sequence.queries, 1); // [H, q, C+R]
      const scores = inner.op("MatMul", [queries, inner.op("Transpose", [context])]);
      const weights = maskedSoftmax(inner, scores, sequence.visible);
      const latents = inner.slice(context, [inner.ints(0), rank], 1); // [S, C]
      return inner.op("MatMul", [weights, latents]);
    }); // [H, T, C]
    const valueUpTransposed = b.op("Transpose", [valueUp], { perm: [0, 2, 1] });
    const y = b.op("Transpose", [b.op("MatMul", [mixed, valueUpTransposed])], { perm: [1, 0, 2] });
    const shape = b.op("Concat", [tokens, b.op("Mul", [heads, valueWidth])], { axis: 0 });
    b.op("Reshape", [y, shape], {}, { outputs: ["y"] });
  });
}
