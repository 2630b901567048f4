/**
 * Which tokens of which sequences the next step computes. Every running sequence is in every step: one
 * that generates brings its newest token, one whose tokens are not all computed yet a chunk of them.
 *
 * Pure: values in, values out. A sequence is admitted once the blocks for its known tokens are there. If
 * those for new ones run out, the last sequence makes room: it waits, and computes its tokens anew, as far
 * as their blocks are not found again. The first one always goes on, so all end.
 * @module
 */
import { CapacityError, OverloadError } from "../errors.ts";
import type { StepLimits } from "../backend/step_plan.ts";
import { BlockPool } from "./block_pool.ts";
import { planOf, type ScheduledStep, type StepPart } from "./scheduled_step.ts";
import { type ScheduledRequest, Sequence, type SequenceState } from "./sequence.ts";

/** How requests share a model; every field may be left out. */
export interface SchedulerOptions {
  /** Most sequences of a step; what the backend takes by default. */
  maxNumSeqs?: number;
  /**
   * Most tokens of a step, prompts and generated ones together: fewer make the time between two tokens
   * steadier, more make long prompts faster. What the backend takes by default, and at most.
   */
  maxNumBatchedTokens?: number;
  /** Most requests that may wait while the model is full; further ones are refused. Default: no bound. */
  maxQueuedRequests?: number;
  /** Whether computed blocks are kept and found again by prompts that begin alike. Default true. */
  enablePrefixCaching?: boolean;
}

/** What a scheduler has counted. */
export interface SchedulerCounts {
  /** Prompt tokens of requests that were admitted. */
  promptTokens: number;
  /** How many of these were in the cache already. */
  cachedPromptTokens: number;
  /** How often a sequence had to make room. */
  preemptions: number;
  /** Tokens that were guessed. */
  draftedTokens: number;
  /** How many of these were right. */
  acceptedTokens: number;
}

/** A scheduler's state as plain values, for whoever checks it. */
export interface SchedulerSnapshot {
  /** Tokens of a block. */
  blockSize: number;
  /** How many pools the blocks are divided into. */
  pools: number;
  /** How many hold each block, by number. */
  holders: number[];
  /** Blocks without contents. */
  free: number[];
  /** Blocks that nobody holds but whose contents are indexed. */
  idle: number[];
  /** Indexed blocks: the block before (0 for a first one), the salt, and the tokens. */
  indexed: { block: number; before: number; salt: string; tokenIds: number[] }[];
  /** All sequences that have not ended. */
  sequences: {
    state: SequenceState;
    salt: string;
    tokenIds: number[];
    cached: number;
    blocks: number[];
  }[];
}

/** Schedules the requests of one backend. */
export class Scheduler<R extends ScheduledRequest> {
  /** The blocks, in pools that each sequence has its blocks of one of. */
  readonly pools: readonly BlockPool[];
  /** What happened so far. */
  readonly counts: SchedulerCounts = {
    promptTokens: 0,
    cachedPromptTokens: 0,
    preemptions: 0,
    draftedTokens: 0,
    acceptedTokens: 0,
  };
  readonly #limits: StepLimits;
  /** Most running sequences. */
  readonly #together: number;
  readonly #mostQueued: number;
  readonly #prefixCaching: boolean;
  /** Both in the order of {@linkcode Sequence.precedes}. */
  readonly #waiting: Sequence<R>[] = [];
  readonly #running: Sequence<R>[] = [];
  /** Sequences of each request that has not ended. */
  readonly #live = new Map<R, Set<Sequence<R>>>();
  /** Prompt tokens that each request found in the cache; none before it was admitted. */
  readonly #found = new WeakMap<R, number>();
  #arrivals = 0;

  /**
   * @param limits The backend's.
   * @param options How requests share it.
   */
  constructor(limits: StepLimits, options: SchedulerOptions = {}) {
    const tokens = Math.min(options.maxNumBatchedTokens ?? Infinity, limits.tokens);
    const most = options.maxNumSeqs ?? Infinity;
    this.#limits = { ...limits, tokens };
    this.#together = Math.min(most, limits.sequences, tokens, limits.logitRows);
    this.#mostQueued = options.maxQueuedRequests ?? Infinity;
    this.#prefixCaching = options.enablePrefixCaching ?? true;
    const { pools = 1 } = limits;
    const blocks = limits.blocks / pools;
    this.pools = Array.from({ length: pools }, (_, i) => new BlockPool(blocks, i * blocks));
  }

  /** Sequences that are in no step, the next one to be admitted first. */
  get waiting(): readonly Sequence<R>[] {
    return this.#waiting;
  }

  /** Sequences in every step, the last one to make room first. */
  get running(): readonly Sequence<R>[] {
    return this.#running;
  }

  /**
   * Prompt tokens of a request that were in the cache when it was admitted.
   *
   * @param request It.
   * @returns 0 if it was not admitted yet.
   */
  cachedTokens(request: R): number {
    return this.#found.get(request) ?? 0;
  }

  /**
   * Takes a request.
   *
   * @param request It.
   * @throws {CapacityError} If it can never run: the prompt is longer than the context, or the cache is too
   *   small for it.
   * @throws {OverloadError} If as many wait as may.
   */
  add(request: R): void {
    const { contextLength, blockSize } = this.#limits;
    const prompt = request.promptTokenIds.length;
    if (prompt > contextLength) {
      throw new CapacityError(
        "context_length_exceeded",
        `Cannot run the prompt: it has ${prompt} tokens, the context is ${contextLength}; shorten it` +
          ", or open the model with a larger contextLength if it has one.",
      );
    }
    const most = Math.min(prompt + request.maxNewTokens, contextLength);
    const { capacity } = this.pools[0]!;
    if (this.#blocksFor(most) > capacity) {
      throw new CapacityError(
        "out_of_memory",
        `Cannot run the request: ${prompt} prompt tokens and up to ${
          most - prompt
        } new ones need ` +
          `${this.#blocksFor(most) * blockSize} tokens of cache, it holds ` +
          `${capacity * blockSize}; lower maxTokens, or open the model with larger ` +
          "cacheTokens.",
      );
    }
    const room = Math.max(this.#together - this.#running.length, 0) + this.#mostQueued;
    if (this.#waiting.length >= room) {
      throw new OverloadError(
        "queue_full",
        `Cannot take the request: ${this.#waiting.length} wait already, maxQueuedRequests is ` +
          `${this.#mostQueued}; try again later.`,
      );
    }
    const sequence = new Sequence(request, 0, this.#arrivals++, request.promptTokenIds);
    this.#live.set(request, new Set([sequence]));
    enqueue(this.#waiting, sequence);
  }

  /**
   * Requests whose deadline is over; they stay until they are removed.
   *
   * @param now The time, on the clock of the deadlines.
   * @returns They.
   */
  expired(now: number): R[] {
    return [...this.#live.keys()].filter(({ terms }) => terms.deadline <= now);
  }

  /**
   * Ends a request, wherever it is; its blocks are free at once.
   *
   * @param request It; nothing happens if it has ended already.
   */
  remove(request: R): void {
    for (const sequence of this.#live.get(request) ?? []) this.finish(sequence);
  }

  /**
   * Ends one sequence; with the last of its request the request has ended.
   *
   * @param sequence One that has not ended.
   */
  finish(sequence: Sequence<R>): void {
    const { request, state } = sequence;
    dequeue(state === "running" ? this.#running : this.#waiting, sequence);
    this.#release(sequence);
    sequence.state = "ended";
    const live = this.#live.get(request)!;
    live.delete(sequence);
    if (live.size === 0) this.#live.delete(request);
  }

  /**
   * Lets another choice grow from a sequence: it shares all blocks, and copies one when it writes to it.
   *
   * @param sequence A running one.
   * @param choice Which choice the new one is.
   * @returns The new sequence; it waits if as many run as can.
   */
  fork(sequence: Sequence<R>, choice: number): Sequence<R> {
    const { request, arrival, tokenIds, cached, reached, indexed, pool, blocks } = sequence;
    const fork = new Sequence(request, choice, arrival, tokenIds);
    fork.reached = reached;
    this.#live.get(request)!.add(fork);
    if (this.#running.length === this.#together) {
      enqueue(this.#waiting, fork);
      return fork;
    }
    fork.blocks.push(...blocks.slice(0, this.#blocksFor(cached)));
    for (const block of fork.blocks) this.pools[pool]!.share(block);
    Object.assign(fork, { cached, indexed, pool, state: "running" });
    enqueue(this.#running, fork);
    return fork;
  }

  /**
   * The next step.
   *
   * @returns It; `undefined` if there is nothing to run. Its tokens count as cached once
   *   {@linkcode commit} is told that it ran.
   */
  next(): ScheduledStep<R> | undefined {
    this.#admit();
    if (this.#running.length === 0) return undefined;
    const copies: { from: number; to: number }[] = [];
    const parts: StepPart<R>[] = [];
    for (const part of this.#share()) {
      // Those behind may have made room; the last one may have to do so itself.
      if (part.sequence.state === "running" && this.#makeRoom(part, copies)) parts.push(part);
    }
    for (const { drafts } of parts) this.counts.draftedTokens += drafts.length;
    return { copies, plan: planOf(parts, this.#limits.blockSize), parts };
  }

  /**
   * Takes note that a step ran. Its drafts count once they are {@linkcode accept}ed.
   *
   * @param step It.
   */
  commit(step: ScheduledStep<R>): void {
    for (const { sequence, begin, count } of step.parts) {
      if (sequence.state !== "running") continue; // it ended meanwhile
      sequence.cached = begin + count;
      sequence.reached = Math.max(sequence.reached, sequence.cached);
      this.#index(sequence);
    }
  }

  /** Takes note that the next draft is a sequence's newest token. @param sequence A running one. */
  accept(sequence: Sequence<R>): void {
    sequence.reached = Math.max(sequence.reached, ++sequence.cached);
    this.counts.acceptedTokens++;
  }

  /**
   * Computed blocks that hold the beginning of some tokens. They may be handed out again in the next step.
   *
   * @param tokenIds The tokens.
   * @param salt See {@linkcode ScheduledRequest.terms}.
   * @returns The blocks, in order.
   */
  findBlocks(tokenIds: readonly number[], salt: string): number[] {
    const { blockSize } = this.#limits;
    const most = Math.floor(tokenIds.length / blockSize);
    return this.pools.map(({ prefixes }) => prefixes.find(tokenIds, salt, blockSize, most))
      .reduce((best, found) => found.length > best.length ? found : best);
  }

  /**
   * Takes blocks that somebody else fills, and indexes them.
   *
   * @param tokenIds What they hold, a multiple of a block's tokens.
   * @param salt See {@linkcode ScheduledRequest.terms}.
   * @returns The blocks that are to be filled, the last ones of the sequence: those before are known.
   * @throws {CapacityError} If not as many can be had.
   */
  adoptBlocks(tokenIds: readonly number[], salt: string): number[] {
    const { blockSize } = this.#limits;
    const blocks = this.findBlocks(tokenIds, salt);
    const known = blocks.length;
    const missing = tokenIds.length / blockSize - known;
    const pool = known > 0
      ? this.#poolOf(blocks[0]!)
      : this.pools.reduce((best, other) => other.available > best.available ? other : best);
    const letGo = () => [...blocks].reverse().forEach((block) => pool.release(block));
    for (const block of blocks) pool.share(block);
    const { available } = pool;
    if (missing > available) {
      letGo();
      throw new CapacityError(
        "out_of_memory",
        `Cannot load the cache: it needs ${missing * blockSize} more tokens of cache, ` +
          `${
            available * blockSize
          } can be had; try again when fewer requests run, or open the model ` +
          "with larger cacheTokens.",
      );
    }
    for (let i = known; i < known + missing; i++) {
      const begin = i * blockSize;
      blocks.push(pool.allocate());
      pool.prefixes.add(blocks[i]!, blocks[i - 1], salt, tokenIds, begin, begin + blockSize);
    }
    letGo();
    return blocks.slice(known);
  }

  /** The state as plain values. @returns A copy. */
  snapshot(): SchedulerSnapshot {
    const { pools } = this;
    const saltOf = (node: { key: string; parent?: typeof node }): string =>
      node.parent ? saltOf(node.parent) : node.key;
    return {
      blockSize: this.#limits.blockSize,
      pools: pools.length,
      holders: Array.from(
        { length: this.#limits.blocks },
        (_, block) => this.#poolOf(block).holders(block),
      ),
      free: pools.flatMap(({ free }) => [...free]),
      idle: pools.flatMap(({ idle }) => [...idle]),
      indexed: pools.flatMap(({ prefixes }) => [...prefixes.nodes]).map((node) => ({
        block: node.block,
        before: node.parent!.block,
        salt: saltOf(node),
        tokenIds: node.key.split(",").map(Number),
      })),
      sequences: [...this.#live.values()].flatMap((live) => [...live]).map((sequence) => ({
        state: sequence.state,
        salt: sequence.request.terms.cacheSalt,
        tokenIds: [...sequence.tokenIds],
        cached: sequence.cached,
        blocks: [...sequence.blocks],
      })),
    };
  }

  #poolOf(block: number): BlockPool {
    return this.pools[Math.floor(block / (this.#limits.blocks / this.pools.length))]!;
  }

  #blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.#limits.blockSize);
  }

  /** Lets sequences run, in order, while there are blocks for all their known tokens. */
  #admit() {
    // Running sequences will take these for tokens that are known, by pool.
    const promised = this.pools.map(() => 0);
    for (const { tokenIds, blocks, pool } of this.#running) {
      promised[pool]! += Math.max(this.#blocksFor(tokenIds.length) - blocks.length, 0);
    }
    while (this.#waiting.length > 0) {
      const sequence = this.#waiting[0]!;
      const last = this.#running.at(-1);
      const place = this.#running.length < this.#together
        ? this.#place(sequence, promised)
        : undefined;
      if (place) {
        const [pool, found] = place;
        this.#waiting.shift();
        sequence.pool = pool;
        this.#start(sequence, found);
        promised[pool]! += this.#blocksFor(sequence.tokenIds.length) - found.length;
      } else if (last && sequence.request.terms.priority < last.request.terms.priority) {
        promised[last.pool]! -= Math.max(
          this.#blocksFor(last.tokenIds.length) - last.blocks.length,
          0,
        );
        this.#preempt(last);
      } else {
        return;
      }
    }
  }

  /** The pool with the fewest running sequences that has room for one, and what it knows of its tokens. */
  #place(sequence: Sequence<R>, promised: number[]): [pool: number, found: number[]] | undefined {
    const load = this.pools.map(() => 0);
    for (const { pool } of this.#running) load[pool]!++;
    let best: [pool: number, found: number[]] | undefined;
    for (const pool of this.pools.keys()) {
      const found = this.#find(sequence, this.pools[pool]!, promised[pool]!);
      if (!found) continue;
      const less = best && (load[pool]! - load[best[0]]! || best[1].length - found.length);
      if (less === undefined || less < 0) best = [pool, found];
    }
    return best;
  }

  /**
   * Blocks in which a sequence's tokens are known, but not those of logits that are still wanted.
   *
   * @param sequence One that waits.
   * @param pool Where.
   * @param promised How many of the available blocks are for others.
   * @returns The blocks; `undefined` if there are not as many as it needs besides.
   */
  #find(sequence: Sequence<R>, pool: BlockPool, promised: number): number[] | undefined {
    const { blockSize } = this.#limits;
    const { tokenIds, request: { terms } } = sequence;
    let most = 0;
    if (this.#prefixCaching) {
      while (most < tokenIds.length - 1 && !sequence.wantsLogits(most)) most++;
    }
    const { prefixes } = pool;
    const found = prefixes.find(tokenIds, terms.cacheSalt, blockSize, Math.floor(most / blockSize));
    const held = found.filter((block) => pool.holders(block) > 0).length;
    const needed = this.#blocksFor(tokenIds.length) - held;
    return needed <= pool.available - promised ? found : undefined;
  }

  #start(sequence: Sequence<R>, found: number[]) {
    const { request } = sequence;
    for (const block of found) this.pools[sequence.pool]!.share(block);
    sequence.blocks.push(...found);
    sequence.indexed = found.length;
    sequence.cached = found.length * this.#limits.blockSize;
    sequence.reached = Math.max(sequence.reached, sequence.cached);
    sequence.state = "running";
    enqueue(this.#running, sequence);
    if (this.#found.has(request)) return;
    this.#found.set(request, sequence.cached);
    this.counts.promptTokens += request.promptTokenIds.length;
    this.counts.cachedPromptTokens += sequence.cached;
  }

  #preempt(sequence: Sequence<R>) {
    dequeue(this.#running, sequence);
    this.#release(sequence);
    Object.assign(sequence, { cached: 0, indexed: 0, state: "waiting" });
    enqueue(this.#waiting, sequence);
    this.counts.preemptions++;
  }

  /** Takes note of full blocks' contents; of equal blocks one is kept. */
  #index(sequence: Sequence<R>) {
    if (!this.#prefixCaching) return;
    const { blockSize } = this.#limits;
    const { tokenIds, blocks, request: { terms } } = sequence;
    const pool = this.pools[sequence.pool]!;
    while ((sequence.indexed + 1) * blockSize <= sequence.cached) {
      const i = sequence.indexed++;
      const begin = i * blockSize;
      const end = begin + blockSize;
      const [block, before] = [blocks[i]!, blocks[i - 1]];
      const kept = pool.prefixes.add(block, before, terms.cacheSalt, tokenIds, begin, end);
      if (kept === block) continue;
      pool.share(kept);
      pool.release(block);
      blocks[i] = kept;
    }
  }

  /** Lets go of a sequence's blocks, the last one first. */
  #release(sequence: Sequence<R>) {
    this.#index(sequence);
    const pool = this.pools[sequence.pool]!;
    for (const block of sequence.blocks.splice(0).reverse()) pool.release(block);
  }

  /**
   * Divides the step's tokens and rows of logits: one each, the rest to the first that can use it; drafts
   * take what is left then.
   */
  #share(): StepPart<R>[] {
    let tokens = this.#limits.tokens - this.#running.length;
    let rows = this.#limits.logitRows - this.#running.length;
    const parts = this.#running.map((sequence): StepPart<R> => {
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
      return { sequence, begin, count, drafts: [], wanted, firstRow: 0 };
    });
    for (const part of parts) {
      const { sequence: { request, tokenIds, generated }, begin, count } = part;
      if (!request.draft || begin + count < tokenIds.length) continue;
      const room = this.#limits.contextLength - tokenIds.length;
      // The step yields one token more than there are right guesses.
      const most = Math.min(tokens, rows, room, request.maxNewTokens - generated - 1);
      if (most <= 0) continue;
      part.drafts = request.draft(tokenIds, most);
      part.wanted.push(...part.drafts.map((_, i) => tokenIds.length + i));
      tokens -= part.drafts.length;
      rows -= part.drafts.length;
    }
    return parts;
  }

  /**
   * Sees that a part has blocks that nobody else reads; sequences behind it in its pool make room. Drafts are
   * dropped rather than that.
   *
   * @returns False if the sequence is the last itself and has made room.
   */
  #makeRoom(part: StepPart<R>, copies: { from: number; to: number }[]): boolean {
    const { blockSize } = this.#limits;
    const { sequence, begin, count } = part;
    const { blocks } = sequence;
    const pool = this.pools[sequence.pool]!;
    const own: typeof copies = [];
    for (let i = Math.floor(begin / blockSize); i * blockSize < begin + count; i++) {
      while (blocks[i] === undefined || !pool.isWritable(blocks[i]!)) {
        if (pool.available === 0) {
          const last = this.#running.findLast((other) => other.pool === sequence.pool)!;
          this.#preempt(last);
          if (last === sequence) return false;
          continue;
        }
        const from = blocks[i];
        blocks[i] = pool.allocate();
        if (from === undefined) break;
        own.push({ from, to: blocks[i]! });
        pool.release(from);
      }
    }
    copies.push(...own);
    const end = () => begin + count + part.drafts.length;
    while (blocks.length * blockSize < end() && pool.available > 0) {
      blocks.push(pool.allocate());
    }
    const room = Math.min(end(), blocks.length * blockSize) - begin - count;
    if (room < part.drafts.length) {
      part.wanted.length -= part.drafts.length - room;
      part.drafts = part.drafts.slice(0, room);
    }
    return true;
  }
}

/** Inserts a sequence where the order puts it. */
function enqueue<R extends ScheduledRequest>(queue: Sequence<R>[], sequence: Sequence<R>) {
  let at = queue.length;
  while (at > 0 && sequence.precedes(queue[at - 1]!)) at--;
  queue.splice(at, 0, sequence);
}

function dequeue<R extends ScheduledRequest>(queue: Sequence<R>[], sequence: Sequence<R>) {
  queue.splice(queue.indexOf(sequence), 1);
}
