/**
 * Where ranks are, by what launchers say; how a step is divided among them.
 */
import { strict as assert } from "node:assert";
import fc from "fast-check";
import {
  arraysOf,
  divideStep,
  packArrays,
  partOf,
  unpackArrays,
} from "../../src/backend/native/rank_plan.ts";
import { rankPlace } from "../../src/backend/native/rank_place.ts";
import { checkStepPlan, type StepLimits, type StepPlan } from "../../src/backend/step_plan.ts";
import { InvalidArgumentError } from "../../src/errors.ts";

Deno.test("a rank's place is what torchrun, mpirun or srun say, in this order", () => {
  assert.equal(rankPlace({ PATH: "/bin", SLURM_NTASKS: "4" }), undefined); // salloc, no srun
  const torch = { RANK: "3", WORLD_SIZE: "8", MASTER_ADDR: "a", MASTER_PORT: "29500" };
  const place = { rank: 3, ranks: 8, local: 8, transport: "sockets", address: "a", port: 29500 };
  assert.deepEqual(rankPlace(torch), place);
  assert.deepEqual(rankPlace({ ...torch, LOCAL_WORLD_SIZE: "4" }), { ...place, local: 4 });
  const openMpi = {
    ...{ OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_SIZE: "2" },
  };
  const mpi = { rank: 1, ranks: 4, local: 2, transport: "mpi", address: "", port: 0 };
  assert.deepEqual(rankPlace(openMpi), mpi);
  assert.deepEqual(rankPlace({ ...openMpi, ...torch }), place);
  const slurm = {
    ...{ SLURM_PROCID: "5", SLURM_NTASKS: "8", SLURM_STEP_NUM_NODES: "2" },
    ...{ SLURM_STEP_NODELIST: "gpu[07-08]", SLURM_JOB_ID: "123456" },
  };
  const node = { rank: 5, ranks: 8, local: 4, transport: "sockets", address: "gpu07", port: 23456 };
  assert.deepEqual(rankPlace(slurm), node);
  const named = { SLURM_STEP_NODELIST: "login,gpu[1-3]", MASTER_PORT: "5" };
  assert.deepEqual(rankPlace({ ...slurm, ...named }), { ...node, address: "login", port: 5 });
});

Deno.test("variables that are no numbers in their range are refused by name", () => {
  const refused = (env: Record<string, string>, name: string) =>
    assert.throws(
      () => rankPlace(env),
      (error: Error) => error instanceof InvalidArgumentError && error.field === name,
    );
  const torch = { RANK: "0", WORLD_SIZE: "2", MASTER_PORT: "29500" };
  refused({ ...torch, RANK: "2" }, "RANK");
  refused({ ...torch, RANK: "" }, "RANK");
  refused({ ...torch, WORLD_SIZE: "many" }, "WORLD_SIZE");
  refused({ ...torch, MASTER_PORT: "0" }, "MASTER_PORT");
  refused({ RANK: "0", WORLD_SIZE: "2" }, "MASTER_PORT");
  refused({ OMPI_COMM_WORLD_SIZE: "2" }, "OMPI_COMM_WORLD_RANK");
});

const BLOCK_SIZE = 4;
const PER_POOL = 64;
const POOLS = 3;
const limits: StepLimits = {
  ...{ tokens: 512, sequences: 64, logitRows: 256, contextLength: 64 },
  ...{ blocks: POOLS * PER_POOL, blockSize: BLOCK_SIZE, pools: POOLS },
};

const sequences = fc.array(
  fc.record({
    pool: fc.nat(POOLS - 1),
    past: fc.nat(20),
    tokens: fc.integer({ min: 1, max: 9 }),
    wanted: fc.array(fc.nat(8), { maxLength: 3 }),
  }),
  { minLength: 1, maxLength: 12 },
);

/** A step whose tokens are numbered: a token says which one it is. */
function stepOf(drawn: typeof sequences extends fc.Arbitrary<infer T> ? T : never): StepPlan {
  const width = 1 +
    Math.max(...drawn.map(({ past, tokens }) => Math.ceil((past + tokens) / BLOCK_SIZE)));
  const next = Array.from({ length: POOLS }, (_, pool) => pool * PER_POOL + 1);
  const [tokenIds, positions, slots, starts, rows, tables]: number[][] = [[], [], [], [0], [], []];
  for (const { pool, past, tokens, wanted } of drawn) {
    const blocks = Array.from(
      { length: Math.ceil((past + tokens) / BLOCK_SIZE) },
      () => next[pool]!++,
    );
    for (let i = 0; i < tokens; i++) {
      if (wanted.includes(i)) rows!.push(tokenIds!.length);
      tokenIds!.push(tokenIds!.length);
      positions!.push(past + i);
      const block = blocks[Math.floor((past + i) / BLOCK_SIZE)]!;
      slots!.push(block * BLOCK_SIZE + (past + i) % BLOCK_SIZE);
    }
    starts!.push(tokenIds!.length);
    tables!.push(...blocks, ...Array(width - blocks.length).fill(0));
  }
  return {
    ...{ tokenIds: Int32Array.from(tokenIds!), positions: Int32Array.from(positions!) },
    ...{ slots: Int32Array.from(slots!), queryStarts: Int32Array.from(starts!) },
    contextLengths: Int32Array.from(drawn, ({ past, tokens }) => past + tokens),
    ...{ blockTables: Int32Array.from(tables!), logitRows: Int32Array.from(rows!) },
  };
}

Deno.test("each rank gets its own sequences, and results find their way back", () => {
  fc.assert(fc.property(sequences, (drawn) => {
    const step = stepOf(drawn);
    const { parts, rowOrder, tokenOrder } = divideStep(step, limits);
    assert.equal(parts.length, POOLS);
    const own = { ...limits, blocks: PER_POOL, pools: 1 };
    const tokens: number[] = [];
    const rows: number[] = [];
    for (const [rank, part] of parts.entries()) {
      checkStepPlan(part, own, 1 << 20);
      const idle = !drawn.some(({ pool }) => pool === rank);
      assert.equal(part.tokenIds.length, part.rankTokens[rank]);
      assert.equal(part.logitRows.length, part.rankRows[rank]);
      tokens.push(...(idle ? [-1] : part.tokenIds));
      rows.push(...Array.from(part.logitRows, (row) => part.tokenIds[row]!));
      for (const [i, slot] of part.slots.entries()) {
        if (idle) assert.equal(slot, 0);
        else assert.equal(slot + rank * PER_POOL * BLOCK_SIZE, step.slots[part.tokenIds[i]!]);
      }
      assert.deepEqual(partOf(unpackArrays(packArrays(arraysOf(part)))), part);
    }
    // Tokens are numbered, so the order shows which is where.
    assert.deepEqual(Array.from(tokenOrder, (place) => tokens[place]), [...step.tokenIds]);
    assert.deepEqual(Array.from(rowOrder, (place) => rows[place]), [...step.logitRows]);
  }));
});
