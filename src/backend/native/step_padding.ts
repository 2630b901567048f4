/**
 * Steps whose shapes come back: what is prepared for a shape (CUDA graphs, choices of matrix products, memory)
 * is of use again. Pure.
 * @module
 */
import type { StepPlan } from "../step_plan.ts";

/** A step, and the shape that it has. */
export interface PaddedStep extends StepPlan {
  /** The same number for the same sizes, from 0; −1 where the sizes are the step's own. */
  shape: number;
}

/** Most sizes of a block table in {@linkcode PaddedStep.shape}, powers of two. */
const WIDTHS = 32;

/**
 * Brings a step that decodes, one token of each sequence, to a power of two of sequences, and its block tables
 * to a power of two of columns. Steps with prompts stay as they are: to compute up to twice their tokens would
 * cost more than their shape gains.
 *
 * What is added repeats the sequence with the shortest context, but writes its row to block 0: so it chooses
 * the experts that this sequence has chosen, and no others are read for it. Its rows are behind the step's own;
 * rows of logits are as many as sequences.
 *
 * @param step The step.
 * @param blockSize P; block 0 is scratch.
 * @returns The step, padded.
 */
export function padStep(step: StepPlan, blockSize: number): PaddedStep {
  const { tokenIds, positions, slots, queryStarts, contextLengths, blockTables, logitRows } = step;
  const sequences = contextLengths.length;
  if (!queryStarts.every((start, i) => start === i)) return { ...step, shape: -1 };
  const width = blockTables.length / sequences;
  const [tokens, columns] = [powerOfTwo(sequences), powerOfTwo(width)];
  if (logitRows.length > tokens) return { ...step, shape: -1 };
  const shortest = contextLengths.indexOf(Math.min(...contextLengths));
  const padded = (values: Int32Array, length: number, otherwise: (i: number) => number) =>
    Int32Array.from({ length }, (_, i) => values[i] ?? otherwise(i));
  const tables = new Int32Array(tokens * columns);
  for (let b = 0; b < tokens; b++) {
    const from = width * (b < sequences ? b : shortest);
    tables.set(blockTables.subarray(from, from + width), b * columns);
  }
  return {
    tokenIds: padded(tokenIds, tokens, () => tokenIds[shortest]!),
    positions: padded(positions, tokens, () => positions[shortest]!),
    slots: padded(slots, tokens, (i) => i % blockSize),
    queryStarts: Int32Array.from({ length: tokens + 1 }, (_, i) => i),
    contextLengths: padded(contextLengths, tokens, () => contextLengths[shortest]!),
    blockTables: tables,
    logitRows: padded(logitRows, tokens, () => 0),
    shape: Math.log2(tokens) * WIDTHS + Math.log2(columns),
  };
}

function powerOfTwo(least: number): number {
  return 2 ** Math.ceil(Math.log2(least));
}
