/**
 * The model of a server: it may fail, and be opened again.
 * @module
 */
import { BackendError } from "../errors.ts";
import type { LLM } from "../llm.ts";
import { ApiError } from "./api_error.ts";

/** Opens the model again after it failed; closes the failed one first. */
export type Reopen = () => Promise<LLM>;

/** A model, or the want of one. */
export class ServingModel {
  #llm: LLM;
  #failure: unknown;
  #state: "ready" | "reopening" | "failed" = "ready";
  readonly #reopen: Reopen | undefined;
  readonly #report: (error: unknown) => void;

  /**
   * @param llm The model.
   * @param reopen Opens it again; without it a failure is the end.
   * @param report Told when it could not be opened again.
   */
  constructor(llm: LLM, reopen: Reopen | undefined, report: (error: unknown) => void) {
    this.#llm = llm;
    this.#reopen = reopen;
    this.#report = report;
  }

  /** Why there is no model; `undefined` while there is one. */
  get unready(): string | undefined {
    if (this.#state === "ready") return undefined;
    return this.#state === "reopening"
      ? "the model failed and is being opened again"
      : "the model failed";
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

  /**
   * Takes note of an error: a backend that failed once runs nothing any more.
   *
   * @param error Any.
   */
  heed(error: unknown): void {
    if (!(error instanceof BackendError) || error.code !== "backend_failed") return;
    if (error === this.#failure) return; // all requests that ran are told the same
    this.#failure = error;
    this.#state = this.#reopen ? "reopening" : "failed";
    this.#reopen?.().then((llm) => {
      this.#llm = llm;
      this.#state = "ready";
    }, (cause) => {
      this.#state = "failed";
      this.#report(cause);
    });
  }
}
