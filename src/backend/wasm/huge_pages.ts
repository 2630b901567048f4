/**
 * Huge pages: memory that the system maps in pieces of 2 MB is loaded faster and read with fewer misses.
 * Linux gives them to whoever asks by `madvise`, which runtimes reach by their foreign functions.
 * @module
 */
import { UnsupportedError } from "../../errors.ts";

/** Whether a memory gets huge pages. */
export interface HugePages {
  /** Asks for them, before the memory is written to; `undefined`: it has the system's usual pages. */
  advise: ((memory: WebAssembly.Memory) => void) | undefined;
  /** Why, or why not. */
  reason: string;
}

/** Linux's number of the advice. */
const MADV_HUGEPAGE = 14;
/** Where `madvise` is. */
const LIBC = "libc.so.6";
/** Not written into the imports, so that bundlers leave them alone. */
const [NODE_FFI, BUN_FFI] = ["node:ffi", "bun:ffi"];

/** Calls `madvise`. Gives 0 if the system takes the advice. */
type Advise = (memory: ArrayBufferLike, advice: number) => number;

/** What is used of Deno. */
interface DenoRuntime {
  permissions: { querySync(permission: { name: "ffi"; path: string }): { state: string } };
  dlopen(path: string, symbols: unknown): {
    symbols: { madvise(memory: Uint8Array, bytes: bigint, advice: number): number };
  };
}

/** What is used of `node:ffi`, which Node has from version 26 on. */
interface NodeFfi {
  getRawPointer(memory: ArrayBufferLike): bigint;
  dlopen(path: string, symbols: unknown): {
    functions: { madvise(memory: bigint, bytes: bigint, advice: number): number };
  };
}

/** What is used of `bun:ffi`. */
interface BunFfi {
  ptr(memory: Uint8Array): number;
  dlopen(path: string, symbols: unknown): {
    symbols: { madvise(memory: number, bytes: number, advice: number): number };
  };
}

/**
 * Finds out whether huge pages can be had. Nobody is asked for a permission.
 *
 * @param wanted `true`: they must be had. `undefined`: only where that goes without a word, in Deno where FFI
 *   is allowed already.
 * @returns How to ask for them, or why not.
 * @throws {UnsupportedError} If they are wanted and can not be had.
 */
export async function findHugePages(wanted: boolean | undefined): Promise<HugePages> {
  if (wanted === false) return { advise: undefined, reason: "as asked for" };
  const found = await findAdvise(wanted ?? false);
  const refused = typeof found === "string" ? found : refusal(found);
  if (typeof found !== "string" && !refused) {
    const reason = "the system was asked for them";
    return { advise: ({ buffer }) => void found(buffer, MADV_HUGEPAGE), reason };
  }
  if (!wanted) return { advise: undefined, reason: refused! };
  throw new UnsupportedError(
    `Cannot open the model with huge pages: ${refused}; leave out hugePages.`,
  );
}

/** The runtime's way to `madvise`, or why there is none. */
async function findAdvise(wanted: boolean): Promise<Advise | string> {
  const { Deno: deno, process } = globalThis as unknown as {
    Deno?: DenoRuntime;
    process?: { platform: string };
  };
  if (process?.platform !== "linux") return "only Linux is asked for them";
  try {
    if (deno) {
      const { state } = deno.permissions.querySync({ name: "ffi", path: LIBC });
      if (state !== "granted") return "FFI is not allowed (--allow-ffi)";
      const symbol = { parameters: ["buffer", "usize", "i32"], result: "i32" };
      const { madvise } = deno.dlopen(LIBC, { madvise: symbol }).symbols;
      return (memory, advice) => madvise(new Uint8Array(memory), BigInt(memory.byteLength), advice);
    }
    if (!wanted) return "they were not asked for";
    if ("Bun" in globalThis) {
      const { dlopen, ptr } = await import(BUN_FFI!) as BunFfi;
      const symbol = { args: ["ptr", "u64", "i32"], returns: "i32" };
      const { madvise } = dlopen(LIBC, { madvise: symbol }).symbols;
      return (memory, advice) => madvise(ptr(new Uint8Array(memory)), memory.byteLength, advice);
    }
    const { dlopen, getRawPointer } = await import(NODE_FFI!) as NodeFfi;
    const symbol = { arguments: ["pointer", "u64", "i32"], return: "i32" };
    const { madvise } = dlopen(LIBC, { madvise: symbol }).functions;
    return (memory, advice) => madvise(getRawPointer(memory), BigInt(memory.byteLength), advice);
  } catch (cause) {
    return `this runtime can not call the system (${(cause as Error).message})`;
  }
}

/** Why the system does not take the advice; tried on a memory of its own. */
function refusal(advise: Advise): string | undefined {
  const { buffer } = new WebAssembly.Memory({ initial: 1 });
  return advise(buffer, MADV_HUGEPAGE) === 0 ? undefined : "the system has none";
}
