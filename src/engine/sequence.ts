/**
 * A sequence of tokens that the model is extending or has been given to score.
 * @module
 */

/** How a request is to be treated. */
export interface RequestTerms {
  /** Of two requests the one with the lower number goes first. */
  readonly priority: number;
  /** When it is too late, on the clock of {@linkcode Scheduler.expired}; Infinity: never. */
  readonly deadline: number;
  /** Blocks are found by requests with the same salt only. */
  readonly cacheSalt: string;
}

/** What the scheduler must know of a request. */
export interface ScheduledRequest {
  /** The prompt, at least one token. */
  readonly promptTokenIds: readonly number[];
  /** Most tokens that may follow the prompt; 0 for a request that only wants logits. */
  readonly maxNewTokens: number;
  /** How many sequences may grow from the prompt. */
  readonly choices: number;
  /** How it is to be treated. */
  readonly terms: RequestTerms;
  /**
   * Whether the logits after a prompt token are wanted; those after the last known token of a
   * request that generates are always.
   * @param position In the prompt.
   * @returns True if so.
   */
  wantsLogits(position: number): boolean;
  /**
   * Guesses what follows, where guessing is wanted.
   * @param tokenIds Of one of its sequences.
   * @param most How many tokens at most.
   * @returns The guess, may be empty.
   */
  draft?(tokenIds: readonly number[], most: number): readonly number[];
}

/** Where a sequence is: it waits for blocks, is in every step, or has ended. */
export type SequenceState = "waiting" | "running" | "ended";

/** One sequence of a request. */
export class Sequence<R extends ScheduledRequest = ScheduledRequest> {
  /** What it belongs to. */
  readonly request: R;
  /** Which of the request's choices it is, from 0. */
  readonly choice: number;
  /** Number of its request, rising in the order in which they came. */
  readonly arrival: number;
  /** Prompt, then output. */
  readonly tokenIds: number[];
  /** Where it is. */
  state: SequenceState = "waiting";
  /** How many of the tokens are in the cache. */
  cached = 0;
  /** The most that `cached` has been: logits up to there have been handed over. */
  reached = 0;
  /** How many of the blocks are indexed. */
  indexed = 0;
  /** Which pool the blocks are of. */
  pool = 0;
  /** The blocks that hold them, in order of position. */
  readonly blocks: number[] = [];

  /**
   * @param request What it belongs to.
   * @param choice Which choice, from 0.
   * @param arrival Number of the request.
   * @param tokenIds What it begins with.
   */
  constructor(request: R, choice: number, arrival: number, tokenIds: readonly number[]) {
    this.request = request;
    this.choice = choice;
    this.arrival = arrival;
    this.tokenIds = [...tokenIds];
  }

  /** Tokens of the output. */
  get generated(): number {
    return this.tokenIds.length - this.request.promptTokenIds.length;
  }

  /** Whether a step's result for a position is wanted. @param position Of a known token. */
  wantsLogits(position: number): boolean {
    if (position < this.reached) return false;
    if (position < this.request.promptTokenIds.length && this.request.wantsLogits(position)) {
      return true;
    }
    return this.request.maxNewTokens > 0 && position === this.tokenIds.length - 1;
  }

  /** Whether it goes before another: by priority, then the older request, then the lower choice. */
  precedes(other: Sequence<R>): boolean {
    return (this.request.terms.priority - other.request.terms.priority ||
      this.arrival - other.arrival ||
      this.choice - other.choice) < 0;
  }
}
