/**
 * How each op of a graph becomes instructions of the step program.
 *
 * Dimension letters: T tokens of the step, Q rows whose logits are wanted, H heads, G key heads, N nope
 * dim, R rope dim, C latent rank, V value dim, D hidden, E experts, K chosen experts, F expert hidden.
 * @module
 */
import type { DataType } from "../../onnx/data_type.ts";
import type { Initializer } from "../../onnx/read_model.ts";
import type { NodeCompiler } from "./node_compiler.ts";
import {
  CACHE_FORMATS,
  FORMATS,
  type RowCount,
  TABLE_TYPES,
  type WeightFormat,
} from "./opcodes.ts";
import type { Operand, TensorId } from "./program_builder.ts";

/** Compiles a node of each op that has a kernel. */
export const opKernels: Readonly<Record<string, (c: NodeCompiler) => void>> = {
  Gather(c: NodeCompiler) {
    const table = c.input(0);
    const index = c.node.inputs[1];
    const rows: RowCount = index === "logit_rows" ? "logitRows" : "tokens";
    const indices = c.stepInput(1);
    if (c.integer("axis", 0) !== 0) c.refuse("its axis is not 0");
    let source: { tensor: TensorId; type: DataType; width: number };
    if (table.kind === "stored") {
      const { dims: [, width], type } = c.stored(0, 2);
      source = { tensor: c.raw(table.initializer), type, width: width! };
    } else {
      source = c.rows(0);
    }
    const { tensor, type, width } = source;
    if (type !== "f32" && type !== "f16" && type !== "bf16") c.refuse(`its table is ${type}`);
    const y = c.output(0, rows, width, type);
    c.emit("gather", [
      { tensor },
      TABLE_TYPES[type],
      width,
      { tensor: indices },
      { rows },
      { tensor: y },
    ]);
  },

  // Rows of half precision are f32 in memory, and weights are widened by the kernels that read them.
  Cast(c: NodeCompiler) {
    const value = c.input(0);
    if (c.integer("to") !== 1) c.refuse("it casts to another type than f32");
    if (value.kind === "stored") c.alias(0, { ...value, widened: true });
    else if (value.kind === "rows") c.alias(0, { ...value, type: "f32" });
    else c.refuse("its input is neither rows nor a stored tensor");
  },

  RMSNormalization(c: NodeCompiler) {
    const { tensor, rows, width } = c.rows(0);
    const weight = c.stored(1, 1);
    if (weight.type !== "f32" || weight.dims[0] !== width) {
      c.contradiction("its weight does not fit");
    }
    if (c.integer("axis", -1) !== -1) c.refuse("its axis is not the last");
    const epsilon = { float: c.float("epsilon", 1e-5) };
    const y = c.output(0, rows, width);
    c.emit("rmsNorm", [{ tensor }, { tensor: c.raw(weight) }, width, epsilon, { rows }, {
      tensor: y,
    }]);
  },

  Gemm(c: NodeCompiler) {
    const weight = c.stored(1, 2);
    const [out, columns] = weight.dims as [number, number];
    if (c.node.inputs.length > 2) c.refuse("it adds a bias");
    if (c.integer("transB", 0) !== 1 || c.integer("transA", 0) !== 0) c.refuse("transB must be 1");
    if (c.float("alpha", 1) !== 1) c.refuse("its alpha is not 1");
    const x = c.rows(0, columns);
    const format = floatFormat(c, weight);
    const packed = c.matrices(format, weight, undefined, [1, out, columns]);
    multiply(c, x.tensor, packed, format, [out, columns], x.rows);
  },

  "com.microsoft.MatMulNBits"(c: NodeCompiler) {
    const [out, columns, bits] = [c.integer("N"), c.integer("K"), c.integer("bits", 4)];
    const blocks = Math.ceil(columns / 32);
    if (c.integer("block_size") !== 32) c.refuse("its block_size is not 32");
    if (bits !== 4 && bits !== 8) c.refuse(`its bits are ${bits}`);
    if (c.node.inputs.slice(3).some((name) => name !== "")) {
      c.refuse("it has zero points or a bias");
    }
    const packed = c.stored(1, 3);
    const scales = c.stored(2, 2);
    expectDims(c, packed, [out, blocks, bits * 4]);
    expectDims(c, scales, [out, blocks]);
    if (packed.type !== "u8" || scales.type !== "f16" || !scales.widened) {
      c.refuse("its weights are not u8 with f16 scales");
    }
    const format = bits === 4 ? "int4" : "int8";
    const x = c.rows(0, columns);
    const blocksOfX = c.quantized(x);
    const weight = c.matrices(format, packed, scales, [1, out, columns]);
    multiply(c, blocksOfX, weight, format, [out, columns], x.rows);
  },

  Sigmoid(c: NodeCompiler) {
    const { tensor, rows, width } = c.rows(0);
    c.emit("sigmoid", [{ tensor }, width, { rows }, { tensor: c.output(0, rows, width) }]);
  },

  Mul: (c) => elementwise(c, "mul"),
  Add: (c) => elementwise(c, "add"),

  Concat(c: NodeCompiler) {
    if (c.integer("axis") !== 1) c.refuse("its axis is not 1");
    const parts = c.node.inputs.map((_, index) => c.rows(index));
    const rows = parts[0]!.rows;
    const width = parts.reduce((sum, part) => sum + part.width, 0);
    const y = c.output(0, rows, width);
    let offset = 0;
    for (const part of parts) {
      if (part.rows !== rows) c.refuse("its inputs have different numbers of rows");
      const from = { tensor: part.tensor };
      c.emit("copyColumns", [from, part.width, { rows }, { tensor: y }, width, offset]);
      offset += part.width;
    }
  },

  "hybridseek.LatentAttention"(c: NodeCompiler) {
    const kvB = c.stored(3, 3);
    const [heads, upWidth, rank] = kvB.dims as [number, number, number];
    const rope = c.rows(4).width * 2;
    const query = c.rows(0);
    const nope = query.width / heads - rope;
    const value = upWidth - nope;
    if (!Number.isInteger(nope) || nope < 1 || value < 1) {
      c.contradiction(
        `${query.width} query columns do not fit kv_b [${kvB.dims}] and ${rope} rotary`,
      );
    }
    const latent = c.rows(1, rank + rope);
    const norm = c.stored(2, 1);
    expectDims(c, norm, [rank]);
    const [cos, sin] = [c.rows(4, rope / 2), c.rows(5, rope / 2)];
    const cache = c.cache(10, 1, rank + rope);
    const format = floatFormat(c, kvB);
    const { tokens, contextLength, blockSize } = c.limits;
    const mayExpand = Number(!c.exact);
    const bytes = c.engine.latent_scratch_bytes(
      ...[heads, nope, rope, rank, value, mayExpand] as const,
      ...[tokens, contextLength, c.threads] as const,
    );
    const normWeight = c.raw(norm);
    const packed = c.latentUp(format, kvB, { heads, nope, value, rank });
    const y = c.output(0, "tokens", heads * value);
    c.alias(1, c.input(10));
    c.emit("latentAttention", [
      ...[heads, nope, rope, rank, value, blockSize],
      { float: c.float("scale") },
      { float: c.float("epsilon") },
      mayExpand,
      ...stepBatch(c, 6),
      ...[FORMATS[format], CACHE_FORMATS[c.cacheType]],
      ...[query.tensor, latent.tensor, normWeight, packed].map((tensor) => ({ tensor })),
      ...[cos.tensor, sin.tensor, cache, y, c.scratch(bytes)].map((tensor) => ({ tensor })),
    ]);
  },

  "hybridseek.PagedAttention"(c: NodeCompiler) {
    const cacheOf = (index: number) => {
      const cache = c.input(index);
      return cache.kind === "cache" ? cache : c.refuse(`its input ${index} is no cache`);
    };
    const { heads: groups, width: keyWidth } = cacheOf(9);
    const { width: valueWidth } = cacheOf(10);
    const query = c.rows(0);
    const heads = query.width / keyWidth;
    if (!Number.isInteger(heads / groups) || keyWidth % 2 !== 0) {
      c.contradiction(`${query.width} query columns do not fit ${groups} key heads of ${keyWidth}`);
    }
    const key = c.rows(1, groups * keyWidth);
    const value = c.rows(2, groups * valueWidth);
    const [cos, sin] = [c.rows(3, keyWidth / 2), c.rows(4, keyWidth / 2)];
    const [keys, values] = [c.cache(9, groups, keyWidth), c.cache(10, groups, valueWidth)];
    const { tokens, contextLength, blockSize } = c.limits;
    const bytes = c.engine.paged_scratch_bytes(
      ...[heads, groups, keyWidth, valueWidth] as const,
      ...[tokens, contextLength, c.threads] as const,
    );
    const y = c.output(0, "tokens", heads * valueWidth);
    c.alias(1, c.input(9));
    c.alias(2, c.input(10));
    c.emit("pagedAttention", [
      ...[heads, groups, keyWidth, valueWidth, blockSize],
      { float: c.float("scale") },
      c.integer("rotary_interleaved"),
      ...stepBatch(c, 5),
      CACHE_FORMATS[c.cacheType],
      ...[query.tensor, key.tensor, value.tensor, cos.tensor, sin.tensor].map((tensor) => ({
        tensor,
      })),
      ...[keys, values, y, c.scratch(bytes)].map((tensor) => ({ tensor })),
    ]);
  },

  "hybridseek.SparseExperts"(c: NodeCompiler) {
    const quantized = c.node.overload !== "float";
    const [gateUpIndex, downIndex] = quantized ? [2, 4] : [2, 3];
    const router = c.stored(1, 2);
    const gateUp = c.stored(gateUpIndex, 3);
    const down = c.stored(downIndex, 3);
    const [experts, hidden] = router.dims as [number, number];
    const [held, pairs] = gateUp.dims as [number, number, number];
    const width = pairs / 2;
    const format = quantized ? c.node.overload as WeightFormat : floatFormat(c, gateUp);
    if (!Object.hasOwn(FORMATS, format)) c.refuse(`its overload is ${c.node.overload}`);
    const columnsOf = (columns: number) => {
      const blocks = Math.ceil(columns / 32);
      return format === "int8" ? blocks * 32 : format === "int4" ? blocks * 16 : columns;
    };
    expectDims(c, gateUp, [held, pairs, columnsOf(hidden)]);
    expectDims(c, down, [held, hidden, columnsOf(width)]);
    const stack = (index: number, rows: number, columns: number, tensor: Initializer) => {
      if (!quantized) return [tensor];
      const scales = c.stored(index + 1, 3);
      expectDims(c, scales, [held, rows, Math.ceil(columns / 32)]);
      if (scales.type !== "f16") c.refuse("its scales are not f16");
      return [tensor, scales];
    };
    const [k, groups, topGroups, first] = ["k", "groups", "top_groups", "first_expert"].map((
      name,
    ) => c.integer(name)) as [number, number, number, number];
    if (
      router.type !== "f32" || width % 1 !== 0 || experts % groups !== 0 || groups > 256 ||
      topGroups > groups || k > topGroups * experts / groups || first + held > experts
    ) c.contradiction(`${k} of ${experts} experts in ${groups} groups can not be chosen`);
    const x = c.rows(0, hidden);
    const { tokens } = c.limits;
    const bytes = c.engine.experts_scratch_bytes(
      FORMATS[format],
      hidden,
      width,
      experts,
      held,
      k,
      tokens,
      c.threads,
    );
    const packedRouter = c.matrices("f32", router, undefined, [1, experts, hidden]);
    const { layer, places, supply } = c.experts(
      format,
      { held, k, hidden, width },
      stack(gateUpIndex, pairs, hidden, gateUp),
      stack(downIndex, hidden, width, down),
    );
    const y = c.output(0, "tokens", hidden);
    const chosen = c.output(1, "tokens", k, "i32");
    const weights = c.output(2, "tokens", k);
    c.emit("sparseExperts", [
      ...[hidden, width, experts, first, held, k, groups, topGroups, c.integer("normalize")],
      { float: c.float("scaling") },
      ...[FORMATS[format], layer],
      ...[x.tensor, packedRouter, places, supply].map((tensor) => ({ tensor })),
      ...[y, chosen, weights, c.scratch(bytes)].map((tensor) => ({ tensor })),
    ]);
  },
};

/** slots, query_starts, context_lengths, block_tables, from an index on. */
function stepBatch(c: NodeCompiler, first: number): Operand[] {
  return [0, 1, 2, 3].map((i) => ({ tensor: c.stepInput(first + i) }));
}

function multiply(
  c: NodeCompiler,
  x: TensorId,
  weight: TensorId,
  format: WeightFormat,
  [out, columns]: [number, number],
  rows: RowCount,
) {
  const y = c.output(0, rows, out);
  const operands = [{ tensor: x }, { tensor: weight }, FORMATS[format], out, columns, { rows }];
  c.emit("multiply", [...operands, { tensor: y }]);
}

function elementwise(c: NodeCompiler, opcode: "mul" | "add") {
  const a = c.rows(0);
  const b = c.rows(1, a.width);
  if (a.rows !== b.rows) c.refuse("its inputs have different numbers of rows");
  const y = c.output(0, a.rows, a.width);
  const { rows, width } = a;
  c.emit(opcode, [{ tensor: a.tensor }, { tensor: b.tensor }, width, { rows }, { tensor: y }]);
}

/** The format of a float weight. Half precision needs a Cast or an op that widens by itself. */
function floatFormat(
  c: NodeCompiler,
  weight: Initializer & { widened: boolean },
): "f32" | "f16" {
  if (weight.type === "f32" || weight.type === "f16") return weight.type;
  c.refuse(`its weight ${weight.name} is ${weight.type}`);
}

function expectDims(c: NodeCompiler, { name, dims }: Initializer, expected: number[]) {
  if (dims.join() !== expected.join()) {
    c.contradiction(`${name} is [${dims}], needed is [${expected}]`);
  }
}
