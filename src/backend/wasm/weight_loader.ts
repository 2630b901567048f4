/**
 * Loading: weights go from the package into the engine's memory piece by piece and are packed there by all
 * threads, while the next piece is read. No more than two pieces are held twice.
 * @module
 */
import type { ModelPackage } from "../../files/model_package.ts";
import type { Initializer } from "../../onnx/read_model.ts";
import type { EngineRunner } from "./engine_runner.ts";
import { type MemoryPlan, writeJob } from "./memory_plan.ts";
import { FORMATS } from "./opcodes.ts";
import { type Operand, ProgramBuilder, type TensorId, type WeightLoad } from "./program_builder.ts";

/** About how much passes through the staging memory at a time, bytes. */
const PIECE_BYTES = 4 * 1024 * 1024;
/** Kernels take rows by eight: a piece holds whole groups. */
const GROUP = 8;
/** Scales and pieces begin at multiples of this, bytes. */
const ALIGNMENT = 64;

/** Told of the bytes that have been read. */
export type OnLoaded = (bytes: number) => void;

/** What is read at a time. */
interface Piece {
  /** What to read, and where in the staging memory it goes; straight to its place if nowhere. */
  reads: { source: Initializer; begin: number; bytes: number; staged: number | undefined }[];
  /** Where it goes in the end: an offset in the weight's tensor. */
  into: number;
  /** Its length there. */
  bytes: number;
  /** How it is packed; not at all where it lies in the package as the engine wants it. */
  pack?: (builder: ProgramBuilder, tensors: PackTensors) => void;
}

/** Tensors of a program that packs. */
interface PackTensors {
  source: Operand;
  scales: Operand;
  packed: Operand;
}

/** What the engine tells of sizes. */
interface PackedSizes {
  packed_bytes(format: number, rows: number, columns: number): number;
  kv_b_head_bytes(format: number, nope: number, value: number, rank: number): number;
}

/**
 * How much staging memory the loads need.
 *
 * @param loads The weights.
 * @param engine Tells how large packed weights are.
 * @returns Bytes.
 */
export function stagingBytes(loads: WeightLoad[], engine: PackedSizes): number {
  return 2 * pieceBytes(loads, engine);
}

function pieceBytes(loads: WeightLoad[], engine: PackedSizes): number {
  let most = 0;
  for (const load of loads) {
    const { value: piece } = piecesOf(load, engine).next(); // the first is the largest
    for (const { staged, bytes } of piece?.reads ?? []) {
      if (staged !== undefined) most = Math.max(most, alignUp(staged + bytes));
    }
  }
  return most;
}

/**
 * Loads all weights.
 *
 * @param model The package.
 * @param loads The weights.
 * @param engine Tells how large packed weights are.
 * @param runner Packs.
 * @param plan Where they go.
 * @param onLoaded Told of each piece.
 * @throws {InvalidFileError} If a file is missing, too short or damaged.
 */
export async function loadWeights(
  model: ModelPackage,
  loads: WeightLoad[],
  engine: PackedSizes,
  runner: EngineRunner,
  plan: MemoryPlan,
  onLoaded: OnLoaded,
): Promise<void> {
  const memory = new Uint8Array(runner.memory.buffer);
  const stagings = [plan.staging, plan.staging + pieceBytes(loads, engine)];
  let packing = Promise.resolve();
  let turn = 0;
  for (const load of loads) {
    const address = plan.tensors[load.tensor]!;
    for (const piece of piecesOf(load, engine)) {
      const staging = stagings[turn++ % 2]!;
      for (const { source, begin, bytes, staged } of piece.reads) {
        const read = await model.read(source.file, source.offset + begin, bytes);
        memory.set(read, staged === undefined ? address + piece.into : staging + staged);
        onLoaded(bytes);
      }
      await packing; // of the piece before, whose staging memory is the next one's
      if (piece.pack) packing = pack(piece, address, staging, runner, plan);
      packing.catch(() => {}); // reported when it is awaited
    }
  }
  await packing;
}

/** Runs a program that packs one piece. */
function pack(
  piece: Piece,
  address: number,
  staging: number,
  runner: EngineRunner,
  plan: MemoryPlan,
): Promise<void> {
  const builder = new ProgramBuilder();
  const table: { address: number; bytes: number }[] = [];
  const tensor = (address: number, bytes: number): Operand => {
    table.push({ address, bytes });
    return { tensor: builder.tensor("weight", bytes) as TensorId };
  };
  const [source, scales] = piece.reads as [Piece["reads"][0], Piece["reads"][0] | undefined];
  piece.pack!(builder, {
    source: tensor(staging + source.staged!, source.bytes),
    scales: tensor(staging + (scales?.staged ?? 0), scales?.bytes ?? 0),
    packed: tensor(address + piece.into, piece.bytes),
  });
  writeJob(runner.memory, plan, plan.loading, builder.words, table);
  return runner.run(plan.loading.job);
}

/** The pieces of a weight, in order; none is larger than the first. */
function* piecesOf(load: WeightLoad, engine: PackedSizes): Generator<Piece, undefined> {
  const { source } = load;
  if (load.kind === "raw") {
    for (let begin = 0; begin < source.bytes; begin += PIECE_BYTES) {
      const bytes = Math.min(PIECE_BYTES, source.bytes - begin);
      yield { reads: [{ source, begin, bytes, staged: undefined }], into: begin, bytes };
    }
  } else if (load.kind === "latentUp") {
    const { heads, nope, value, rank } = load;
    const format = FORMATS[load.format];
    const [fileBytes, packedBytes] = [
      source.bytes / heads,
      engine.kv_b_head_bytes(format, nope, value, rank),
    ];
    const atOnce = Math.max(1, Math.floor(PIECE_BYTES / fileBytes));
    for (let head = 0; head < heads; head += atOnce) {
      const count = Math.min(atOnce, heads - head);
      yield {
        reads: [{ source, begin: head * fileBytes, bytes: count * fileBytes, staged: 0 }],
        into: head * packedBytes,
        bytes: count * packedBytes,
        pack: (builder, { source, packed }) =>
          builder.emit("packLatentUp", [source, format, count, nope, value, rank, packed]),
      };
    }
  } else {
    yield* matrixPieces(load, engine);
  }
}

function* matrixPieces(
  load: WeightLoad & { kind: "matrices" },
  engine: PackedSizes,
): Generator<Piece, undefined> {
  const { source, scales, columns } = load;
  const format = FORMATS[load.format];
  // Matrices of whole groups lie packed like one tall matrix, so that pieces may span several.
  const tall = load.rows % GROUP === 0;
  const [count, rows] = tall ? [1, load.count * load.rows] : [load.count, load.rows];
  const rowBytes = source.bytes / (count * rows);
  const scaleBytes = (scales?.bytes ?? 0) / (count * rows);
  const groups = Math.max(1, Math.floor(PIECE_BYTES / (rowBytes * GROUP)));
  const atOnce = Math.min(rows, groups * GROUP);
  let into = 0;
  for (let unit = 0; unit < count; unit++) {
    for (let begin = 0; begin < rows; begin += atOnce) {
      const first = unit * rows + begin;
      const length = Math.min(atOnce, rows - begin);
      const bytes = engine.packed_bytes(format, length, columns);
      const reads: Piece["reads"] = [
        { source, begin: first * rowBytes, bytes: length * rowBytes, staged: 0 },
      ];
      if (scales) {
        reads.push({
          ...{ source: scales, begin: first * scaleBytes, bytes: length * scaleBytes },
          staged: alignUp(length * rowBytes),
        });
      }
      yield {
        ...{ reads, into, bytes },
        pack: (builder, { source, scales, packed }) =>
          builder.emit("pack", [source, scales, format, length, columns, packed]),
      };
      into += bytes;
    }
  }
}

function alignUp(address: number): number {
  return Math.ceil(address / ALIGNMENT) * ALIGNMENT;
}
