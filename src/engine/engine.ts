/**
 * The engine's loop: schedule, run, sample, commit, until no request is left. Requests may come and go
 * while it runs; each step holds all sequences that are running then.
 * @module
 */
import type { Backend, ExpertStats } from "../backend/backend.ts";
import { BackendError, OverloadError } from "../errors.ts";
import type { ExpertLayer } from "../model_spec.ts";
import type { Sampler } from "../sampling/sampler.ts";
import type { BlockPool } from "./block_pool.ts";
import type { CachedTokens } from "./cache_file.ts";
import {
  checkEngineOptions,
  type EngineOptions,
  type RequestOptions,
  termsOf,
} from "./engine_options.ts";
import { type Generated, Generation, type GenerationOptions } from "./generation.ts";
import { ExpertLoad, type ExpertLoadEntropy } from "./expert_load.ts";
import type { PromptLookup } from "./prompt_lookup.ts";
import type { StepPart } from "./scheduled_step.ts";
import { Scheduler, type SchedulerCounts } from "./scheduler.ts";
import { Scoring } from "./scoring.ts";
import type { Sequence } from "./sequence.ts";

/** What the engine runs. */
type EngineRequest = Generation | Scoring;

/** A part of a step. */
type Part = StepPart<EngineRequest>;

/** How a request's caller hears of its end. */
interface Outcome {
  resolve(): void;
  reject(error: unknown): void;
}

/** What an engine is doing and has done. */
export interface EngineStats extends SchedulerCounts {
  /** Sequences that are in every step now. */
  running: number;
  /** Sequences that wait for room. */
  waiting: number;
  /** Blocks of the cache, all together. */
  blocks: number;
  /** Blocks that sequences hold. */
  heldBlocks: number;
  /** Blocks that none holds, but that are found by prompts that begin alike. */
  cachedBlocks: number;
  /** Steps that ran. */
  steps: number;
  /** Tokens that were generated. */
  generatedTokens: number;
  /** How evenly each layer's experts were used, over the last 4,096 to 8,192 tokens computed. */
  expertLoad: ExpertLoadEntropy[];
}

/** Runs requests on one backend. */
export class Engine {
  readonly #backend: Backend;
  readonly #sampler: Sampler;
  readonly #vocabSize: number;
  readonly #scheduler: Scheduler<EngineRequest>;
  readonly #lookup: PromptLookup | undefined;
  readonly #outcomes = new Map<EngineRequest, Outcome>();
  /** What is to be done between two steps. */
  readonly #tasks: (() => Promise<void>)[] = [];
  readonly #expertLoad: ExpertLoad;
  #steps = 0;
  #generatedTokens = 0;
  #loop: Promise<void> | undefined;
  /** Why nothing can run any more. */
  #failure: unknown;

  /**
   * @param backend Computes; the engine closes it.
   * @param sampler Draws tokens.
   * @param vocabSize Columns of the logits.
   * @param options How requests share the backend.
   * @param expertLayers Layers whose experts' use is counted.
   * @throws {InvalidArgumentError} If an option is out of its range.
   */
  constructor(
    backend: Backend,
    sampler: Sampler,
    vocabSize: number,
    options: EngineOptions = {},
    expertLayers: readonly ExpertLayer[] = [],
  ) {
    this.#lookup = checkEngineOptions(options);
    this.#backend = backend;
    this.#sampler = sampler;
    this.#vocabSize = vocabSize;
    this.#scheduler = new Scheduler(backend.limits, options);
    this.#expertLoad = new ExpertLoad(expertLayers);
  }

  /**
   * Generates.
   *
   * @param options What and how.
   * @returns The finished choices.
   * @throws {CapacityError} If the request does not fit the context or the cache.
   * @throws {OverloadError} If too many wait, or its time was over.
   * @throws {BackendError} If the backend failed or was closed.
   * @throws The signal's reason, an AbortError by default, if it was aborted.
   */
  async generate(options: GenerationOptions): Promise<Generated> {
    const { contextLength } = this.#backend.limits;
    const request = new Generation(options, contextLength, this.#lookup);
    await this.#run(request, options.signal);
    request.result.cachedTokens = this.#scheduler.cachedTokens(request);
    return request.result;
  }

  /**
   * Computes logits without generating.
   *
   * @param tokenIds The tokens, at least one.
   * @param positions Whose logits are wanted, rising.
   * @param options How it is to be treated.
   * @returns [positions, vocab], owned by the caller. Throws as {@linkcode generate} does.
   */
  async score(
    tokenIds: readonly number[],
    positions: readonly number[],
    options: RequestOptions = {},
  ): Promise<Float32Array> {
    const request = new Scoring(tokenIds, positions, this.#vocabSize, options);
    await this.#run(request, options.signal);
    return request.logits;
  }

  /**
   * Computes tokens and reads their full blocks.
   *
   * @param tokenIds The tokens, at least one.
   * @param options How it is to be treated.
   * @returns The tokens of the full blocks, and these. Throws as {@linkcode generate} does.
   */
  async readCache(tokenIds: readonly number[], options: RequestOptions): Promise<CachedTokens> {
    const { blockSize } = this.#backend.limits;
    const request = new Scoring(tokenIds, [], this.#vocabSize, options);
    let read: Promise<CachedTokens>;
    await this.#run(request, options.signal, () => {
      // First of all, for nobody holds the blocks any more.
      read = this.#between("first", async () => {
        const found = this.#scheduler.findBlocks(tokenIds, request.terms.cacheSalt);
        const blocks = await this.#backend.readBlocks(found);
        return { tokenIds: tokenIds.slice(0, found.length * blockSize), blocks };
      });
    });
    return await read!;
  }

  /**
   * Puts blocks into the cache, where prompts that begin with their tokens find them.
   *
   * @param cached Tokens and blocks of {@linkcode readCache}.
   * @param options `cacheSalt`: of the prompts that may find them.
   * @throws {CapacityError} If there is no room beside what is running.
   */
  async writeCache({ tokenIds, blocks }: CachedTokens, options: RequestOptions): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const { cacheSalt } = termsOf(options, 0);
    await this.#between("last", async () => {
      const { blockBytes } = this.#backend;
      const missing = this.#scheduler.adoptBlocks(tokenIds, cacheSalt);
      const bytes = blocks.subarray(blocks.length - missing.length * blockBytes);
      await this.#backend.writeBlocks(missing, bytes);
    });
  }

  /** What it is doing and has done. @returns A copy. */
  stats(): EngineStats {
    const { pools, running, waiting, counts } = this.#scheduler;
    const sum = (of: (pool: BlockPool) => number) =>
      pools.reduce((total, pool) => total + of(pool), 0);
    return {
      running: running.length,
      waiting: waiting.length,
      blocks: sum(({ capacity }) => capacity),
      heldBlocks: sum(({ capacity, available }) => capacity - available),
      cachedBlocks: sum(({ idle }) => idle.size),
      steps: this.#steps,
      generatedTokens: this.#generatedTokens,
      expertLoad: this.#expertLoad.entropies(),
      ...counts,
    };
  }

  /** See {@linkcode Backend.expertStats}. */
  get expertStats(): ExpertStats | undefined {
    return this.#backend.expertStats;
  }

  /** Why nothing can run any more; `undefined` while all is well. */
  get failure(): unknown {
    return this.#failure;
  }

  /** Ends all requests with finish reason `abort` or an error, and closes the backend. */
  async close(): Promise<void> {
    this.#fail(
      new BackendError(
        "closed",
        "Cannot run the request: the model has been closed; open it again.",
      ),
    );
    await Promise.all([this.#backend.close(), this.#loop]);
  }

  async #run(
    request: EngineRequest,
    signal: AbortSignal | undefined,
    onEnd: () => void = () => {},
  ): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    signal?.throwIfAborted();
    this.#scheduler.add(request);
    const done = new Promise<void>((resolve, reject) => {
      this.#outcomes.set(request, {
        resolve() {
          onEnd();
          resolve();
        },
        reject,
      });
    });
    const abort = () => this.#end(request, signal!.reason);
    signal?.addEventListener("abort", abort, { once: true });
    this.#loop ??= this.#work();
    try {
      await done;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async #work(): Promise<void> {
    await null; // requests of the same turn begin in the same step
    try {
      for (;;) {
        while (this.#tasks.length > 0) await this.#tasks.shift()!();
        this.#endExpired();
        const step = this.#scheduler.next();
        if (!step) break;
        if (step.copies.length > 0) await this.#backend.copyBlocks(step.copies);
        const result = await this.#backend.run(step.plan);
        const { logits } = result;
        this.#checkLogits(logits, step.plan.logitRows.length);
        this.#expertLoad.add(result, step.plan.tokenIds.length);
        this.#steps++;
        this.#scheduler.commit(step);
        for (const part of step.parts) this.#take(part, logits);
      }
    } catch (error) {
      this.#fail(error);
    }
    for (const task of this.#tasks.splice(0)) await task(); // each says why it can not be done
    this.#loop = undefined;
  }

  /** A graph may declare another vocabulary than its head has: rows would then be cut at wrong places. */
  #checkLogits(logits: Float32Array, rows: number) {
    if (logits.length === rows * this.#vocabSize) return;
    throw new BackendError(
      "backend_failed",
      `Cannot use the step's logits: they are ${logits.length}, the graph declares ${rows} rows of ` +
        `${this.#vocabSize}; export the checkpoint again.`,
    );
  }

  /** Ends requests whose time is over. */
  #endExpired() {
    for (const request of this.#scheduler.expired(performance.now())) {
      this.#end(
        request,
        new OverloadError(
          "deadline_exceeded",
          "Cannot finish the request: its time (timeoutMs) is over; allow more, or try again when the " +
            "model is less busy.",
        ),
      );
    }
  }

  /** Hands a part's logits to its request, unless that has ended while the step ran. */
  #take({ sequence, begin, count, drafts, wanted, firstRow }: Part, logits: Float32Array) {
    const { request } = sequence;
    if (!this.#outcomes.has(request)) return;
    try {
      for (const [index, position] of wanted.entries()) {
        const start = (firstRow + index) * this.#vocabSize;
        const row = logits.subarray(start, start + this.#vocabSize);
        if (request instanceof Scoring) request.takeLogits(position, row);
        else if (position < request.promptTokenIds.length - 1) {
          request.takePromptLogits(this.#sampler, position, row);
        } else {
          this.#extend(sequence as Sequence<Generation>, row);
          // The next row is that of a guess; it counts if the guess was right.
          const guess = drafts[position + 1 - begin - count];
          if (sequence.state !== "running" || sequence.tokenIds[position + 1] !== guess) return;
          this.#scheduler.accept(sequence);
        }
      }
      if (request instanceof Scoring && sequence.cached === sequence.tokenIds.length) {
        this.#end(request);
      }
    } catch (error) {
      this.#end(request, error);
    }
  }

  /** Extends a sequence; after the prompt, all choices of its request. */
  #extend(sequence: Sequence<Generation>, logits: Float32Array) {
    const { request } = sequence;
    const sequences = [sequence];
    if (sequence.generated === 0) {
      for (let choice = 1; choice < request.choices; choice++) {
        sequences.push(this.#scheduler.fork(sequence, choice) as Sequence<Generation>);
      }
    }
    for (const extended of sequences) {
      const goesOn = request.extend(this.#sampler, extended, logits);
      this.#generatedTokens++;
      if (!this.#outcomes.has(request)) return; // whoever was told of the token ended the request
      if (!goesOn) this.#scheduler.finish(extended);
    }
    if (request.finished) this.#end(request);
  }

  /** Ends a request, with an error if one is given. */
  #end(request: EngineRequest, ...errors: [error?: unknown]) {
    const outcome = this.#outcomes.get(request);
    if (!outcome) return;
    this.#outcomes.delete(request);
    this.#scheduler.remove(request);
    if (errors.length === 0) return outcome.resolve();
    if (request instanceof Generation) request.abort();
    outcome.reject(errors[0]);
  }

  /** Does something between two steps, before or after what waits for that already. */
  #between<T>(turn: "first" | "last", task: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#tasks[turn === "first" ? "unshift" : "push"](async () => {
        try {
          if (this.#failure !== undefined) throw this.#failure;
          resolve(await task());
        } catch (error) {
          reject(error);
        }
      });
      this.#loop ??= this.#work();
    });
  }

  #fail(error: unknown) {
    this.#failure ??= error;
    for (const request of [...this.#outcomes.keys()]) this.#end(request, error);
  }
}
