/**
 * What rank 0 tells the others: commands as int32 arrays, and with data-parallel attention each rank's part of a
 * step.
 * @module
 */
import type { StepLimits, StepPlan } from "../step_plan.ts";

/** A rank's part of a step. Both arrays are empty where all ranks compute the whole step. */
export interface RankStepPlan extends StepPlan {
  /** [ranks] tokens that each rank computes. */
  rankTokens: Int32Array;
  /** [ranks] rows whose logits are wanted of each rank. */
  rankRows: Int32Array;
}

/** A step, divided. */
export interface DividedStep {
  /** One for each rank. A rank without sequences computes a token on its scratch block. */
  parts: RankStepPlan[];
  /** Where the logits of each wanted row of the whole step are, in the ranks' rows one after the other. */
  rowOrder: Int32Array;
  /** The same of each token. */
  tokenOrder: Int32Array;
}

/**
 * Divides a step among ranks, by the pools of its sequences' blocks.
 *
 * @param plan The step.
 * @param limits Of the whole; the pools are the ranks.
 * @returns The parts, whose blocks are numbered within their pools.
 */
export function divideStep(
  plan: StepPlan,
  { blocks, blockSize, pools = 1 }: StepLimits,
): DividedStep {
  const perPool = blocks / pools;
  const sequences = plan.contextLengths.length;
  const width = plan.blockTables.length / sequences;
  const rankOf = (sequence: number) => Math.floor(plan.blockTables[sequence * width]! / perPool);
  const members = Array.from({ length: pools }, (): number[] => []);
  for (let sequence = 0; sequence < sequences; sequence++) {
    members[rankOf(sequence)]!.push(sequence);
  }
  const place = new Int32Array(plan.tokenIds.length); // of each token in its rank's part
  const rankOfToken = new Int32Array(plan.tokenIds.length);
  const drafts = members.map((own, rank): StepPlan => {
    if (own.length === 0) return idleStep();
    const tokens: number[] = [];
    const starts = [0];
    for (const sequence of own) {
      for (let t = plan.queryStarts[sequence]!; t < plan.queryStarts[sequence + 1]!; t++) {
        place[t] = tokens.length;
        rankOfToken[t] = rank;
        tokens.push(t);
      }
      starts.push(tokens.length);
    }
    const first = rank * perPool;
    const tables = own.flatMap((sequence) => {
      const used = Math.ceil(plan.contextLengths[sequence]! / blockSize);
      const row = plan.blockTables.subarray(sequence * width, (sequence + 1) * width);
      return Array.from(row, (block, i) => i < used ? block - first : 0);
    });
    return {
      tokenIds: Int32Array.from(tokens, (t) => plan.tokenIds[t]!),
      positions: Int32Array.from(tokens, (t) => plan.positions[t]!),
      slots: Int32Array.from(tokens, (t) => plan.slots[t]! - first * blockSize),
      queryStarts: Int32Array.from(starts),
      contextLengths: Int32Array.from(own, (sequence) => plan.contextLengths[sequence]!),
      blockTables: Int32Array.from(tables),
      logitRows: new Int32Array(0),
    };
  });
  const rows = Array.from({ length: pools }, (): number[] => []);
  const rowPlaces = Array.from(plan.logitRows, (t) => {
    const rank = rankOfToken[t]!;
    return [rank, rows[rank]!.push(place[t]!) - 1] as const;
  });
  const rankTokens = Int32Array.from(drafts, ({ tokenIds }) => tokenIds.length);
  const rankRows = Int32Array.from(rows, ({ length }) => length);
  const before = (counts: Int32Array) => counts.map((_, i) => counts.subarray(0, i).reduce(add, 0));
  const [tokensBefore, rowsBefore] = [before(rankTokens), before(rankRows)];
  return {
    parts: drafts.map((part, rank) => ({
      ...part,
      logitRows: Int32Array.from(rows[rank]!),
      rankTokens,
      rankRows,
    })),
    rowOrder: Int32Array.from(rowPlaces, ([rank, row]) => rowsBefore[rank]! + row),
    tokenOrder: place.map((own, t) => tokensBefore[rankOfToken[t]!]! + own),
  };
}

/** A token on the scratch block, for a rank that has nothing to do but takes part in what all do. */
function idleStep(): StepPlan {
  return {
    tokenIds: new Int32Array(1),
    positions: new Int32Array(1),
    slots: new Int32Array(1),
    queryStarts: Int32Array.of(0, 1),
    contextLengths: Int32Array.of(1),
    blockTables: new Int32Array(1),
    logitRows: new Int32Array(0),
  };
}

const add = (sum: number, value: number) => sum + value;

/** The arrays of a part, in the order in which they are sent. */
export function arraysOf(part: RankStepPlan): Int32Array[] {
  const { tokenIds, positions, slots, queryStarts, contextLengths, blockTables, logitRows } = part;
  return [
    ...[tokenIds, positions, slots, queryStarts, contextLengths, blockTables, logitRows],
    ...[part.rankTokens, part.rankRows],
  ];
}

/** Arrays that a part is sent as. */
export const PART_ARRAYS = 9;

/** A part of its arrays. @param arrays They, see {@linkcode arraysOf}. @returns The part. */
export function partOf(arrays: Int32Array[]): RankStepPlan {
  const [
    tokenIds,
    positions,
    slots,
    queryStarts,
    contextLengths,
    blockTables,
    logitRows,
    ...counts
  ] = arrays as [
    Int32Array,
    Int32Array,
    Int32Array,
    Int32Array,
    Int32Array,
    Int32Array,
    Int32Array,
  ];
  const [rankTokens, rankRows] = counts as unknown as [Int32Array, Int32Array];
  return {
    ...{ tokenIds, positions, slots, queryStarts, contextLengths, blockTables, logitRows },
    ...{ rankTokens, rankRows },
  };
}

/** Arrays as bytes: each with its length before it. @param arrays They. @returns The bytes. */
export function packArrays(arrays: readonly Int32Array[]): Uint8Array {
  const packed = new Int32Array(arrays.reduce((sum, { length }) => sum + 1 + length, 0));
  let at = 0;
  for (const array of arrays) {
    packed[at] = array.length;
    packed.set(array, at + 1);
    at += 1 + array.length;
  }
  return new Uint8Array(packed.buffer);
}

/** What {@linkcode packArrays} packed. @param bytes They, owned by the caller. @returns The arrays. */
export function unpackArrays(bytes: Uint8Array): Int32Array[] {
  const packed = new Int32Array(bytes.slice().buffer);
  const arrays: Int32Array[] = [];
  for (let at = 0; at < packed.length; at += 1 + packed[at]!) {
    arrays.push(packed.subarray(at + 1, at + 1 + packed[at]!));
  }
  return arrays;
}
