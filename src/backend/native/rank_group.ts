/**
 * The processes that compute one model together: how this one joins them, and how rank 0 starts them where no
 * launcher has.
 * @module
 */
import { BackendError, InvalidArgumentError, UnsupportedError } from "../../errors.ts";
import type { Addon, NativeRanks } from "./addon.ts";
import {
  type Environment,
  KEY_VARIABLE,
  MPI_VARIABLE,
  type RankPlace,
  rankPlace,
  TIMEOUT_VARIABLE,
} from "./rank_place.ts";

/** How long a rank waits for another inside a step unless told otherwise, milliseconds. */
const TIMEOUT_MS = 60_000;
/** How long a process may take to end once it is told, and after a failure, milliseconds. */
const ENDING_MS = 10_000;
const FAILING_MS = 2_000;
/** Open MPI's library as Debian names it; other versions are named by HYBRIDSEEK_MPI. */
const MPI_LIBRARY = "libmpi.so.40";

/** A process that this one has started. */
interface Child {
  readonly exitCode: number | null;
  readonly signalCode: string | null;
  once(event: "exit", listener: () => void): void;
  kill(signal: "SIGKILL"): boolean;
  unref(): void;
}

/** The ranks, as one of them sees them. */
export class RankGroup {
  /** Number of this process. */
  readonly rank: number;
  /** How many there are. */
  readonly ranks: number;
  /** How many are on this machine. */
  readonly local: number;
  /** How they talk, for people. */
  transport: string;
  readonly #addon: Addon;
  readonly #children: readonly Child[];
  #native: NativeRanks;
  #failed = false;

  private constructor(
    addon: Addon,
    native: NativeRanks,
    { transport, local }: RankPlace,
    children: Child[],
  ) {
    [this.rank, this.ranks] = addon.placeOf(native);
    this.local = local;
    this.transport = transport;
    this.#addon = addon;
    this.#native = native;
    this.#children = children;
  }

  /**
   * Joins the ranks that a launcher has started; without one, starts the others on this machine.
   *
   * @param addon The native library.
   * @param ranks How many are wanted; `undefined`: as many as there are.
   * @returns The group; all have come.
   * @throws {InvalidArgumentError} If there are others than wanted, or the environment contradicts itself.
   * @throws {UnsupportedError} If processes can not be started here.
   * @throws {BackendError} If not all come.
   */
  static async join(addon: Addon, ranks?: number): Promise<RankGroup> {
    const env = await environment();
    let place = rankPlace(env);
    let key = env[KEY_VARIABLE] ?? "";
    const children: Child[] = [];
    if (place && ranks !== undefined && place.ranks !== ranks) {
      throw new InvalidArgumentError(
        "tensorParallel",
        `Cannot open the model: tensorParallel is ${ranks}, the launcher has started ${place.ranks} ranks.`,
      );
    }
    if (!place) {
      if (ranks === undefined) {
        throw new UnsupportedError(
          "Cannot join the ranks: no launcher has started this process; set RANK, WORLD_SIZE, MASTER_ADDR and " +
            "MASTER_PORT, or use mpirun or srun.",
        );
      }
      place = {
        ...{ rank: 0, ranks, local: ranks, transport: "sockets", address: "127.0.0.1" },
        port: await freePort(),
      };
      key = hex(crypto.getRandomValues(new Uint8Array(16)));
      for (let rank = 1; rank < ranks; rank++) {
        children.push(await startRank({ ...place, rank }, key));
      }
    }
    const timeout = timeoutOf(env);
    try {
      const { transport, address, port, rank } = place;
      const native = transport === "mpi"
        ? await addon.joinMpi(env[MPI_VARIABLE] || MPI_LIBRARY, timeout)
        : await addon.joinSockets(address, port, key, [rank, place.ranks, timeout]);
      return new RankGroup(addon, native, place, children);
    } catch (cause) {
      for (const child of children) child.kill("SIGKILL");
      throw failed("join the ranks", cause);
    }
  }

  /** What the graph's nodes call the group. */
  get communicator(): number {
    return this.#addon.placeOf(this.#native)[2];
  }

  /** From now on NCCL carries tensors. All ranks call it. @param library Its path. */
  async useNccl(library: string): Promise<void> {
    try {
      this.#native = await this.#addon.joinNccl(this.#native, library);
      this.transport += " and nccl";
    } catch (cause) {
      throw failed("join the ranks", cause);
    }
  }

  /** Gives all ranks what rank 0 gives. @param bytes On rank 0. @returns Them, on every rank. */
  async broadcast(bytes: Uint8Array = new Uint8Array(0)): Promise<Uint8Array> {
    return await this.#addon.broadcast(this.#native, bytes);
  }

  /** Collects what ranks give. @param bytes Of this one. @returns Of all, on rank 0. */
  async gather(bytes: Uint8Array): Promise<Uint8Array[]> {
    return await this.#addon.gather(this.#native, bytes);
  }

  /** Tells the others why this rank fails. @param reason For their messages. */
  abort(reason: string): void {
    this.#failed = true;
    this.#addon.abortRanks(this.#native, reason);
  }

  /** Leaves, and waits for the processes that this one has started. */
  async leave(): Promise<void> {
    this.#addon.leaveRanks(this.#native);
    const most = this.#failed ? FAILING_MS : ENDING_MS;
    await Promise.all(this.#children.map((child) => ended(child, most)));
  }
}

/** An error of something that ranks do together. */
export function failed(what: string, cause: unknown): BackendError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new BackendError(
    "backend_failed",
    `Cannot ${what}: ${message.replace(/\.$/, "")}; start all ranks anew.`,
    { cause },
  );
}

/** This process' environment. @returns Its variables. */
export async function environment(): Promise<Environment> {
  const { default: process } = await load("process");
  return process.env;
}

// Not written into imports: bundlers for browsers leave Node's modules alone.
const load = async (name: string) => await import(`node:${name}`);

function timeoutOf(env: Environment): number {
  const text = env[TIMEOUT_VARIABLE];
  if (!text) return TIMEOUT_MS;
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value < 2 ** 31) return value;
  throw new InvalidArgumentError(
    TIMEOUT_VARIABLE,
    `Cannot join the ranks: the environment's ${TIMEOUT_VARIABLE} is ${
      JSON.stringify(text)
    }, it must be ` +
      "milliseconds, at least 1.",
  );
}

/** A port that nobody listens at. */
async function freePort(): Promise<number> {
  const { createServer } = await load("net");
  return await new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts a rank on this machine: the runtime that runs this process, with `rank_process.ts`. */
async function startRank({ rank, ranks, address, port }: RankPlace, key: string): Promise<Child> {
  const [{ spawn }, { default: process }, { fileURLToPath }] = await Promise.all(
    ["child_process", "process", "url"].map(load),
  );
  const extension = /\.[a-z]+$/.exec(import.meta.url)?.[0] ?? ".js";
  const script = new URL(`./rank_process${extension}`, import.meta.url);
  const file = script.protocol === "file:" ? fileURLToPath(script.href) : script.href;
  const args = "Deno" in globalThis
    ? ["run", "--quiet", "--allow-read", "--allow-env", "--allow-ffi", "--allow-sys", file]
    : [...process.execArgv, file];
  const env = {
    ...process.env,
    ...{ RANK: `${rank}`, WORLD_SIZE: `${ranks}`, LOCAL_WORLD_SIZE: `${ranks}` },
    ...{ MASTER_ADDR: address, MASTER_PORT: `${port}`, [KEY_VARIABLE]: key },
  };
  try {
    const child = spawn(process.execPath, args, { env, stdio: ["ignore", "ignore", "inherit"] });
    child.on("error", () => {}); // it does not come, which is said then
    child.unref();
    return child;
  } catch (cause) {
    throw new UnsupportedError(
      `Cannot start rank ${rank}: ${(cause as Error).message}; Deno wants --allow-run.`,
      { cause },
    );
  }
}

/** Waits until a process has ended, and ends it if it does not. */
async function ended(child: Child, mostMs: number): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => child.kill("SIGKILL"), mostMs);
    child.once("exit", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
