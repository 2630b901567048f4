/**
 * A team of workers that run each job in lockstep inside WebAssembly (`wasm/engine/src/team.rs`): they
 * share one memory, and JavaScript only says when a job begins and hears when it has ended.
 * @module
 */
import { type EngineBuild, isWide, threadsModule } from "./engine_module.ts";
import type { EngineRunner, Lane } from "./engine_runner.ts";

/** Stack of one thread, bytes. */
export const STACK_BYTES: number = 256 * 1024;
/** Offset of the word of a team's state that ends all waiting, bytes. */
const FAILED_OFFSET = 8;

/** A thread that runs what {@linkcode WORKER} says. */
interface Thread {
  post(message: unknown): void;
  /** Tells of messages and, with an Error, of its end. */
  listen(onMessage: (message: ThreadMessage) => void, onEnd: (error: Error) => void): void;
  /** Whether it keeps the process alive. */
  hold(held: boolean): void;
  end(): void;
}

/** What a thread says. */
interface ThreadMessage {
  is: "ready" | "done" | "alone" | "ask" | "failed";
  /** Why it failed. */
  message?: string;
  /** What was to be hashed by one thread. */
  hash?: Uint8Array;
}

/**
 * What a worker does. Text, so that it needs no file beside this one, whatever bundles or serves it;
 * `port` and `listen` are the worker's end of the line, `sha256` hashes shared memory.
 */
const WORKER = `
const SLEEP_MS = 100; // then it looks whether another thread was lost
let run, runAlone;
listen(async ({ module, memory, stack, thread, wide, job, alone }) => {
  try {
    if (alone) {
      port.postMessage({ is: "alone", hash: await runAlone(alone) });
    } else if (module) {
      const words = new Int32Array(memory.buffer);
      const sleep = (word, value) => Atomics.wait(words, Number(word) / 4, value, SLEEP_MS);
      const wake = (word) => Atomics.notify(words, Number(word) / 4);
      const ask = () => port.postMessage({ is: "ask" });
      const { exports } = new WebAssembly.Instance(module, { env: { memory, sleep, wake, ask } });
      const address = wide ? BigInt : Number;
      exports.__stack_pointer.value = address(stack);
      run = (job) => {
        exports.run(address(job), thread);
        if (thread === 0) port.postMessage({ is: "done" });
      };
      runAlone = ({ hash, copies = [], job }) => {
        const all = new Uint8Array(memory.buffer);
        if (hash) return sha256(all.subarray(hash.begin, hash.end));
        for (const { from, into, bytes } of copies) all.copyWithin(into, from, from + bytes);
        if (job !== undefined) exports.run(address(job), 0);
      };
      port.postMessage({ is: "ready" });
    } else if (job === undefined) {
      port.postMessage({ is: "ready" });
    } else {
      run(job);
    }
  } catch (error) {
    port.postMessage({ is: "failed", message: String(error.message ?? error) });
  }
});`;
/** The worker's end of the line where workers are those of Node. */
const NODE_PORT = `import { parentPort as port } from "node:worker_threads";
const listen = (receive) => port.on("message", receive);
const sha256 = async (bytes) => {
  const { createHash } = await import("node:crypto"); // takes shared memory, unlike the web's
  return new Uint8Array(createHash("sha256").update(bytes).digest());
};`;
/** The same where they are those of the web. */
const WEB_PORT = `const port = globalThis;
const listen = (receive) => port.onmessage = ({ data }) => receive(data);
const sha256 = async (bytes) =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", bytes.slice()));`;

/** Not written into the import, so that bundlers for browsers leave it alone. */
const NODE_WORKERS = "node:worker_threads";

/** What is used of a worker of `node:worker_threads`. */
interface NodeWorker {
  postMessage(message: unknown): void;
  on(event: string, listener: (value: never) => void): void;
  ref(): void;
  unref(): void;
  terminate(): unknown;
}

/** Workers that wait for a memory. */
export class WorkerTeam {
  readonly #threads: Thread[];

  private constructor(threads: Thread[]) {
    this.#threads = threads;
  }

  /**
   * Starts workers.
   *
   * @param count How many.
   * @returns The workers, which do not keep a process alive.
   * @throws {Error} If this runtime starts none.
   */
  static async start(count: number): Promise<WorkerTeam> {
    const startThread = await threadStarter();
    const team = new WorkerTeam(Array.from({ length: count }, startThread));
    try {
      await team.#ask({});
    } catch (error) {
      team.close();
      throw error;
    }
    return team;
  }

  /** How many there are. */
  get count(): number {
    return this.#threads.length;
  }

  /**
   * Gives the workers their memory.
   *
   * @param build A build with threads.
   * @param memory A shared memory.
   * @param plan Its size, and addresses of the first stack and of the team's state.
   * @returns What runs jobs.
   * @throws {Error} If a worker can not instantiate the build.
   */
  async join(
    build: EngineBuild,
    memory: WebAssembly.Memory,
    plan: { pages: number; stacks: number; team: number },
  ): Promise<EngineRunner> {
    const [module, wide] = [threadsModule(build, plan.pages), isWide(build)];
    await this.#ask({ module, memory, wide }, (thread) => ({
      thread,
      stack: plan.stacks + (thread + 1) * STACK_BYTES, // stacks grow down
    }));
    return new TeamRunner(this, this.#threads, memory, plan.team);
  }

  /** Ends the workers. */
  close(): void {
    for (const thread of this.#threads) thread.end();
  }

  /** Says something to all and waits until each is ready. */
  async #ask(message: object, ofThread: (thread: number) => object = () => ({})) {
    await Promise.all(this.#threads.map((thread, index) =>
      new Promise<void>((resolve, reject) => {
        thread.listen(
          ({ is, message }) => is === "ready" ? resolve() : reject(new Error(message)),
          reject,
        );
        thread.hold(true);
        thread.post({ ...message, ...ofThread(index) });
      }).finally(() => thread.hold(false))
    ));
  }
}

/** Runs jobs on a team. */
class TeamRunner implements EngineRunner {
  readonly memory: WebAssembly.Memory;
  readonly lanes: readonly Lane[];
  readonly #team: WorkerTeam;
  readonly #threads: Thread[];
  readonly #failed: Int32Array;
  #failure: Error | undefined;
  #answer: (() => Promise<void>) | undefined;
  #job: { resolve(): void; reject(error: Error): void } | undefined;
  /** What each thread does by itself. */
  readonly #alone = new Map<
    Thread,
    { resolve(hash: Uint8Array | undefined): void; reject(error: Error): void }
  >();

  constructor(team: WorkerTeam, threads: Thread[], memory: WebAssembly.Memory, state: number) {
    this.memory = memory;
    this.#team = team;
    this.#threads = threads;
    this.#failed = new Int32Array(memory.buffer, state + FAILED_OFFSET, 1);
    for (const thread of threads) {
      thread.listen(({ is, message, hash }) => {
        if (is === "failed") this.#fail(new Error(message));
        else if (is === "ask") this.#answer!().catch((error) => this.#fail(error));
        else if (is === "alone") this.#alone.get(thread)?.resolve(hash);
        else this.#job?.resolve();
      }, (error) => this.#fail(error));
    }
    this.lanes = threads.map((thread) => ({
      run: async (copies, job) => void await this.#runAlone(thread, { copies, job }),
      sha256: async ({ byteOffset: begin, length }) =>
        (await this.#runAlone(thread, { hash: { begin, end: begin + length } }))!,
    }));
  }

  async run(job: number): Promise<void> {
    if (this.#failure) throw this.#failure;
    const first = this.#threads[0]!;
    first.hold(true);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#job = { resolve, reject };
        for (const thread of this.#threads) thread.post({ job });
      });
    } finally {
      this.#job = undefined;
      first.hold(false);
    }
  }

  async #runAlone(thread: Thread, alone: unknown): Promise<Uint8Array | undefined> {
    if (this.#failure) throw this.#failure;
    thread.hold(true);
    try {
      return await new Promise((resolve, reject) => {
        this.#alone.set(thread, { resolve, reject });
        thread.post({ alone });
      });
    } finally {
      this.#alone.delete(thread);
      thread.hold(false);
    }
  }

  onAsk(answer: () => Promise<void>): void {
    this.#answer = answer;
  }

  close(): void {
    this.#fail(new Error("the workers have been ended"));
  }

  /** One thread is lost: the others wait at a barrier for it, until they see the word. */
  #fail(error: Error) {
    if (this.#failure) return;
    this.#failure = error;
    this.#job?.reject(error);
    for (const { reject } of this.#alone.values()) reject(error);
    Atomics.store(this.#failed, 0, 1);
    this.#team.close();
  }
}

/** How this runtime starts a thread: Deno, Node and Bun as Node does, browsers as the web does. */
async function threadStarter(): Promise<() => Thread> {
  let node: { Worker?: new (url: URL) => NodeWorker } | undefined;
  try {
    node = await import(NODE_WORKERS);
  } catch {
    // No Node here.
  }
  const { Worker: NodeWorker } = node ?? {};
  if (NodeWorker) return () => nodeThread(new NodeWorker(dataUrl(NODE_PORT)));
  if (typeof Worker === "undefined") throw new Error("this runtime has no workers");
  return () => webThread(new Worker(dataUrl(WEB_PORT), { type: "module" }));
}

function dataUrl(port: string): URL {
  return new URL(`data:text/javascript,${encodeURIComponent(port + WORKER)}`);
}

function nodeThread(worker: NodeWorker): Thread {
  let onMessage: (message: ThreadMessage) => void;
  let onEnd: (error: Error) => void;
  worker.on("message", (message: ThreadMessage) => onMessage(message));
  worker.on("error", (error: Error) => onEnd(error));
  worker.on("exit", (code: number) => onEnd(new Error(`a worker exited with code ${code}`)));
  return {
    post: (message) => worker.postMessage(message),
    listen: (message, end) => [onMessage, onEnd] = [message, end],
    hold: (held) => held ? worker.ref() : worker.unref(),
    end: () => void worker.terminate(),
  };
}

function webThread(worker: Worker): Thread {
  return {
    post: (message) => worker.postMessage(message),
    listen(onMessage, onEnd) {
      worker.onmessage = ({ data }) => onMessage(data);
      worker.onerror = (event) => {
        event.preventDefault?.();
        onEnd(new Error(event.message || "a worker could not be started"));
      };
      worker.onmessageerror = () => onEnd(new Error("a worker could not read a message"));
    },
    hold() {}, // a page stays as long as its user wants
    end: () => worker.terminate(),
  };
}
