/**
 * Who is let in: how many prompts run or wait, and how many streams each client has.
 * @module
 */
import { ApiError } from "./api_error.ts";
import type { ServerLimits } from "./limits.ts";

/** What is to be let in. */
export interface Entry {
  /** Whose it is: one name for each API key. */
  client: string;
  /** How many prompts it has. */
  prompts: number;
  /** Whether it is a stream. */
  stream: boolean;
}

/** Counts what is on its way. */
export class Admission {
  readonly #limits: ServerLimits;
  readonly #streams = new Map<string, number>();
  #prompts = 0;
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
   * Lets something in.
   *
   * @param entry It.
   * @returns What to call once when it has ended.
   * @throws {ApiError} 429 if there is too much of it, 503 after {@linkcode close}.
   */
  enter({ client, prompts, stream }: Entry): () => void {
    if (this.#closed) {
      throw new ApiError(503, "Cannot run the request: the server is stopping.", {
        type: "server_error",
        code: "stopping",
        headers: { "retry-after": "5" },
      });
    }
    const { prompted, streamsPerKey } = this.#limits;
    if (this.#prompts + prompts > prompted) {
      throw full(`${this.#prompts} prompts run or wait, ${prompted} may`, "queue_full");
    }
    const streams = this.#streams.get(client) ?? 0;
    if (stream && streams >= streamsPerKey) {
      throw full(`the client has ${streams} streams, as many as it may`, "too_many_streams");
    }
    this.#prompts += prompts;
    this.#requests++;
    if (stream) this.#streams.set(client, streams + 1);
    return () => {
      this.#prompts -= prompts;
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

function full(what: string, code: string): ApiError {
  return new ApiError(429, `Cannot run the request now: ${what}; try again.`, {
    type: "rate_limit_error",
    code,
    headers: { "retry-after": "1" },
  });
}
