/**
 * Which rank this process is: what launchers say in the environment.
 * @module
 */
import { InvalidArgumentError } from "../../errors.ts";

/** A process among the ranks of a model. */
export interface RankPlace {
  /** Its number, from 0. */
  rank: number;
  /** How many there are. */
  ranks: number;
  /** How many of them are on its machine, as far as the launcher says. */
  local: number;
  /** How they talk: over TCP, or by MPI's library. */
  transport: "sockets" | "mpi";
  /** For sockets: where rank 0 listens. */
  address: string;
  /** For sockets: its port. */
  port: number;
}

/** A secret that ranks over TCP must share; none by default, as with other launchers' ranks. */
export const KEY_VARIABLE = "HYBRIDSEEK_RANKS_KEY";
/** How long a rank waits for another inside a step, milliseconds. */
export const TIMEOUT_VARIABLE = "HYBRIDSEEK_RANKS_TIMEOUT";
/** The path of MPI's library. */
export const MPI_VARIABLE = "HYBRIDSEEK_MPI";
/** The path of NCCL's library: tensors then go through it. */
export const NCCL_VARIABLE = "HYBRIDSEEK_NCCL";

/** Port of rank 0 where Slurm's ranks meet: one of these, by the job's number. */
const SLURM_PORTS = { first: 20_000, count: 10_000 };

/** The environment's variables. */
export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads what a launcher says: torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), else those of
 * Open MPI's mpirun, else those of Slurm's srun.
 *
 * @param env The environment.
 * @returns The place; `undefined` if no launcher has started this process.
 * @throws {InvalidArgumentError} If a variable is no number in its range.
 */
export function rankPlace(env: Environment): RankPlace | undefined {
  const number = (name: string, least: number, most: number): number => {
    const value = Number(env[name]);
    if (env[name]?.trim() && Number.isInteger(value) && value >= least && value <= most) {
      return value;
    }
    throw new InvalidArgumentError(
      name,
      `Cannot join the ranks: the environment's ${name} is ${
        JSON.stringify(env[name] ?? "")
      }, it must be ` +
        `${least} to ${most}.`,
    );
  };
  const optional = (name: string, otherwise: number, most: number): number =>
    env[name] === undefined ? otherwise : number(name, 1, most);
  const most = 2 ** 16 - 1;
  if (env.RANK !== undefined && env.WORLD_SIZE !== undefined) {
    const ranks = number("WORLD_SIZE", 1, most);
    const rank = number("RANK", 0, ranks - 1);
    return {
      ...{ rank, ranks, local: optional("LOCAL_WORLD_SIZE", ranks, ranks), transport: "sockets" },
      ...{ address: env.MASTER_ADDR ?? "127.0.0.1", port: number("MASTER_PORT", 1, most) },
    };
  }
  if (env.OMPI_COMM_WORLD_SIZE !== undefined) {
    const ranks = number("OMPI_COMM_WORLD_SIZE", 1, most);
    const rank = number("OMPI_COMM_WORLD_RANK", 0, ranks - 1);
    const local = optional("OMPI_COMM_WORLD_LOCAL_SIZE", ranks, ranks);
    return { rank, ranks, local, transport: "mpi", address: "", port: 0 };
  }
  if (env.SLURM_PROCID !== undefined && env.SLURM_STEP_NODELIST !== undefined) {
    const ranks = number("SLURM_NTASKS", 1, most);
    const rank = number("SLURM_PROCID", 0, ranks - 1);
    const nodes = optional("SLURM_STEP_NUM_NODES", 1, ranks);
    const port = env.MASTER_PORT === undefined
      ? SLURM_PORTS.first + number("SLURM_JOB_ID", 0, 2 ** 53) % SLURM_PORTS.count
      : number("MASTER_PORT", 1, most);
    return {
      ...{ rank, ranks, local: Math.ceil(ranks / nodes), transport: "sockets" },
      ...{ address: env.MASTER_ADDR ?? firstNode(env.SLURM_STEP_NODELIST), port },
    };
  }
  return undefined;
}

/** The first of Slurm's list of nodes: `a[07-12,20],b` is a07, ... */
function firstNode(list: string): string {
  const [, name, number = ""] = /^([^,[]*)(?:\[([^\],-]+))?/.exec(list) ?? [];
  return `${name ?? list}${number}`;
}
