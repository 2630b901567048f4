/**
 * What both attention bodies share: where a step's rows go in a paged cache, and the loop over its
 * sequences, each attending to exactly its own context (no padding, nothing unwritten is read).
 *
 * Dimension letters: B sequences, T tokens of the step, S context, H heads, P tokens per block,
 * M blocks per sequence.
 * @module
 */
import type { GraphBuilder, Value } from "../../src/onnx/graph_builder.ts";

/** The inputs of a step that an attention op takes, in order. */
export const STEP_INPUTS: readonly string[] = [
  "slots", // [T] i32: block * P + offset
  "query_starts", // [B+1] i32
  "context_lengths", // [B] i32, this step's tokens included
  "block_tables", // [B, M] i32
];

/**
 * Appends rows to a cache. ScatterND works on the cache itself with (block, offset) pairs: where the
 * same buffer is bound as input and output nothing is copied, a Reshape between would cost a copy.
 *
 * @param b The body's builder.
 * @param rows [T, heads, width].
 * @param cache Cache [blocks, P, heads, width]; the rows take its element type.
 * @param out Name of the updated cache.
 */
export function appendToCache(b: GraphBuilder, rows: Value, cache: Value, out: Value): void {
  const blockSize = b.cast(b.dim(cache, 1), "i32");
  const block = b.op("Div", ["slots", blockSize]);
  const offset = b.op("Mod", ["slots", blockSize]);
  const pairs = b.op("Concat", [b.unsqueeze(block, 1), b.unsqueeze(offset, 1)], { axis: 1 });
  const cached = b.op("CastLike", [rows, cache]);
  b.op("ScatterND", [cache, b.cast(pairs, "i64"), cached], {}, { outputs: [out] });
}

/** One sequence of the step, inside the loop. */
export interface SequenceOfStep {
  /** Its query rows: begin and end in [0, T], int64 [1] each. */
  queries: [begin: Value, end: Value];
  /** Which keys each query sees [q, S] bool: the i-th of q queries sees keys 0 ... S - q + i. */
  visible: Value;
  /**
   * Rows of a cache in the order of their positions.
   * @param cache [blocks, P, heads, width].
   * @returns [S, heads, width] in the type of `like`.
   */
  context(cache: Value, like: Value): Value;
}

/**
 * Runs `attend` for every sequence of the step and joins the results along the token axis.
 *
 * @param b The body's builder; the step's inputs are values of the names of {@linkcode STEP_INPUTS}.
 * @param cache Any cache of the op, for P.
 * @param empty The joined result for no sequence: size 0 along `axis`.
 * @param axis The token axis of the result.
 * @param attend The result of one sequence.
 * @returns The joined result.
 */
export function forEachSequence(
  b: GraphBuilder,
  cache: Value,
  empty: Value,
  axis: number,
  attend: (inner: GraphBuilder, sequence: SequenceOfStep) => Value,
): Value {
  const zero = b.ints(0);
  const one32 = b.scalar("i32", 1);
  const zero32 = b.scalar("i32", 0);
  const blockSize = b.dim(cache, 1);
  const count = b.squeeze(b.op("Shape", ["context_lengths"]), 0);
  return b.loop(count, empty, (inner, i, joined) => {
    const begin = inner.op("Gather", ["query_starts", i]);
    const end = inner.op("Gather", ["query_starts", inner.op("Add", [i, inner.scalar("i64", 1)])]);
    const length = inner.op("Gather", ["context_lengths", i]);
    const length1 = inner.unsqueeze(inner.cast(length, "i64"), 0);
    const past = inner.op("Sub", [length, inner.op("Sub", [end, begin])]);
    const keyPositions = inner.op("Range", [zero32, length, one32]);
    const queryPositions = inner.op("Range", [past, length, one32]);
    const rounded = inner.op("Add", [length1, inner.op("Sub", [blockSize, inner.ints(1)])]);
    const blockCount = inner.op("Div", [rounded, blockSize]);
    const table = inner.op("Gather", ["block_tables", i]);
    const blocks = inner.slice(table, [zero, blockCount], 0);
    const result = attend(inner, {
      queries: [
        inner.unsqueeze(inner.cast(begin, "i64"), 0),
        inner.unsqueeze(inner.cast(end, "i64"), 0),
      ],
      visible: inner.op("LessOrEqual", [keyPositions, inner.unsqueeze(queryPositions, 1)]),
      context(cache, like) {
        const pages = inner.op("CastLike", [inner.op("Gather", [cache, blocks]), like]);
        const rows = inner.reshape(
          pages,
          inner.ints(-1),
          inner.dim(cache, 2),
          inner.dim(cache, 3),
        );
        return inner.slice(rows, [zero, length1], 0);
      },
    });
    return inner.op("Concat", [joined, result], { axis });
  });
}

/**
 * Softmax over the visible keys.
 *
 * @param b The loop's builder.
 * @param scores [..., q, S].
 * @param visible [q, S] bool.
 * @returns Weights [..., q, S] that sum to 1 along S.
 */
export function maskedSoftmax(b: GraphBuilder, scores: Value, visible: Value): Value {
  const never = b.op("CastLike", [b.scalar("f32", -Infinity), scores]);
  return b.op("Softmax", [b.op("Where", [visible, scores, never])], { axis: -1 });
}
