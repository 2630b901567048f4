/**
 * A sequence of tokens that the model is extending or has been given to score.
 * @module
 */

/** What the scheduler must know of a request. */
export interface ScheduledRequest {
  /** The prompt, at least one token. */
  readonly promptTokenIds: readonly number[];
  /** Most tokens that may follow the prompt; 0 for a request that only wants logits. */
  readonly maxNewTokens: number;
  /** How many sequences may grow from the prompt. */
  readonly choices: number;
  /**
   * Whether the logits after a prompt token are wanted; those after the last known token of a
   * request that generates are always.
   * @param position In the prompt.
   * @returns True if so.
   */
  wantsLogits(position: number): boolean;
}

/** One sequence of a request. */
export class Sequence<R extends ScheduledRequest = ScheduledRequest> {
  /** What it belongs to. */
  readonly request: R;
  /** Which of the request's choices it is, from 0. */
  readonly choice: number;
  /** Prompt, then output. */
  readonly tokenIds: number[];
  /** How many of the tokens are in the cache. */
  cached = 0;
  /** The blocks that hold them, in order of position. */
  readonly blocks: number[];

  /**
   * @param request What it belongs to.
   * @param choice Which choice, from 0.
   * @param from The sequence that it parts from; it begins with the prompt otherwise.
   */
  constructor(request: R, choice: number, from?: Sequence<R>) {
    this.request = request;
    this.choice = choice;
    this.tokenIds = [...(from?.tokenIds ?? request.promptTokenIds)];
    this.cached = from?.cached ?? 0;
    this.blocks = [...(from?.blocks ?? [])];
  }

  /** Tokens of the output. */
  get generated(): number {
    return this.tokenIds.length - this.request.promptTokenIds.length;
  }

  /** Whether a step's result for a position is wanted. @param position Of the sequence. */
  wantsLogits(position: number): boolean {
    if (position < this.request.promptTokenIds.length && this.request.wantsLogits(position)) {
      return true;
    }
    return this.request.maxNewTokens > 0 && position === this.tokenIds.length - 1;
  }
}
