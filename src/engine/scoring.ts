/**
 * One request for logits of given tokens.
 * @module
 */
import { type RequestOptions, termsOf } from "./engine_options.ts";
import type { RequestTerms, ScheduledRequest } from "./sequence.ts";

/** A request that generates nothing. */
export class Scoring implements ScheduledRequest {
  /** See {@linkcode ScheduledRequest}. */
  readonly promptTokenIds: readonly number[];
  /** Nothing follows the tokens. */
  readonly maxNewTokens = 0;
  /** One sequence. */
  readonly choices = 1;
  /** See {@linkcode ScheduledRequest}. */
  readonly terms: RequestTerms;
  /** [positions, vocab], filled step by step. */
  readonly logits: Float32Array;
  /** Row of each wanted position. */
  readonly #rows: ReadonlyMap<number, number>;
  readonly #vocabSize: number;

  /**
   * @param tokenIds The tokens, at least one.
   * @param positions Whose logits are wanted, each once.
   * @param vocabSize Columns of the logits.
   * @param options How it is to be treated.
   */
  constructor(
    tokenIds: readonly number[],
    positions: readonly number[],
    vocabSize: number,
    options: RequestOptions = {},
  ) {
    this.promptTokenIds = tokenIds;
    this.terms = termsOf(options, performance.now());
    this.logits = new Float32Array(positions.length * vocabSize);
    this.#rows = new Map(positions.map((position, row) => [position, row]));
    this.#vocabSize = vocabSize;
  }

  /** See {@linkcode ScheduledRequest}. */
  wantsLogits(position: number): boolean {
    return this.#rows.has(position);
  }

  /** Takes the logits after a token. @param position Of the token. @param logits [vocab]. */
  takeLogits(position: number, logits: Float32Array): void {
    this.logits.set(logits, this.#rows.get(position)! * this.#vocabSize);
  }
}
