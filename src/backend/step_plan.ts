/**
 * One step of the model: a flat, ragged batch of all running sequences. Prefill and decode are one path,
 * a sequence contributes one token or many. ARCHITECTURE.md, "The step", is the contract.
 *
 * Dimension letters: B sequences, T tokens of the step, Q rows whose logits are wanted, P tokens per
 * block, M blocks per sequence.
 * @module
 */
import { InvalidArgumentError } from "../errors.ts";

/** The inputs of a step, as every backend takes them. */
export interface StepPlan {
  /** [T] tokens, sequence after sequence. */
  tokenIds: Int32Array;
  /** [T] position of each in its sequence, for the rotary embedding. */
  positions: Int32Array;
  /** [T] where each token's cache row goes: block * P + offset; distinct but for padding. */
  slots: Int32Array;
  /** [B+1] where each sequence's tokens begin, from 0 to T. */
  queryStarts: Int32Array;
  /** [B] tokens of each sequence, this step's included. */
  contextLengths: Int32Array;
  /** [B, M] blocks of each sequence in order; entries that its context does not reach are 0. */
  blockTables: Int32Array;
  /** [Q] rows of T whose logits are wanted. */
  logitRows: Int32Array;
}

/** What a backend can take in one step, and how its cache is cut. */
export interface StepLimits {
  /** Largest T. */
  tokens: number;
  /** Largest B. */
  sequences: number;
  /** Largest Q. */
  logitRows: number;
  /** Largest context of a sequence, tokens. */
  contextLength: number;
  /** Blocks of the cache; block 0 is scratch and belongs to no sequence. */
  blocks: number;
  /** P. */
  blockSize: number;
  /**
   * How many pools of equal size the blocks are divided into, 1 by default: a sequence's blocks are all of one.
   * The first block of each is scratch.
   */
  pools?: number;
}

/** What a backend prefers; the model and the caller may ask for more or less. */
export interface StepPreferences {
  /** Tokens of a step. */
  tokens: number;
  /** Sequences of a step. */
  sequences: number;
  /** Rows of logits of a step, at most 256 by the contract. */
  logitRows: number;
  /** P. */
  blockSize: number;
  /** What the cache takes unless the caller says otherwise or a context needs more, bytes. */
  cacheBytes: number;
}

/** How large a caller wants a model to be opened. */
export interface StepSizes {
  /** Largest context of a sequence, tokens; the model's by default. */
  contextLength?: number;
  /** Tokens that the cache holds, all sequences together. */
  cacheTokens?: number;
}

/** Most contexts that a cache holds by default. */
const DEFAULT_CONTEXTS = 16;

/**
 * The limits of a backend for a model.
 *
 * @param model Positions and cache of the model.
 * @param sizes What the caller wants.
 * @param preferences What the backend prefers.
 * @returns The limits; the cache has a scratch block besides.
 */
export function stepLimits(
  model: { contextLength: number; cacheBytesPerToken: number },
  sizes: StepSizes,
  { tokens, sequences, logitRows, blockSize, cacheBytes }: StepPreferences,
): StepLimits {
  const contextLength = sizes.contextLength ?? model.contextLength;
  const affordable = Math.floor(cacheBytes / model.cacheBytesPerToken);
  const useful = Math.min(affordable, DEFAULT_CONTEXTS * contextLength);
  const cacheTokens = sizes.cacheTokens ?? Math.max(contextLength, useful);
  const blocks = 1 + Math.ceil(cacheTokens / blockSize);
  return { tokens, sequences, logitRows, contextLength, blocks, blockSize };
}

/**
 * Checks a step before a backend runs it: kernels trust their indices.
 *
 * @param plan The step.
 * @param limits The backend's.
 * @param vocabSize Token ids are below this.
 * @throws {InvalidArgumentError} If an invariant of the contract does not hold.
 */
export function checkStepPlan(plan: StepPlan, limits: StepLimits, vocabSize: number): void {
  const { tokenIds, positions, slots, queryStarts, contextLengths, blockTables, logitRows } = plan;
  const T = tokenIds.length;
  const B = contextLengths.length;
  const M = blockTables.length / B;
  check("tokenIds", T >= 1 && T <= limits.tokens, `${T} tokens, allowed are 1 to ${limits.tokens}`);
  checkRange("tokenIds", tokenIds, 0, vocabSize - 1);
  check("positions", positions.length === T, `${positions.length} for ${T} tokens`);
  checkRange("positions", positions, 0, limits.contextLength - 1);
  check("slots", slots.length === T, `${slots.length} for ${T} tokens`);
  checkRange("slots", slots, 0, limits.blocks * limits.blockSize - 1);
  check(
    "contextLengths",
    B >= 1 && B <= limits.sequences,
    `${B} sequences, allowed are 1 to ${limits.sequences}`,
  );
  check("queryStarts", queryStarts.length === B + 1, `${queryStarts.length} for ${B} sequences`);
  check("queryStarts", queryStarts[0] === 0 && queryStarts[B] === T, `they must span 0 to ${T}`);
  check("blockTables", Number.isInteger(M), `${blockTables.length} entries for ${B} sequences`);
  checkRange("blockTables", blockTables, 0, limits.blocks - 1);
  for (let b = 0; b < B; b++) {
    const count = queryStarts[b + 1]! - queryStarts[b]!;
    const context = contextLengths[b]!;
    check("queryStarts", count >= 0, `sequence ${b} has ${count} tokens`);
    check(
      "contextLengths",
      context >= Math.max(count, 1) &&
        context <= Math.min(M * limits.blockSize, limits.contextLength),
      `sequence ${b} has ${context} with ${count} new ones, ${M} blocks of ${limits.blockSize} and a ` +
        `largest context of ${limits.contextLength}`,
    );
  }
  check(
    "logitRows",
    logitRows.length <= limits.logitRows,
    `${logitRows.length} rows, allowed are ${limits.logitRows}`,
  );
  checkRange("logitRows", logitRows, 0, T - 1);
}

function checkRange(field: string, values: Int32Array, least: number, most: number) {
  for (const value of values) {
    check(field, value >= least && value <= most, `${value} is outside of ${least} to ${most}`);
  }
}

function check(field: string, holds: boolean, what: string) {
  if (!holds) throw new InvalidArgumentError(field, `Cannot run the step: ${field}: ${what}.`);
}
