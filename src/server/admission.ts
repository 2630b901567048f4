/**
 * Who is let in: how many streams each client has. How many prompts run or wait is the engine's to bound.
 * @module
 */
import { ApiError } from "./api_error.ts";
import type { ServerLimits } from "./limits.ts";

/** Counts what is on its way. */
export class Admission {
  readonly #limits: ServerLimits;
  readonly #streams = new Map<string, number>();
  #requests = 0;
  #closed = false;
  #emptied: (() => void) | undefined;

  /** @param limits How much is let in. */
  constructor(limits: ServerLimits) {
    this.#limits = limits;
  }

  /** Requests on their way. */
  get requests(): number {
    return this.#requests;
  }

  /** Whether nothing is let in any more. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Lets a request in.
   *
   * @param client Whose it is: one name for each API key.
   * @param stream Whether it is a stream.
   * @returns What to call once when it has ended.
   * @throws {ApiError} 429 if the client has too many streams, 503 after {@linkcode close}.
   */
  enter(client: string, stream: boolean): () => void {
    if (this.#closed) {
      throw new ApiError(503, "Cannot run the request: the server is stopping.", {
        type: "server_error",
        code: "stopping",
        headers: { "retry-after": "5" },
      });
    }
    const streams = this.#streams.get(client) ?? 0;
    if (stream && streams >= this.#limits.streamsPerKey) {
      throw new ApiError(
        429,
        `Cannot run the request now: the client has ${streams} streams, as many as it may; try again.`,
        { type: "rate_limit_error", code: "too_many_streams", headers: { "retry-after": "1" } },
      );
    }
    this.#requests++;
    if (stream) this.#streams.set(client, streams + 1);
    return () => {
      this.#requests--;
      if (stream) this.#leaveStream(client);
      if (this.#requests === 0) this.#emptied?.();
    };
  }

  /** Lets nothing in any more. @returns When all that was let in has ended. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#requests > 0) await new Promise<void>((resolve) => this.#emptied = resolve);
  }

  #leaveStream(client: string) {
    const streams = this.#streams.get(client)! - 1;
    if (streams > 0) this.#streams.set(client, streams);
    else this.#streams.delete(client);
  }
}
