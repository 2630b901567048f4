/**
 * The model of a server: it may fail, and be opened again.
 * @module
 */
import type { LLM } from "../llm.ts";
import { ApiError } from "./api_error.ts";

/** Opens the model again after it failed; closes the failed one first. */
export type Reopen = () => Promise<LLM>;

/** How it is tried to open a model again. */
export interface ReopenTerms {
  /** How often. Default 5. */
  attempts?: number;
  /** Milliseconds after a first attempt that failed; twice as many after each further one. Default 1,000. */
  delayMs?: number;
}

/** A model, or the want of one. */
export class ServingModel {
  #llm: LLM;
  #state: "ready" | "reopening" | "failed" = "ready";
  #failures = 0;
  readonly #reopen: Reopen | undefined;
  readonly #report: (error: unknown) => void;
  readonly #terms: Required<ReopenTerms>;
  readonly #stop = new AbortController();

  /**
   * @param llm The model.
   * @param reopen Opens it again; without it a failure is the end.
   * @param report Told of every attempt to open it again that failed.
   * @param terms How it is tried.
   */
  constructor(
    llm: LLM,
    reopen: Reopen | undefined,
    report: (error: unknown) => void,
    { attempts = 5, delayMs = 1000 }: ReopenTerms = {},
  ) {
    this.#llm = llm;
    this.#reopen = reopen;
    this.#report = report;
    this.#terms = { attempts, delayMs };
  }

  /** Why there is no model; `undefined` while there is one. */
  get unready(): string | undefined {
    if (this.#state === "ready") return undefined;
    return this.#state === "reopening"
      ? "the model failed and is being opened again"
      : "the model failed";
  }

  /** How often it failed. */
  get failures(): number {
    return this.#failures;
  }

  /** What it was opened as, whether it works or not. */
  get described(): LLM {
    return this.#llm;
  }

  /**
   * The model.
   *
   * @throws {ApiError} 503 while there is none.
   */
  get llm(): LLM {
    if (this.unready === undefined) return this.#llm;
    throw new ApiError(503, `Cannot run the request: ${this.unready}.`, {
      type: "server_error",
      code: "model_failed",
      headers: { "retry-after": "5" },
    });
  }

  /** Looks whether the model still runs, after a request ended with an error; opens it again if not. */
  check(): void {
    if (this.#state !== "ready" || this.#llm.failure === undefined) return;
    this.#failures++;
    this.#state = "reopening";
    void this.#recover();
  }

  /** Tries no more. */
  stop(): void {
    this.#stop.abort();
  }

  async #recover(): Promise<void> {
    const { attempts, delayMs } = this.#terms;
    const { signal } = this.#stop;
    for (let attempt = 0; this.#reopen && attempt < attempts; attempt++) {
      if (attempt > 0) await pause(delayMs * 2 ** (attempt - 1), signal);
      if (signal.aborted) break;
      try {
        this.#llm = await this.#reopen();
        this.#state = "ready";
        return;
      } catch (error) {
        this.#report(error);
      }
    }
    this.#state = "failed";
  }
}

/** Waits, but not if the signal is aborted. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
