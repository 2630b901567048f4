/**
 * `SparseExperts`: DeepSeekMoE's routed experts (DeepSeek-V2, arXiv 2405.04434, sections 2.2.1 and
 * 2.2.2; DeepSeekMoE, arXiv 2401.06066): softmax router over all experts in f32, greedy or
 * group-limited choice of k, SwiGLU experts, weighted sum.
 *
 * Dimension letters: T tokens of the step, D hidden, E experts, F expert hidden, K chosen experts.
 * A node may hold only the experts [first_expert, first_expert + the size of `gate_up`): it adds up
 * those alone, so that the sum over nodes is the layer's output, whether the nodes lie in one file
 * (tensors above the file size limit) or on several ranks.
 * @module
 */
import {
  functionProto,
  type FunctionSignature,
  type GraphBuilder,
  type Value,
} from "../../src/onnx/graph_builder.ts";
import type { FunctionProto } from "../../src/onnx/onnx_pb.ts";

/** How the experts' weights are stored: one body (`overload`) for each. */
export type ExpertFormat = "float" | "int8" | "int4";

/**
 * Name, inputs, outputs and attributes.
 *
 * @param format How the experts' weights are stored.
 * @returns The signature.
 */
export function sparseExperts(format: ExpertFormat): FunctionSignature {
  const quantized = format !== "float";
  return {
    name: "SparseExperts",
    overload: format,
    inputs: [
      "x", // [T, D]
      "router", // [E, D]
      // float: [E, 2F, D], any float type; rows gate 0, up 0, gate 1, up 1, ...
      // int8: u8 [E, 2F, nD*32], zero point 128; int4: u8 [E, 2F, nD*16], low nibble first, zero
      // point 8; nD blocks of 32 along D, the last padded with zeros
      "gate_up",
      ...(quantized ? ["gate_up_scales"] : []), // [E, 2F, nD]
      "down", // float: [E, D, F]; quantized: along F as gate_up along D
      ...(quantized ? ["down_scales"] : []), // [E, D, nF]
    ],
    outputs: [
      "y", // [T, D]
      "experts", // i32 [T, K], by falling score, ties by rising index
      "weights", // f32 [T, K]
    ],
    required: ["k"],
    defaults: {
      groups: 1, // of equally many experts, for the group-limited choice
      top_groups: 1, // how many groups a token may use, by their best expert
      normalize: 0, // 1: the chosen scores are divided by their sum
      scaling: { float: 1 }, // factor of the weights
      first_expert: 0, // which of the E experts is the first held here
    },
  };
}

/** The body of `SparseExperts`. @param format How the weights are stored. @returns The function. */
export function sparseExpertsFunction(format: ExpertFormat): FunctionProto {
  return functionProto(sparseExperts(format), (b) => {
    const { chosen, weights } = route(b);
    // Of the chosen experts, those held here, counted from 0.
    const firstExpert = b.op("Constant", [], { value_int: { ref: "first_expert", type: "int" } });
    const local = b.op("Sub", [chosen, firstExpert]); // [T, K]
    const held = b.op("And", [
      b.op("GreaterOrEqual", [local, b.scalar("i64", 0)]),
      b.op("Less", [local, b.squeeze(b.dim("gate_up", 0), 0)]),
    ]);
    const [used] = b.ops(1, "Unique", [b.op("Compress", [local, b.reshape(held, b.ints(-1))])]);
    const count = b.squeeze(b.op("Shape", [used!]), 0);
    const nothing = b.op("ConstantOfShape", [b.op("Shape", ["x"])]);
    const sum = b.loop(count, nothing, (inner, round, soFar) => {
      const expert = inner.op("Gather", [used!, round]);
      const hits = inner.op("NonZero", [inner.op("Equal", [local, expert])]); // [2, hits]
      const [tokenRow] = inner.ops(2, "Split", [hits], { axis: 0, num_outputs: 2 });
      const tokens = inner.squeeze(tokenRow!, 0); // [hits]
      const x = inner.op("Gather", ["x", tokens]); // [hits, D]
      const both = expertLinear[format](inner, x, "gate_up", expert); // [hits, 2F]
      const gate = everySecond(inner, both, 0);
      const up = everySecond(inner, both, 1);
      const silu = inner.op("Mul", [gate, inner.op("Sigmoid", [gate])]);
      const out = expertLinear[format](inner, inner.op("Mul", [silu, up]), "down", expert);
      const weight = inner.op("GatherND", [weights, inner.op("Transpose", [hits])]);
      const weighted = inner.op("Mul", [inner.cast(out, "f32"), inner.unsqueeze(weight, 1)]);
      return inner.op("ScatterND", [soFar, inner.unsqueeze(tokens, 1), weighted], {
        reduction: "add",
      });
    });
    b.op("CastLike", [sum, "x"], {}, { outputs: ["y"] });
  });
}

/** Scores, groups, choice. Writes `experts` and `weights`. @returns i64 and f32 [T, K] of the same. */
function route(b: GraphBuilder): { chosen: Value; weights: Value } {
  const attribute = (name: string) =>
    b.op("Constant", [], { value_int: { ref: name, type: "int" } });
  const oneDim = b.ints(-1);
  const size = (name: string) => b.op("Reshape", [attribute(name), oneDim]);

  const logits = b.op("Gemm", [b.cast("x", "f32"), b.cast("router", "f32")], { transB: 1 });
  const scores = b.op("Softmax", [logits], { axis: -1 }); // [T, E]
  const grouped = b.reshape(scores, b.ints(0), size("groups"), oneDim);
  const groupScores = b.op("ReduceMax", [grouped, oneDim], { keepdims: 0 });
  const [, bestGroups] = b.ops(2, "TopK", [groupScores, size("top_groups")], { axis: -1 });
  const noGroup = b.cast(b.op("ConstantOfShape", [b.op("Shape", [groupScores])]), "i64");
  const ones = b.op("Add", [b.op("Mul", [bestGroups!, b.scalar("i64", 0)]), b.scalar("i64", 1)]);
  const kept = b.cast(b.op("ScatterElements", [noGroup, bestGroups!, ones], { axis: -1 }), "bool");
  // Scores lie in [0, 1], so that -1 loses against every expert of a kept group.
  const selectable = b.op("Where", [b.unsqueeze(kept, 2), grouped, b.scalar("f32", -1)]);
  const flat = b.op("Reshape", [selectable, b.op("Shape", [scores])]);
  const [chosenScores, chosen] = b.ops(2, "TopK", [flat, size("k")], { axis: -1 });
  const sum = b.op("ReduceSum", [chosenScores!, oneDim], { keepdims: 1 });
  const divisor = b.op("Where", [b.cast(attribute("normalize"), "bool"), sum, b.scalar("f32", 1)]);
  const scaling = b.op("Constant", [], { value_float: { ref: "scaling", type: "float" } });
  b.op("Mul", [b.op("Div", [chosenScores!, divisor]), scaling], {}, { outputs: ["weights"] });
  b.op("Cast", [chosen!], { to: 6 }, { outputs: ["experts"] });
  return { chosen: chosen!, weights: "weights" };
}

/** x W^T for one expert's matrix of a packed tensor, by format. */
const expertLinear: Record<
  ExpertFormat,
  (b: GraphBuilder, x: Value, tensor: string, expert: Value) => Value
> = {
  float(b, x, tensor, expert) {
    const matrix = b.op("CastLike", [b.op("Gather", [tensor, expert]), x]);
    return b.op("Gemm", [x, matrix], { transB: 1 });
  },

  int8(b, x, tensor, expert) {
    const levels = b.cast(b.op("Gather", [tensor, expert]), "f32");
    const matrix = scaleBlocks(b, b.op("Sub", [levels, b.scalar("f32", 128)]), tensor, expert);
    const padded = padColumns(b, x, b.dim(matrix, 1));
    return b.op("Gemm", [padded, matrix], { transB: 1 });
  },

  // Low nibbles meet the even columns of x and high ones the odd ones: nothing is put in order.
  int4(b, x, tensor, expert) {
    const packed = b.op("Gather", [tensor, expert]); // [rows, columns/2]
    const low = b.op("BitwiseAnd", [packed, b.scalar("u8", 15)]);
    const high = b.op("BitShift", [packed, b.scalar("u8", 4)], { direction: "RIGHT" });
    const padded = padColumns(b, x, b.op("Mul", [b.dim(packed, 1), b.ints(2)]));
    const [even, odd] = [low, high].map((nibbles, parity) => {
      const levels = b.op("Sub", [b.cast(nibbles, "f32"), b.scalar("f32", 8)]);
      const matrix = scaleBlocks(b, levels, tensor, expert);
      return b.op("Gemm", [everySecond(b, padded, parity), matrix], { transB: 1 });
    });
    return b.op("Add", [even!, odd!]);
  },
};

/** Levels [rows, columns] times their blocks' scales [rows, blocks]. */
function scaleBlocks(b: GraphBuilder, levels: Value, tensor: string, expert: Value): Value {
  const scales = b.op("CastLike", [b.op("Gather", [`${tensor}_scales`, expert]), levels]);
  const blocks = b.reshape(levels, b.op("Shape", [scales]), b.ints(-1)); // [rows, blocks, 32]
  const scaled = b.op("Mul", [blocks, b.unsqueeze(scales, 2)]);
  return b.op("Reshape", [scaled, b.op("Shape", [levels])]);
}

/** `x` [rows, columns] with columns of zeros up to `width`. */
function padColumns(b: GraphBuilder, x: Value, width: Value): Value {
  const missing = b.op("Sub", [width, b.dim(x, 1)]);
  const pads = b.op("Concat", [b.ints(0, 0, 0), missing], { axis: 0 });
  return b.op("Pad", [x, pads]);
}

/** Columns first, first + 2, ... of `x`. */
function everySecond(b: GraphBuilder, x: Value, first: number): Value {
  const end = b.ints(2 ** 31 - 1);
  return b.op("Slice", [x, b.ints(first), end, b.ints(-1), b.ints(2)]);
}
