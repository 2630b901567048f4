/**
 * Loading: the chunks of the package's files, each read once and in order, pass through a few slots of the
 * engine's memory. A chunk is read by the host, then one thread compares it with its hash and packs what it
 * holds, while others do the same with other chunks.
 * @module
 */
import { CHUNK_BYTES } from "../../files/manifest.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { Copy, EngineRunner, Lane } from "./engine_runner.ts";
import { jobBytes, type JobPlan, jobPlan, type MemoryPlan, writeJob } from "./memory_plan.ts";
import { type Operand, ProgramBuilder, type TensorId, type WeightLoad } from "./program_builder.ts";
import {
  completePieces,
  type PackedSizes,
  type WeightPart,
  weightParts,
  type WeightPiece,
} from "./weight_parts.ts";

/** Most threads that load: as many read from memory faster than files are read. */
const MAX_LANES = 6;
/** Chunks that may be read while each thread has one: with less, threads that end together wait. */
const READ_AHEAD = 2;
/** Most words of an instruction that packs a piece, and its tensors. */
const PIECE = { words: 8, tensors: 2 };
/** What lies in a slot begins at multiples of this, bytes. */
const ALIGNMENT = 64;

/** Told of the bytes loaded so far and in all. */
export type OnLoaded = (doneBytes: number, totalBytes: number) => void;

/** A chunk of a file that holds something of a weight. */
interface Chunk {
  file: string;
  index: number;
  /** Offset of its first byte in the file. */
  begin: number;
  /** Offset of the end of what is wanted of it. */
  end: number;
  /** What is complete with it. */
  pieces: { part: WeightPart; piece: WeightPiece }[];
}

/** Places that chunks pass through. */
interface Slots {
  count: number;
  /** Bytes of one. */
  bytes: number;
  /** Words of the program that packs a chunk, at most. */
  words: number;
  /** Offset of the chunk itself. Before it is room for the end of the one before: a piece may begin there. */
  chunk: number;
  /** That room, bytes. */
  carry: number;
}

/**
 * How much memory chunks pass through.
 *
 * @param loads The weights.
 * @param engine Tells how large packed weights are.
 * @param threads How many there are.
 * @returns Bytes.
 */
export function stagingBytes(loads: WeightLoad[], engine: PackedSizes, threads: number): number {
  const parts = loads.flatMap((load) => weightParts(load, engine));
  const { count, bytes } = slotsFor(parts, chunksOf(parts), threads);
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
  const slots = slotsFor(parts, chunks, plan.threads);
  const lanes = new Lanes(runner.lanes);
  const memory = new Uint8Array(runner.memory.buffer);
  const slotOf = (chunk: number) => plan.staging + chunk % slots.count * slots.bytes;
  const totalBytes = parts.reduce((sum, { source }) => sum + source.bytes, 0);
  let doneBytes = 0;

  /** Reads a chunk and puts the end of the one before before it. */
  const arrive = async (i: number) => {
    const { file, index, begin, end } = chunks[i]!;
    const address = slotOf(i) + slots.chunk;
    const into = memory.subarray(address, address + CHUNK_BYTES);
    const hash = (bytes: Uint8Array) => lanes.use((lane) => lane.sha256(bytes));
    await model.readChunk(file, index, end - begin, into, hash);
    if (i === 0) return;
    await arrived[i - 1];
    const { begin: from, end: to } = chunks[i - 1]!;
    const last = slotOf(i - 1) + slots.chunk + to - from;
    memory.copyWithin(address - slots.carry, last - slots.carry, last);
  };
  const pack = async (i: number) => {
    await arrived[i];
    const { begin, pieces } = chunks[i]!;
    const copies: Copy[] = [];
    const program = new PackingProgram();
    for (const { part, piece } of pieces) {
      const from = slotOf(i) + slots.chunk + part.source.offset + piece.begin - begin;
      const into = plan.tensors[part.tensor]! + piece.into;
      if (part.pack) program.add(part, piece, from, into);
      else copies.push({ from, into, bytes: piece.bytes });
    }
    const place = program.words.length > 0 ? jobPlan(slotOf(i), slots.words) : undefined;
    if (place) program.write(runner.memory, plan, place);
    await lanes.use((lane) => lane.run(copies, place?.job));
    doneBytes += pieces.reduce((sum, { piece }) => sum + piece.bytes, 0);
    onLoaded(doneBytes, totalBytes);
  };

  const arrived: Promise<void>[] = [];
  const packed: Promise<void>[] = [];
  const begin = (list: Promise<void>[], promise: Promise<void>) => {
    promise.catch(() => {}); // reported when it is awaited
    list.push(promise);
  };
  try {
    for (let i = 0; i < chunks.length; i++) {
      const before = i - slots.count; // the chunk that had the slot
      if (before >= 0) await Promise.all([packed[before], arrived[before + 1]]);
      begin(arrived, arrive(i));
      begin(packed, pack(i));
    }
    await Promise.all(packed);
  } finally {
    await Promise.allSettled(packed); // they write into the memory
  }
}

/** Gives out lanes. */
class Lanes {
  readonly #free: Lane[];
  readonly #waiting: ((lane: Lane) => void)[] = [];

  constructor(lanes: readonly Lane[]) {
    this.#free = lanes.slice(0, MAX_LANES);
  }

  /** Has the next free lane do something. */
  async use<T>(work: (lane: Lane) => Promise<T>): Promise<T> {
    const lane = this.#free.pop() ??
      await new Promise<Lane>((resolve) => this.#waiting.push(resolve));
    try {
      return await work(lane);
    } finally {
      const next = this.#waiting.shift();
      if (next) next(lane);
      else this.#free.push(lane);
    }
  }
}

/** What packs the pieces of a chunk, on one thread. */
class PackingProgram extends ProgramBuilder {
  readonly #table: { address: number; bytes: number }[] = [];

  add({ pack }: WeightPart, piece: WeightPiece, from: number, into: number) {
    const tensor = (address: number, bytes: number): Operand => {
      this.#table.push({ address, bytes });
      return { tensor: this.tensor("weight", bytes) as TensorId };
    };
    pack!(this, piece.bytes, tensor(from, piece.bytes), tensor(into, piece.packedBytes));
  }

  write(memory: WebAssembly.Memory, { team }: MemoryPlan, place: JobPlan) {
    writeJob(memory, { team, threads: 1 }, place, this.words, this.#table);
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
  const done = new Map(parts.map((part) => [part, 0]));
  return [...ends.keys()].sort().flatMap((file) =>
    [...ends.get(file)!].sort(([a], [b]) => a - b).map(([index, end]) => {
      const begin = index * CHUNK_BYTES;
      const pieces: Chunk["pieces"] = [];
      for (const part of parts) {
        const { offset, bytes } = part.source;
        const [first, last] = [done.get(part)!, Math.min(bytes, end - offset)];
        if (part.source.file !== file || last <= first || offset + bytes <= begin) continue;
        for (const piece of completePieces(part, first, last)) {
          pieces.push({ part, piece });
          done.set(part, piece.begin + piece.bytes);
        }
      }
      return { file, index, begin, end, pieces };
    })
  );
}

function slotsFor(parts: WeightPart[], chunks: Chunk[], threads: number): Slots {
  const most = (numbers: number[]) => numbers.reduce((a, b) => Math.max(a, b), 0);
  const carry = alignUp(most(parts.map(({ unit }) => unit.stored)));
  const pieces = most(chunks.map(({ pieces }) => pieces.length));
  const words = pieces * PIECE.words;
  const chunk = alignUp(jobBytes(words, pieces * PIECE.tensors)) + carry;
  const lanes = Math.min(threads, MAX_LANES);
  const count = Math.min(lanes + READ_AHEAD, chunks.length);
  return { count, bytes: chunk + CHUNK_BYTES, words, chunk, carry };
}

function alignUp(address: number): number {
  return Math.ceil(address / ALIGNMENT) * ALIGNMENT;
}
