/**
 * The engine's loop: schedule, run, sample, commit, until no request is left. Requests may come and go
 * while it runs; each step holds all sequences that are running then.
 * @module
 */
import type { Backend, ExpertStats } from "../backend/backend.ts";
import { BackendError } from "../errors.ts";
import type { Sampler } from "../sampling/sampler.ts";
import { type Generated, Generation, type GenerationOptions } from "./generation.ts";
import { Scheduler, type StepPart } from "./scheduler.ts";
import { Scoring } from "./scoring.ts";
import type { Sequence } from "./sequence.ts";

/** What the engine runs. */
type EngineRequest = Generation | Scoring;

/** How a request's caller hears of its end. */
interface Outcome {
  resolve(): void;
  reject(error: unknown): void;
}

/** Runs requests on one backend. */
export class Engine {
  readonly #backend: Backend;
  readonly #sampler: Sampler;
  readonly #vocabSize: number;
  readonly #scheduler: Scheduler<EngineRequest>;
  readonly #outcomes = new Map<EngineRequest, Outcome>();
  #loop: Promise<void> | undefined;
  /** Why nothing can run any more. */
  #failure: unknown;

  /**
   * @param backend Computes; the engine closes it.
   * @param sampler Draws tokens.
   * @param vocabSize Columns of the logits.
   */
  constructor(backend: Backend, sampler: Sampler, vocabSize: number) {
    this.#backend = backend;
    this.#sampler = sampler;
    this.#vocabSize = vocabSize;
    this.#scheduler = new Scheduler(backend.limits);
  }

  /**
   * Generates.
   *
   * @param options What and how.
   * @returns The finished choices.
   * @throws {CapacityError} If the request does not fit the context, the cache or a step.
   * @throws {BackendError} If the backend failed or was closed.
   * @throws The signal's reason, an AbortError by default, if it was aborted.
   */
  async generate(options: GenerationOptions): Promise<Generated> {
    const { contextLength } = this.#backend.limits;
    const request = new Generation(options, contextLength);
    await this.#run(request, options.signal);
    return request.result;
  }

  /**
   * Computes logits without generating.
   *
   * @param tokenIds The tokens, at least one.
   * @param positions Whose logits are wanted, rising.
   * @param signal Stops it within one step.
   * @returns [positions, vocab], owned by the caller. Throws as {@linkcode generate} does.
   */
  async score(
    tokenIds: readonly number[],
    positions: readonly number[],
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const request = new Scoring(tokenIds, positions, this.#vocabSize);
    await this.#run(request, signal);
    return request.logits;
  }

  /** See {@linkcode Backend.expertStats}. */
  get expertStats(): ExpertStats | undefined {
    return this.#backend.expertStats;
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

  async #run(request: EngineRequest, signal: AbortSignal | undefined): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    signal?.throwIfAborted();
    this.#scheduler.add(request);
    const done = new Promise<void>((resolve, reject) => {
      this.#outcomes.set(request, { resolve, reject });
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
      for (let step = this.#scheduler.next(); step; step = this.#scheduler.next()) {
        if (step.copies.length > 0) await this.#backend.copyBlocks(step.copies);
        const { logits } = await this.#backend.run(step.plan);
        this.#checkLogits(logits, step.plan.logitRows.length);
        this.#scheduler.commit(step);
        for (const part of step.parts) this.#take(part, logits);
      }
    } catch (error) {
      this.#fail(error);
    }
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

  /** Hands a part's logits to its request, unless that has ended while the step ran. */
  #take({ sequence, wanted, firstRow }: StepPart<EngineRequest>, logits: Float32Array) {
    const { request } = sequence;
    if (!this.#outcomes.has(request)) return;
    const row = (index: number) => {
      const begin = (firstRow + index) * this.#vocabSize;
      return logits.subarray(begin, begin + this.#vocabSize);
    };
    try {
      for (const [index, position] of wanted.entries()) {
        if (request instanceof Scoring) request.takeLogits(position, row(index));
        else if (position < request.promptTokenIds.length - 1) {
          request.takePromptLogits(this.#sampler, position, row(index));
        } else {
          this.#extend(sequence as Sequence<Generation>, row(index));
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

  #fail(error: unknown) {
    this.#failure ??= error;
    for (const request of [...this.#outcomes.keys()]) this.#end(request, error);
  }
}
