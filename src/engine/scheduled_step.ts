/**
 * A step as the scheduler puts it together: whose tokens it holds, and the arrays that a backend takes.
 * @module
 */
import type { BlockCopies } from "../backend/backend.ts";
import type { StepPlan } from "../backend/step_plan.ts";
import type { ScheduledRequest, Sequence } from "./sequence.ts";

/** A sequence's part of a step. */
export interface StepPart<R extends ScheduledRequest> {
  /** The sequence. */
  sequence: Sequence<R>;
  /** Position of its first token in the step. */
  begin: number;
  /** How many of its tokens. */
  count: number;
  /** Guesses of the tokens behind them, computed as well; only if `count` reaches the last known token. */
  drafts: readonly number[];
  /** Positions whose logits are wanted, rising; the drafts' are all wanted. */
  wanted: number[];
  /** Row of the step's logits that the first of them is. */
  firstRow: number;
}

/** A step to be run. */
export interface ScheduledStep<R extends ScheduledRequest> {
  /** Blocks to copy before, in order. */
  copies: BlockCopies;
  /** The step. */
  plan: StepPlan;
  /** Whose tokens it holds, in order. */
  parts: StepPart<R>[];
}

/**
 * Numbers the rows of the parts' logits and makes the arrays.
 *
 * @param parts Whose tokens; each sequence has the blocks for them. Their `firstRow` is set.
 * @param blockSize Tokens of a block.
 * @returns The step plan.
 */
export function planOf<R extends ScheduledRequest>(
  parts: readonly StepPart<R>[],
  blockSize: number,
): StepPlan {
  const lengthOf = ({ count, drafts }: StepPart<R>) => count + drafts.length;
  const tokens = parts.reduce((sum, part) => sum + lengthOf(part), 0);
  const width = Math.max(...parts.map(({ sequence }) => sequence.blocks.length));
  const plan: StepPlan = {
    tokenIds: new Int32Array(tokens),
    positions: new Int32Array(tokens),
    slots: new Int32Array(tokens),
    queryStarts: new Int32Array(parts.length + 1),
    contextLengths: Int32Array.from(parts, (part) => part.begin + lengthOf(part)),
    blockTables: new Int32Array(parts.length * width),
    logitRows: new Int32Array(parts.reduce((sum, { wanted }) => sum + wanted.length, 0)),
  };
  let token = 0;
  let row = 0;
  for (const [b, part] of parts.entries()) {
    const { sequence: { tokenIds, blocks }, begin, count, drafts, wanted } = part;
    part.firstRow = row;
    for (const position of wanted) plan.logitRows[row++] = token + position - begin;
    const end = begin + count + drafts.length;
    for (let position = begin; position < end; position++, token++) {
      const drafted = position - begin - count;
      plan.tokenIds[token] = drafted < 0 ? tokenIds[position]! : drafts[drafted]!;
      plan.positions[token] = position;
      plan.slots[token] = blocks[Math.floor(position / blockSize)]! * blockSize +
        position % blockSize;
    }
    plan.queryStarts[b + 1] = token;
    plan.blockTables.set(blocks.slice(0, Math.ceil(end / blockSize)), b * width);
  }
  return plan;
}
