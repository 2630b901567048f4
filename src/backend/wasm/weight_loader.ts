/**
 * Loading: weights go from the package into the engine's memory piece by piece and are packed there, so
 * that no more than a piece is held twice.
 * @module
 */
import { CapacityError } from "../../errors.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { Initializer } from "../../onnx/read_model.ts";
import type { EngineInstance } from "./engine_module.ts";
import type { MemoryPlan } from "./memory_plan.ts";
import { FORMATS } from "./opcodes.ts";
import type { WeightLoad } from "./program_builder.ts";

/** About how much passes through the staging memory at a time, bytes. */
const PIECE_BYTES = 4 * 1024 * 1024;
/** Kernels take rows by eight: a piece holds whole groups. */
const GROUP = 8;
/** Scales begin at multiples of this, bytes. */
const ALIGNMENT = 16;

/** How a weight is cut into pieces: units of rows that are packed by themselves. */
interface Pieces {
  /** How many units. */
  count: number;
  /** Rows of a unit. */
  rows: number;
  /** Rows of a piece; a unit's last piece may have fewer. */
  rowsAtOnce: number;
}

/** Told of the bytes that have been read. */
export type OnLoaded = (bytes: number) => void;

/**
 * How much staging memory the loads need.
 *
 * @param loads The weights.
 * @returns Bytes.
 */
export function stagingBytes(loads: WeightLoad[]): number {
  return Math.max(
    0,
    ...loads.map((load) => {
      const { count, rows, rowsAtOnce } = piecesOf(load);
      if (load.kind === "raw") return 0;
      const scales = load.kind === "matrices" ? load.scales : undefined;
      const bytes = load.source.bytes + (scales ? scales.bytes + ALIGNMENT * count * rows : 0);
      return Math.ceil(bytes / (count * rows)) * rowsAtOnce + ALIGNMENT;
    }),
  );
}

/**
 * Loads all weights.
 *
 * @param model The package.
 * @param loads The weights.
 * @param engine The instance, its memory as large as planned.
 * @param plan Where they go.
 * @param onLoaded Told of each piece.
 * @throws {InvalidFileError} If a file is missing, too short or damaged.
 */
export async function loadWeights(
  model: ModelPackage,
  loads: WeightLoad[],
  engine: EngineInstance,
  plan: MemoryPlan,
  onLoaded: OnLoaded,
): Promise<void> {
  const memory = new Uint8Array(engine.memory.buffer);
  const read = async (source: Initializer, begin: number, length: number, address: number) => {
    const bytes = await model.read(source.file, source.offset + begin, length);
    memory.set(bytes, address);
    onLoaded(length);
  };
  for (const load of loads) {
    const address = plan.tensors[load.tensor]!;
    if (load.kind === "raw") {
      for (let begin = 0; begin < load.source.bytes; begin += PIECE_BYTES) {
        const length = Math.min(PIECE_BYTES, load.source.bytes - begin);
        await read(load.source, begin, length, address + begin);
      }
    } else {
      await loadPacked(load, address, engine, plan.staging, read);
    }
  }
}

async function loadPacked(
  load: Exclude<WeightLoad, { kind: "raw" }>,
  address: number,
  { exports }: EngineInstance,
  staging: number,
  read: (source: Initializer, begin: number, length: number, address: number) => Promise<void>,
) {
  const { count, rows, rowsAtOnce } = piecesOf(load);
  const format = FORMATS[load.format];
  const rowBytes = load.source.bytes / (count * rows);
  const scales = load.kind === "matrices" ? load.scales : undefined;
  const scaleBytes = scales ? scales.bytes / (count * rows) : 0;
  const scaleStaging = Math.ceil((staging + rowsAtOnce * rowBytes) / ALIGNMENT) * ALIGNMENT;
  let into = address;
  for (let unit = 0; unit < count; unit++) {
    for (let begin = 0; begin < rows; begin += rowsAtOnce) {
      const first = unit * rows + begin;
      const length = Math.min(rowsAtOnce, rows - begin);
      await read(load.source, first * rowBytes, length * rowBytes, staging);
      if (scales) await read(scales, first * scaleBytes, length * scaleBytes, scaleStaging);
      if (load.kind === "latentUp") {
        const { nope, value, rank } = load;
        exports.pack_kv_b_head(format, staging, nope, value, rank, into);
        into += exports.kv_b_head_bytes(format, nope, value, rank);
      } else {
        exports.pack(format, staging, scaleStaging, length, load.columns, into);
        into += exports.packed_bytes(format, length, load.columns);
      }
    }
  }
}

function piecesOf(load: WeightLoad): Pieces {
  if (load.kind === "raw") return { count: 1, rows: 1, rowsAtOnce: 1 };
  if (load.kind === "latentUp") {
    const rows = load.nope + load.value;
    return { count: load.heads, rows, rowsAtOnce: rows };
  }
  // Matrices of whole groups lie packed like one tall matrix, so that pieces may span several.
  const tall = load.rows % GROUP === 0;
  const [count, rows] = tall ? [1, load.count * load.rows] : [load.count, load.rows];
  const rowBytes = load.source.bytes / (count * rows);
  const groups = Math.max(1, Math.floor(PIECE_BYTES / (rowBytes * GROUP)));
  return { count, rows, rowsAtOnce: Math.min(rows, groups * GROUP) };
}

/**
 * Grows the engine's memory to the plan.
 *
 * @param memory The memory.
 * @param pages How many pages it must have.
 * @throws {CapacityError} If the runtime has not as much.
 */
export function growMemory(memory: WebAssembly.Memory, pages: number): void {
  const missing = pages - memory.buffer.byteLength / 65536;
  if (missing <= 0) return;
  try {
    memory.grow(missing);
  } catch (cause) {
    throw new CapacityError(
      "out_of_memory",
      `Cannot open the model on backend wasm: ${
        pages / 16
      } MiB are needed and this runtime has not as ` +
        "much; lower contextLength or cacheTokens, or export with fewer bits (--weights int4).",
      { cause },
    );
  }
}
