/**
 * What becomes of each stored tensor while its bytes arrive: kernels take them in units (eight rows, a
 * head), which are packed as soon as they are complete.
 * @module
 */
import type { Initializer } from "../../onnx/read_model.ts";
import { FORMATS } from "./opcodes.ts";
import type { Operand, ProgramBuilder, TensorId, WeightLoad } from "./program_builder.ts";

/** Kernels take rows by eight. */
const GROUP = 8;

/** What the engine tells of sizes. */
export interface PackedSizes {
  /** See {@linkcode EngineSizes}. */
  packed_bytes(format: number, rows: number, columns: number): number;
  /** See {@linkcode EngineSizes}. */
  kv_b_head_bytes(format: number, nope: number, value: number, rank: number): number;
}

/** Length in the package and in the engine's memory, bytes. */
interface Lengths {
  /** In the package. */
  stored: number;
  /** Once packed. */
  packed: number;
}

/** A stored tensor on its way. */
export interface WeightPart {
  /** Its bytes in the package. */
  source: Initializer;
  /** Where they go. */
  tensor: TensorId;
  /** What is packed at once, at least. */
  unit: Lengths;
  /** After this much a unit may be shorter: a matrix may end within a group of rows. */
  matrix: Lengths;
  /** Emits the instruction that packs so many stored bytes; left out where they stay as they are. */
  pack?: (builder: ProgramBuilder, stored: number, source: Operand, packed: Operand) => void;
}

/** Some units of a part. Offsets are those within the stored and the packed tensor. */
export interface WeightPiece {
  /** First stored byte. */
  begin: number;
  /** Stored bytes. */
  bytes: number;
  /** First packed byte. */
  into: number;
  /** Packed bytes. */
  packedBytes: number;
}

/**
 * The parts of a weight: its levels and its scales, if it has some.
 *
 * @param load The weight.
 * @param engine Tells how large packed weights are.
 * @returns The parts.
 */
export function weightParts(load: WeightLoad, engine: PackedSizes): WeightPart[] {
  const { source, tensor } = load;
  if (load.kind === "raw") {
    const [unit, matrix] = [1, source.bytes].map((bytes) => ({ stored: bytes, packed: bytes }));
    return [{ source, tensor, unit: unit!, matrix: matrix! }];
  }
  const format = FORMATS[load.format];
  if (load.kind === "latentUp") {
    const { heads, nope, value, rank } = load;
    const stored = source.bytes / heads;
    const unit = { stored, packed: engine.kv_b_head_bytes(format, nope, value, rank) };
    return [{
      ...{ source, tensor, unit, matrix: { stored: source.bytes, packed: unit.packed * heads } },
      pack: (builder, bytes, from, packed) =>
        builder.emit("packLatentUp", [from, format, bytes / stored, nope, value, rank, packed]),
    }];
  }
  const { columns, scales } = load;
  // Matrices of whole groups lie packed like one tall matrix.
  const tall = load.rows % GROUP === 0;
  const [count, rows] = tall ? [1, load.count * load.rows] : [load.count, load.rows];
  const packedGroup = engine.packed_bytes(format, GROUP, columns);
  const packedMatrix = engine.packed_bytes(format, rows, columns);
  const partOf = (source: Initializer, opcode: "pack" | "packScales"): WeightPart => {
    const stored = source.bytes / count;
    const row = stored / rows;
    return {
      ...{ source, tensor },
      unit: { stored: row * GROUP, packed: packedGroup },
      matrix: { stored, packed: packedMatrix },
      pack: (builder, bytes, from, packed) =>
        builder.emit(opcode, [from, format, bytes / row, columns, packed]),
    };
  };
  return [partOf(source, "pack"), ...scales ? [partOf(scales, "packScales")] : []];
}

/**
 * The units between two places of a stored tensor, as pieces that lie within one matrix.
 *
 * @param part The part.
 * @param begin Where a unit begins.
 * @param end How far its bytes have arrived.
 * @returns The pieces; what is left after them is no whole unit.
 */
export function* completePieces(
  { unit, matrix }: WeightPart,
  begin: number,
  end: number,
): Generator<WeightPiece, undefined> {
  while (begin < end) {
    const index = Math.floor(begin / matrix.stored);
    const within = begin - index * matrix.stored;
    const rest = matrix.stored - within;
    const whole = begin + rest <= end;
    const units = Math.floor((end - begin) / unit.stored);
    if (!whole && units === 0) return;
    const bytes = whole ? rest : units * unit.stored;
    const packedBefore = within / unit.stored * unit.packed;
    const into = index * matrix.packed + packedBefore;
    const packedBytes = whole ? matrix.packed - packedBefore : units * unit.packed;
    yield { begin, bytes, into, packedBytes };
    begin += bytes;
  }
}
