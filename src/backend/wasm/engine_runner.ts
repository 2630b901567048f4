/**
 * What runs jobs over the engine's memory: the caller's thread, or a team of workers.
 * @module
 */
import { BackendError } from "../../errors.ts";
import { sha256 } from "../../sha256.ts";
import { type EngineBuild, instantiateEngine, isWide } from "./engine_module.ts";
import { type MemoryPlan, outOfMemory } from "./memory_plan.ts";
import { nextTask } from "../../next_task.ts";
import type { WorkerTeam } from "./worker_team.ts";

/** Bytes that move within a memory. */
export interface Copy {
  /** Address of the first byte. */
  from: number;
  /** Where it goes. */
  into: number;
  /** How many. */
  bytes: number;
}

/** A thread that works by itself while no job of all threads runs; one thing at a time. */
export interface Lane {
  /**
   * Copies, then runs a job of one thread.
   *
   * @param copies What is copied.
   * @param job Address of the job; `undefined`: none.
   */
  run(copies: readonly Copy[], job: number | undefined): Promise<void>;
  /** Hashes a part of the memory. @param bytes A view of it. @returns Its sha256. */
  sha256(bytes: Uint8Array): Promise<Uint8Array>;
}

/** An engine's memory and the threads that work on it. */
export interface EngineRunner {
  /** Its memory. */
  readonly memory: WebAssembly.Memory;
  /** Its threads, each by itself. */
  readonly lanes: readonly Lane[];
  /**
   * Runs a job; one at a time.
   *
   * @param job Its address.
   * @returns When all threads have done it. Rejects with what stopped a thread; nothing can run then.
   */
  run(job: number): Promise<void>;
  /**
   * Sets what is done when the threads ask for experts that are not in memory; they wait meanwhile. If it
   * fails, so does the job.
   *
   * @param answer Wakes them.
   */
  onAsk(answer: () => Promise<void>): void;
  /** Ends the threads. */
  close(): void;
}

/**
 * Makes the memory and lets the threads into it.
 *
 * @param team Workers; `undefined`: the caller's thread.
 * @param build A build of as many threads.
 * @param plan The memory.
 * @returns What runs jobs.
 * @throws {CapacityError} If the runtime has not as much memory.
 * @throws {BackendError} If the build does not start.
 */
export async function startRunner(
  team: WorkerTeam | undefined,
  build: EngineBuild,
  plan: MemoryPlan,
): Promise<EngineRunner> {
  const { pages } = plan;
  const size = isWide(build)
    ? { address: "i64", initial: BigInt(pages), maximum: BigInt(pages) }
    : { initial: pages, maximum: pages };
  let memory: WebAssembly.Memory;
  try {
    const descriptor = { ...size, shared: team !== undefined };
    memory = new WebAssembly.Memory(descriptor as unknown as WebAssembly.MemoryDescriptor);
  } catch (cause) {
    throw outOfMemory(`${pages / 16} MiB are needed and this runtime has not as much`, cause);
  }
  if (!team) return new CallerRunner(build, memory);
  try {
    return await team.join(build, memory, plan);
  } catch (cause) {
    throw new BackendError(
      "backend_failed",
      `Cannot start the ${build} build of the engine: ${
        (cause as Error).message
      }; open the model with ` +
        `{ build: "simd" }.`,
      { cause },
    );
  }
}

/** Runs jobs on the thread of the caller. */
class CallerRunner implements EngineRunner {
  /** See {@linkcode EngineRunner}. */
  readonly memory: WebAssembly.Memory;
  /** See {@linkcode EngineRunner}. */
  readonly lanes: readonly Lane[];
  readonly #run: (job: number, thread: number) => void;

  /**
   * @param build A build with one thread.
   * @param memory Its memory.
   */
  constructor(build: EngineBuild, memory: WebAssembly.Memory) {
    this.memory = memory;
    this.#run = instantiateEngine(build, memory).run;
    const lane: Lane = {
      run: async (copies, job) => {
        const all = new Uint8Array(memory.buffer);
        for (const { from, into, bytes } of copies) all.copyWithin(into, from, from + bytes);
        if (job !== undefined) await this.run(job);
      },
      sha256: (bytes) => sha256(bytes as Uint8Array<ArrayBuffer>), // nobody shares the memory
    };
    this.lanes = [lane, lane, lane]; // the runtime hashes beside the thread: packing need not wait for it
  }

  /** See {@linkcode EngineRunner.run}. Timers, events and readers of the last step's tokens come first. */
  async run(job: number): Promise<void> {
    await nextTask();
    this.#run(job, 0);
  }

  /** The caller's thread can not wait: all experts are in memory. */
  onAsk(): void {}

  /** Nothing to end. */
  close(): void {}
}
