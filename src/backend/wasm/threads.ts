/**
 * How many threads compute, and why not more.
 * @module
 */
import { InvalidArgumentError, UnsupportedError } from "../../errors.ts";
import { BUILDS, type EngineBuild } from "./engine_module.ts";
import { WorkerTeam } from "./worker_team.ts";

/** Weights of a model that one thread reads faster than a team agrees on a step, bytes. */
const SMALL_MODEL_BYTES = 64 * 1024 * 1024;
/** Most threads of a team. */
export const MAX_THREADS = 64;

/** The threads of a model. */
export interface Threads {
  /** Workers; `undefined`: the caller's thread computes. */
  team: WorkerTeam | undefined;
  /** How many compute. */
  count: number;
  /** Why not more. */
  reason: string;
}

/**
 * Starts the threads for a model.
 *
 * @param weightBytes Of the model.
 * @param options `threads`: as many workers; by default one per core, and the caller's thread for a small
 *   model. `build`: one without threads wants the caller's thread.
 * @returns The threads.
 * @throws {InvalidArgumentError} If the number is out of range or contradicts the build.
 * @throws {UnsupportedError} If threads were asked for and can not be had.
 */
export async function startThreads(
  weightBytes: number,
  { threads, build }: { threads?: number; build?: EngineBuild },
): Promise<Threads> {
  if (
    threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS)
  ) {
    throw new InvalidArgumentError(
      "threads",
      `Cannot open the model: threads is ${threads}, it can be 1 to ${MAX_THREADS}.`,
    );
  }
  const alone = (reason: string): Threads => ({ team: undefined, count: 1, reason });
  if (build && !BUILDS[build].threads) {
    if (threads === undefined || threads === 1) return alone(`build ${build} has one`);
    throw new InvalidArgumentError(
      "threads",
      `Cannot open the model: threads is ${threads}, build ${build} has one; leave out the build.`,
    );
  }
  const wanted = threads !== undefined || build !== undefined;
  if (!wanted && weightBytes < SMALL_MODEL_BYTES) {
    return alone("the model is small: the caller's thread computes");
  }
  const missing = sharedMemoryMissing();
  if (!missing) {
    const count = threads ?? Math.min(await availableCores(), MAX_THREADS);
    const reason = threads !== undefined ? "as asked for" : "one per core";
    try {
      return { team: await WorkerTeam.start(count), count, reason };
    } catch (cause) {
      const why = `workers can not be started: ${(cause as Error).message}`;
      if (wanted) throw unsupported(why, cause);
      return alone(why);
    }
  }
  if (wanted) throw unsupported(missing);
  return alone(missing);
}

function unsupported(why: string, cause?: unknown): UnsupportedError {
  return new UnsupportedError(
    `Cannot open the model with threads: ${why}; leave out threads and build.`,
    { cause },
  );
}

/** Why threads can not share a memory here; `undefined` if they can. */
function sharedMemoryMissing(): string | undefined {
  const { crossOriginIsolated } = globalThis as { crossOriginIsolated?: boolean };
  if (typeof document !== "undefined" && crossOriginIsolated === false) {
    return "the page is not cross-origin isolated (headers COOP and COEP), so it has no shared memory";
  }
  try {
    new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  } catch {
    return "this runtime has no shared memory";
  }
  return undefined;
}

/** How many threads run at once. @returns At least 1. */
export async function availableCores(): Promise<number> {
  const cores = globalThis.navigator?.hardwareConcurrency;
  if (cores) return cores;
  try {
    const name = "node:os"; // not written into the import: bundlers for browsers leave it alone
    return (await import(name) as { availableParallelism(): number }).availableParallelism();
  } catch {
    return 1;
  }
}
