/**
 * Loading: the chunks of the package's files, each read once and in order, pass through a few slots of the
 * engine's memory, where all threads pack what they hold while the next ones are read and compared with
 * their hashes.
 * @module
 */
import { CHUNK_BYTES } from "../../files/manifest.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { EngineRunner } from "./engine_runner.ts";
import { type MemoryPlan, writeJob } from "./memory_plan.ts";
import { type Operand, ProgramBuilder, type TensorId, type WeightLoad } from "./program_builder.ts";
import {
  completePieces,
  type PackedSizes,
  type WeightPart,
  weightParts,
  type WeightPiece,
} from "./weight_parts.ts";

/** Chunks on their way at a time: one is packed, the others are read and hashed. */
const MAX_SLOTS = 3;
/** Slots begin at multiples of this, bytes. */
const ALIGNMENT = 64;

/** Told of the bytes loaded so far and in all. */
export type OnLoaded = (doneBytes: number, totalBytes: number) => void;

/** A chunk of a file that holds something of a weight. */
interface Chunk {
  file: string;
  index: number;
  /** Offsets in the file; what lies behind the last weight is not wanted. */
  begin: number;
  end: number;
}

/** Where chunks lie while they are packed. */
interface Slots {
  count: number;
  /** Bytes of one. */
  bytes: number;
  /** Before each chunk is room for the end of the one before, bytes: a unit may begin there. */
  carry: number;
}

/**
 * How much memory chunks pass through.
 *
 * @param loads The weights.
 * @param engine Tells how large packed weights are.
 * @returns Bytes.
 */
export function stagingBytes(loads: WeightLoad[], engine: PackedSizes): number {
  const parts = loads.flatMap((load) => weightParts(load, engine));
  const { count, bytes } = slotsFor(parts, chunksOf(parts));
  return count * bytes;
}

/**
 * Loads all weights.
 *
 * @param model The package.
 * @param loads The weights.
 * @param engine Tells how large packed weights are.
 * @param runner Packs.
 * @param plan Where they go.
 * @param onLoaded Told of each chunk.
 * @throws {InvalidFileError} If a file is missing, too short or damaged.
 */
export async function loadWeights(
  model: Pick<ModelPackage, "readChunk">,
  loads: WeightLoad[],
  engine: PackedSizes,
  runner: EngineRunner,
  plan: MemoryPlan,
  onLoaded: OnLoaded = () => {},
): Promise<void> {
  const parts = loads.flatMap((load) => weightParts(load, engine));
  const chunks = chunksOf(parts);
  const slots = slotsFor(parts, chunks);
  const memory = new Uint8Array(runner.memory.buffer);
  const addressOf = (chunk: number) =>
    plan.staging + chunk % slots.count * slots.bytes + slots.carry;
  const totalBytes = parts.reduce((sum, { source }) => sum + source.bytes, 0);
  const done = new Map(parts.map((part) => [part, 0]));
  let doneBytes = 0;

  const reads: Promise<void>[] = [];
  const read = (chunk: number) => {
    const { file, index, begin, end } = chunks[chunk]!;
    const address = addressOf(chunk);
    const reading = model.readChunk(file, index, memory.subarray(address, address + end - begin));
    reading.catch(() => {}); // reported when it is awaited
    reads.push(reading);
  };
  try {
    for (const [i, chunk] of chunks.entries()) {
      while (reads.length < Math.min(chunks.length, i + slots.count)) read(reads.length);
      await reads[i];
      const address = addressOf(i);
      for (const part of parts) {
        const { file, offset, bytes } = part.source;
        const [first, arrived] = [done.get(part)!, Math.min(bytes, chunk.end - offset)];
        if (file !== chunk.file || arrived <= first || offset + bytes <= chunk.begin) continue;
        for (const piece of completePieces(part, first, arrived)) {
          const source = address + offset + piece.begin - chunk.begin;
          const into = plan.tensors[part.tensor]! + piece.into;
          if (part.pack) await pack(part, piece, source, into, runner, plan);
          else memory.copyWithin(into, source, source + piece.bytes);
          done.set(part, piece.begin + piece.bytes);
          doneBytes += piece.bytes;
        }
      }
      const following = addressOf(i + 1);
      const end = address + chunk.end - chunk.begin;
      if (slots.count > 1) memory.copyWithin(following - slots.carry, end - slots.carry, end);
      onLoaded(doneBytes, totalBytes);
    }
  } finally {
    await Promise.allSettled(reads); // they write into the memory
  }
}

/** The chunks that hold something of a weight, in the files' order. */
function chunksOf(parts: WeightPart[]): Chunk[] {
  const ends = new Map<string, Map<number, number>>(); // by file and index: what is wanted
  for (const { source: { file, offset, bytes } } of parts) {
    if (!ends.has(file)) ends.set(file, new Map());
    const ofFile = ends.get(file)!;
    for (
      let index = Math.floor(offset / CHUNK_BYTES);
      index * CHUNK_BYTES < offset + bytes;
      index++
    ) {
      const end = Math.min((index + 1) * CHUNK_BYTES, offset + bytes);
      ofFile.set(index, Math.max(end, ofFile.get(index) ?? 0));
    }
  }
  return [...ends.keys()].sort().flatMap((file) =>
    [...ends.get(file)!].sort(([a], [b]) => a - b)
      .map(([index, end]) => ({ file, index, begin: index * CHUNK_BYTES, end }))
  );
}

function slotsFor(parts: WeightPart[], chunks: Chunk[]): Slots {
  const carry = parts.reduce((most, { unit }) => Math.max(most, unit.stored), 0);
  const longest = chunks.reduce((most, { begin, end }) => Math.max(most, end - begin), 0);
  return {
    count: Math.min(MAX_SLOTS, chunks.length),
    bytes: alignUp(carry) + alignUp(longest),
    carry: alignUp(carry),
  };
}

/** Runs a program that packs one piece. */
function pack(
  part: WeightPart,
  piece: WeightPiece,
  source: number,
  into: number,
  runner: EngineRunner,
  plan: MemoryPlan,
): Promise<void> {
  const builder = new ProgramBuilder();
  const table: { address: number; bytes: number }[] = [];
  const tensor = (address: number, bytes: number): Operand => {
    table.push({ address, bytes });
    return { tensor: builder.tensor("weight", bytes) as TensorId };
  };
  part.pack!(builder, piece.bytes, tensor(source, piece.bytes), tensor(into, piece.packedBytes));
  writeJob(runner.memory, plan, plan.loading, builder.words, table);
  return runner.run(plan.loading.job);
}

function alignUp(address: number): number {
  return Math.ceil(address / ALIGNMENT) * ALIGNMENT;
}
