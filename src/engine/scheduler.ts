/**
 * Which tokens of which sequences the next step computes. Every running sequence is in every step: one
 * that generates brings its newest token, one whose prompt is not computed yet a chunk of it.
 *
 * Pure: values in, values out. Requests are admitted in the order they came, once the blocks that they may
 * ever need can be promised; so nothing that was admitted has to make room again.
 * @module
 */
import { CapacityError } from "../errors.ts";
import type { BlockCopies } from "../backend/backend.ts";
import type { StepLimits, StepPlan } from "../backend/step_plan.ts";
import { BlockPool } from "./block_pool.ts";
import { type ScheduledRequest, Sequence } from "./sequence.ts";

/** A sequence's part of a step. */
export interface StepPart<R extends ScheduledRequest> {
  /** The sequence. */
  sequence: Sequence<R>;
  /** Position of its first token in the step. */
  begin: number;
  /** How many tokens. */
  count: number;
  /** Positions whose logits are wanted, rising. */
  wanted: number[];
  /** Row of the step's logits that the first of them is. */
  firstRow: number;
}

/** A step to be run. */
export interface ScheduledStep<R extends ScheduledRequest> {
  /** Blocks to copy before. */
  copies: BlockCopies;
  /** The step. */
  plan: StepPlan;
  /** Whose tokens it holds, in order. */
  parts: StepPart<R>[];
}

/** Schedules the requests of one backend. */
export class Scheduler<R extends ScheduledRequest> {
  /** The blocks. */
  readonly pool: BlockPool;
  readonly #limits: StepLimits;
  readonly #waiting: R[] = [];
  readonly #running: Sequence<R>[] = [];
  /** Blocks promised to each admitted request, and how many of its sequences are left. */
  readonly #admitted = new Map<R, { blocks: number; sequences: number }>();

  /** @param limits The backend's. */
  constructor(limits: StepLimits) {
    this.#limits = limits;
    this.pool = new BlockPool(limits.blocks);
  }

  /** Requests that are not admitted yet. */
  get waiting(): readonly R[] {
    return this.#waiting;
  }

  /** Sequences in every step. */
  get running(): readonly Sequence<R>[] {
    return this.#running;
  }

  /**
   * Takes a request.
   *
   * @param request It.
   * @throws {CapacityError} If it can never run: the prompt is longer than the context, or the cache or
   *   a step is too small for it.
   */
  add(request: R): void {
    const { contextLength, blockSize, sequences, logitRows } = this.#limits;
    const prompt = request.promptTokenIds.length;
    if (prompt > contextLength) {
      throw new CapacityError(
        "context_length_exceeded",
        `Cannot run the prompt: it has ${prompt} tokens, the context is ${contextLength}; shorten it` +
          ", or open the model with a larger contextLength if it has one.",
      );
    }
    const blocks = this.#blocksOf(request);
    if (blocks > this.pool.capacity) {
      throw new CapacityError(
        "out_of_memory",
        `Cannot run the request: ${prompt} prompt tokens and ${request.choices} × up to ` +
          `${this.#newTokens(request)} new ones need ${
            blocks * blockSize
          } tokens of cache, it holds ` +
          `${
            this.pool.capacity * blockSize
          }; lower maxTokens or n, or open the model with larger ` +
          "cacheTokens.",
      );
    }
    const together = Math.min(sequences, logitRows);
    if (request.choices > together) {
      throw new CapacityError(
        "out_of_memory",
        `Cannot run the request: n is ${request.choices}, a step of this model holds ${together} ` +
          "sequences; ask for fewer at a time.",
      );
    }
    this.#waiting.push(request);
  }

  /**
   * Ends a request, wherever it is; its blocks are free at once.
   *
   * @param request It; nothing happens if it has ended already.
   */
  remove(request: R): void {
    const waiting = this.#waiting.indexOf(request);
    if (waiting >= 0) this.#waiting.splice(waiting, 1);
    for (const sequence of this.#running.filter((sequence) => sequence.request === request)) {
      this.#release(sequence);
    }
    this.#dismiss(request);
  }

  /**
   * Ends one sequence; with the last of its request the request has ended.
   *
   * @param sequence A running one.
   */
  finish(sequence: Sequence<R>): void {
    this.#release(sequence);
    const admitted = this.#admitted.get(sequence.request)!;
    if (--admitted.sequences === 0) this.#dismiss(sequence.request);
  }

  /**
   * Lets another choice grow from a sequence: it shares all blocks, and copies one when it writes to it.
   *
   * @param sequence A running one.
   * @param choice Which choice the new one is.
   * @returns The new sequence, running.
   */
  fork(sequence: Sequence<R>, choice: number): Sequence<R> {
    const fork = new Sequence(sequence.request, choice, sequence);
    for (const block of fork.blocks) this.pool.share(block);
    this.#running.push(fork);
    return fork;
  }

  /**
   * The next step.
   *
   * @returns It; `undefined` if nothing is running or can be admitted. Its tokens count as cached once
   *   {@linkcode commit} is told that it ran.
   */
  next(): ScheduledStep<R> | undefined {
    this.#admit();
    if (this.#running.length === 0) return undefined;
    const parts = this.#share();
    const copies = parts.flatMap(({ sequence, begin, count }) =>
      this.#makeRoom(sequence, begin, begin + count)
    );
    return { copies, plan: this.#plan(parts), parts };
  }

  /**
   * Takes note that a step ran.
   *
   * @param step It.
   */
  commit(step: ScheduledStep<R>): void {
    for (const { sequence, begin, count } of step.parts) sequence.cached = begin + count;
  }

  #release(sequence: Sequence<R>) {
    const index = this.#running.indexOf(sequence);
    if (index < 0) throw new RangeError("the sequence is not running");
    this.#running.splice(index, 1);
    for (const block of sequence.blocks) this.pool.release(block);
  }

  #dismiss(request: R) {
    this.pool.unreserve(this.#admitted.get(request)?.blocks ?? 0);
    this.#admitted.delete(request);
  }

  #newTokens(request: R): number {
    const room = this.#limits.contextLength - request.promptTokenIds.length;
    return Math.min(request.maxNewTokens, room);
  }

  /** Blocks that a request may hold at most: the prompt's full ones once, the rest for each choice. */
  #blocksOf(request: R): number {
    const { blockSize } = this.#limits;
    const prompt = request.promptTokenIds.length;
    const shared = Math.floor(prompt / blockSize);
    const all = Math.ceil((prompt + this.#newTokens(request)) / blockSize);
    return shared + request.choices * (all - shared);
  }

  #admit() {
    const { sequences, tokens, logitRows } = this.#limits;
    const together = Math.min(sequences, tokens, logitRows);
    // A request needs room for all its choices: they run together once its prompt is computed.
    let places = together;
    for (const request of this.#admitted.keys()) places -= request.choices;
    while (this.#waiting.length > 0) {
      const request = this.#waiting[0]!;
      const blocks = this.#blocksOf(request);
      if (request.choices > places || !this.pool.reserve(blocks)) return;
      this.#waiting.shift();
      this.#admitted.set(request, { blocks, sequences: request.choices });
      this.#running.push(new Sequence(request, 0));
      places -= request.choices;
    }
  }

  /** Divides the step's tokens and rows of logits: one each, the rest to the first that can use it. */
  #share(): StepPart<R>[] {
    let tokens = this.#limits.tokens - this.#running.length;
    let rows = this.#limits.logitRows - this.#running.length;
    let firstRow = 0;
    return this.#running.map((sequence) => {
      const begin = sequence.cached;
      const most = Math.min(sequence.tokenIds.length - begin, 1 + tokens);
      const wanted: number[] = [];
      let count = 0;
      while (count < most) {
        if (sequence.wantsLogits(begin + count)) {
          if (wanted.length > rows) break; // one row is its own
          wanted.push(begin + count);
        }
        count++;
      }
      tokens -= count - 1;
      rows -= Math.max(wanted.length - 1, 0);
      const part = { sequence, begin, count, wanted, firstRow };
      firstRow += wanted.length;
      return part;
    });
  }

  /** Sees that positions [begin, end) have blocks that nobody else reads. */
  #makeRoom(sequence: Sequence<R>, begin: number, end: number): BlockCopies {
    const { blockSize } = this.#limits;
    const copies: { from: number; to: number }[] = [];
    for (let i = Math.floor(begin / blockSize); i * blockSize < end; i++) {
      const block = sequence.blocks[i];
      if (block === undefined) {
        sequence.blocks.push(this.pool.allocate());
      } else if (this.pool.holders(block) > 1) {
        const own = this.pool.allocate();
        copies.push({ from: block, to: own });
        this.pool.release(block);
        sequence.blocks[i] = own;
      }
    }
    return copies;
  }

  #plan(parts: StepPart<R>[]): StepPlan {
    const { blockSize } = this.#limits;
    const tokens = parts.reduce((sum, { count }) => sum + count, 0);
    const width = Math.max(...parts.map(({ sequence }) => sequence.blocks.length));
    const plan: StepPlan = {
      tokenIds: new Int32Array(tokens),
      positions: new Int32Array(tokens),
      slots: new Int32Array(tokens),
      queryStarts: new Int32Array(parts.length + 1),
      contextLengths: Int32Array.from(parts, ({ begin, count }) => begin + count),
      blockTables: new Int32Array(parts.length * width),
      logitRows: new Int32Array(parts.reduce((sum, { wanted }) => sum + wanted.length, 0)),
    };
    let token = 0;
    let row = 0;
    for (const [b, { sequence, begin, count, wanted }] of parts.entries()) {
      for (const position of wanted) plan.logitRows[row++] = token + position - begin;
      for (let position = begin; position < begin + count; position++, token++) {
        const block = sequence.blocks[Math.floor(position / blockSize)]!;
        plan.tokenIds[token] = sequence.tokenIds[position]!;
        plan.positions[token] = position;
        plan.slots[token] = block * blockSize + position % blockSize;
      }
      plan.queryStarts[b + 1] = token;
      const used = Math.ceil((begin + count) / blockSize);
      plan.blockTables.set(sequence.blocks.slice(0, used), b * width);
    }
    return plan;
  }
}
