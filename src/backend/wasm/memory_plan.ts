/**
 * Where everything lies in the engine's memory. It is planned once: nothing is allocated while steps run.
 * @module
 */
import { CapacityError } from "../../errors.ts";
import type { PlannedTensor } from "./program_builder.ts";
import { STACK_BYTES } from "./worker_team.ts";

/** Addresses begin at multiples of this, a cache line, bytes. */
const ALIGNMENT = 64;
/** WebAssembly's unit of memory, bytes. */
export const PAGE_BYTES = 65536;
/** What lies below is the module's: its constants and the stack of the caller's thread, bytes. */
export const MODULE_BYTES: number = 512 * 1024;
/** Bytes of a row of the tensor table: address and length, 64 bits each. */
const TENSOR_ROW_BYTES = 16;
/** Bytes of a job: three addresses, two counts and the threads, 64 bits each, and four sizes, u32. */
const JOB_BYTES = 64;
/** Offset of the sizes in a job. */
const SIZES_OFFSET = 32;
/** A program's place. */
export interface JobPlan {
  /** Address of the job. */
  job: number;
  /** Address of the program's words. */
  words: number;
  /** Address of the tensor table. */
  table: number;
}

/** The layout of a memory. */
export interface MemoryPlan {
  /** The step. */
  step: JobPlan;
  /** Address of the state of the team of threads. */
  team: number;
  /** Address of the first thread's stack. */
  stacks: number;
  /** How many threads there are. */
  threads: number;
  /** Address of each tensor of the step. */
  tensors: number[];
  /** Address of the memory that weights pass through while they are loaded. */
  staging: number;
  /** Places for experts that are read on demand, and the memory that they pass through. */
  pool: { address: number; count: number; placeBytes: number; staging: number };
  /** Where everything ends. */
  endBytes: number;
  /** How many pages the memory must have. */
  pages: number;
  /** Bytes by what they are for; `loading`: beside the activations. */
  bytes: Record<"program" | "weights" | "cache" | "activations" | "loading", number> & {
    /** Where experts are read on demand. */
    experts?: number;
  };
}

/**
 * Lays out a memory.
 *
 * @param program Words and tensors.
 * @param threads How many threads compute.
 * @param sizes Bytes of a team's state, and of what weights pass through; places for experts, and what
 *   those pass through.
 * @returns The layout, however large.
 */
export function planMemory(
  program: { words: number[]; tensors: PlannedTensor[] },
  threads: number,
  sizes: {
    teamBytes: number;
    stagingBytes: number;
    pool?: { count: number; placeBytes: number; stagingBytes: number };
  },
): MemoryPlan {
  let end = MODULE_BYTES;
  const place = (bytes: number) => {
    const address = alignUp(end);
    end = address + bytes;
    return address;
  };
  const team = place(sizes.teamBytes);
  const [words, rows] = [program.words.length, program.tensors.length];
  const step = jobPlan(place(jobBytes(words, rows)), words);
  const stacks = place(threads * STACK_BYTES);
  const programEnd = end;

  const addresses = new Array<number>(program.tensors.length).fill(0);
  const arena = shareMemory(program.tensors);
  // No step runs while weights are loaded: they pass through the place of its values.
  const arenaStart = place(Math.max(arena.bytes, sizes.stagingBytes));
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
  const weights = placeAll("weight", "table");
  const { count, placeBytes, stagingBytes } = sizes.pool ??
    { count: 0, placeBytes: 0, stagingBytes: 0 };
  const loading = Math.max(0, sizes.stagingBytes - arena.bytes) + stagingBytes;
  const experts = count * placeBytes;
  const pool = { address: place(experts), count, placeBytes, staging: place(stagingBytes) };
  return {
    ...{ step, team, stacks, threads, tensors: addresses, staging: arenaStart, pool },
    ...{ endBytes: end, pages: Math.ceil(end / PAGE_BYTES) },
    bytes: {
      ...{ program: programEnd, weights, ...count > 0 ? { experts } : {} },
      ...{ cache, activations, loading },
    },
  };
}

/** Room for a job. @param words Of its program. @param tensors Rows of its table. @returns Bytes. */
export function jobBytes(words: number, tensors: number): number {
  return jobPlan(0, words).table + tensors * TENSOR_ROW_BYTES;
}

/** Where a job lies. @param job Its address. @param words Most words of its program. @returns It. */
export function jobPlan(job: number, words: number): JobPlan {
  return { job, words: job + JOB_BYTES, table: alignUp(job + JOB_BYTES + words * 4) };
}

/**
 * Writes a job: a program, its tensor table and the team that runs it.
 *
 * @param memory The engine's memory.
 * @param team State and number of the threads that run it.
 * @param place Which job.
 * @param words The program.
 * @param tensors Address and length of each tensor.
 */
export function writeJob(
  memory: WebAssembly.Memory,
  { team, threads }: Pick<MemoryPlan, "team" | "threads">,
  { job, words: wordsAt, table: tableAt }: JobPlan,
  words: readonly number[],
  tensors: readonly { address: number; bytes: number }[],
): void {
  new Uint32Array(memory.buffer, wordsAt, words.length).set(words);
  new BigUint64Array(memory.buffer, tableAt, tensors.length * 2).set(
    tensors.flatMap(({ address, bytes }) => [BigInt(address), BigInt(bytes)]),
  );
  const numbers = new BigUint64Array(memory.buffer, job, JOB_BYTES / 8);
  numbers.set([wordsAt, words.length, tableAt, tensors.length].map(BigInt));
  numbers.set([team, threads].map(BigInt), 6);
}

/**
 * Writes the sizes of the step at hand into its job.
 *
 * @param memory The engine's memory.
 * @param plan The layout.
 * @param sizes T, Q, B, M.
 */
export function writeSizes(
  memory: WebAssembly.Memory,
  plan: MemoryPlan,
  sizes: [tokens: number, logitRows: number, sequences: number, tableWidth: number],
): void {
  new Uint32Array(memory.buffer, plan.step.job + SIZES_OFFSET, sizes.length).set(sizes);
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
 * Refuses a plan that a memory can not hold.
 *
 * @param plan The plan.
 * @param limits Pages that the build can have, and why not more; bytes that the caller grants, and what to
 *   do about them.
 * @throws {CapacityError} If it needs more.
 */
export function checkFits(
  { pages, bytes }: MemoryPlan,
  limits: { maxPages: number; reason: string; memoryBytes?: number; advice?: string },
): void {
  const granted = limits.memoryBytes ?? Infinity;
  const most = Math.min(limits.maxPages * PAGE_BYTES, granted);
  if (pages * PAGE_BYTES <= most) return;
  const parts = Object.entries(bytes).map(([part, value]) => `${part} ${mib(value)}`).join(", ");
  const why = most === granted ? "memoryBytes allows" : `${limits.reason} allows`;
  const advice = most === granted && limits.advice ? `; ${limits.advice}` : "";
  throw outOfMemory(`it needs ${mib(pages * PAGE_BYTES)} (${parts}), ${why} ${mib(most)}${advice}`);
}

/**
 * The error of a model that does not fit.
 *
 * @param what What is needed and what there is.
 * @param cause What led to it.
 * @returns The error, with the ways out.
 */
export function outOfMemory(what: string, cause?: unknown): CapacityError {
  return new CapacityError(
    "out_of_memory",
    `Cannot open the model on backend wasm: ${what}; lower contextLength or cacheTokens, take a smaller ` +
      `cacheType ("bf16", "int8"), export with fewer bits (--weights int4), or use { backend: "ort" }.`,
    { cause },
  );
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
