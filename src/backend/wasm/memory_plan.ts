/**
 * Where everything lies in the engine's memory. It is planned once: nothing is allocated while steps run.
 * @module
 */
import { CapacityError } from "../../errors.ts";
import type { PlannedTensor } from "./program_builder.ts";

/** Addresses begin at multiples of this, a cache line, bytes. */
const ALIGNMENT = 64;
/** WebAssembly's unit of memory, bytes. */
const PAGE_BYTES = 65536;
/** Most pages of a memory with 32-bit addresses: 4 GiB. */
const MAX_PAGES = 65536;
/** Bytes of a row of the tensor table: address and length, 64 bits each. */
export const TENSOR_ROW_BYTES = 16;
/** Bytes of the sizes of a step: four u32. */
const SIZES_BYTES = 16;

/** The layout of a memory. */
export interface MemoryPlan {
  /** Address of the program. */
  words: number;
  /** Address of the tensor table. */
  table: number;
  /** Address of the sizes of the step at hand. */
  sizes: number;
  /** Address of each tensor. */
  tensors: number[];
  /** Address of the memory that weights pass through while they are loaded. */
  staging: number;
  /** How many pages the memory must have. */
  pages: number;
  /** Bytes by what they are for. */
  bytes: Record<"program" | "weights" | "cache" | "activations" | "loading", number>;
}

/**
 * Lays out a memory.
 *
 * @param program Words and tensors.
 * @param heapBase Where free memory begins.
 * @param stagingBytes How much weights need to pass through.
 * @returns The layout, however large.
 */
export function planMemory(
  program: { words: number[]; tensors: PlannedTensor[] },
  heapBase: number,
  stagingBytes: number,
): MemoryPlan {
  let end = heapBase;
  const place = (bytes: number) => {
    const address = alignUp(end);
    end = address + bytes;
    return address;
  };
  const words = place(program.words.length * 4);
  const table = place(program.tensors.length * TENSOR_ROW_BYTES);
  const sizes = place(SIZES_BYTES);
  const programEnd = end;

  const addresses = new Array<number>(program.tensors.length).fill(0);
  const arena = shareMemory(program.tensors);
  const arenaStart = place(arena.bytes);
  for (const [tensor, offset] of arena.offsets) addresses[tensor] = arenaStart + offset;
  const placeAll = (...uses: PlannedTensor["use"][]) => {
    const before = end;
    for (const [tensor, { use, bytes }] of program.tensors.entries()) {
      if (uses.includes(use)) addresses[tensor] = place(bytes);
    }
    return end - before;
  };
  const activations = arena.bytes + placeAll("input", "output");
  const cache = placeAll("cache");
  const weights = placeAll("weight");
  const staging = place(stagingBytes);
  const pages = Math.ceil(end / PAGE_BYTES);
  const bytes = { program: programEnd, weights, cache, activations, loading: stagingBytes };
  return { words, table, sizes, tensors: addresses, staging, pages, bytes };
}

/** Offsets of the values of a step: two share memory where their lifetimes do not overlap. */
function shareMemory(tensors: PlannedTensor[]): { offsets: Map<number, number>; bytes: number } {
  const offsets = new Map<number, number>();
  const placed: { begin: number; end: number; lifetime: [number, number] }[] = [];
  const values = [...tensors.entries()].filter(([, { use }]) => use === "value");
  // Large ones first: small ones fit into the gaps between them.
  values.sort(([, a], [, b]) => b.bytes - a.bytes);
  for (const [tensor, { bytes, lifetime }] of values) {
    const neighbours = placed
      .filter(({ lifetime: [first, last] }) => first <= lifetime[1] && lifetime[0] <= last)
      .sort((a, b) => a.begin - b.begin);
    let begin = 0;
    for (const other of neighbours) {
      if (begin + bytes <= other.begin) break;
      begin = Math.max(begin, alignUp(other.end));
    }
    placed.push({ begin, end: begin + bytes, lifetime });
    offsets.set(tensor, begin);
  }
  return { offsets, bytes: Math.max(0, ...placed.map(({ end }) => end)) };
}

function alignUp(address: number): number {
  return Math.ceil(address / ALIGNMENT) * ALIGNMENT;
}

/**
 * Refuses a plan that 32-bit addresses can not reach.
 *
 * @param plan The plan.
 * @throws {CapacityError} If it needs more than 4 GiB.
 */
export function checkFits({ pages, bytes }: MemoryPlan): void {
  if (pages <= MAX_PAGES) return;
  const mib = (value: number) => `${Math.ceil(value / 2 ** 20)} MiB`;
  const parts = Object.entries(bytes).map(([part, value]) => `${part} ${mib(value)}`).join(", ");
  throw new CapacityError(
    "out_of_memory",
    `Cannot open the model on backend wasm: it needs ${
      mib(pages * PAGE_BYTES)
    } (${parts}), there are ` +
      "4096 MiB; lower contextLength or cacheTokens, export with fewer bits (--weights int4), or use " +
      `{ backend: "ort" }.`,
  );
}
