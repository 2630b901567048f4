/**
 * What all endpoints of a server share.
 * @module
 */
import type { LLM } from "../llm.ts";
import type { Admission } from "./admission.ts";
import { ApiError } from "./api_error.ts";
import type { ServerLimits } from "./limits.ts";
import type { Metrics } from "./metrics.ts";

/** What all endpoints of a server share. */
export interface ServerContext {
  /** The model. Asking for it throws an {@linkcode ApiError} while there is none. */
  readonly llm: LLM;
  /** Names under which it is served; the first is its own. */
  readonly names: readonly string[];
  /** When the server began, in seconds since 1970. */
  readonly created: number;
  /** What a client may take. */
  readonly limits: ServerLimits;
  /** Who is let in. */
  readonly admission: Admission;
  /** What is counted. */
  readonly metrics: Metrics;
  /** Why no requests may come; `undefined` if they may. */
  unready(): string | undefined;
  /** What a client is told of an error; a failure of the server's own is reported as well. */
  errorOf(error: unknown): ApiError;
}

/**
 * Checks that a request means the model that is served.
 *
 * @param context Of the server.
 * @param model The name that the request gives; left out, it means the model that there is.
 * @returns The name.
 * @throws {ApiError} 404 if no model has it.
 */
export function servedName({ names }: ServerContext, model: string = names[0]!): string {
  if (names.includes(model)) return model;
  throw new ApiError(404, `Cannot find model ${model}: this server has ${names.join(", ")}.`, {
    type: "not_found_error",
    param: "model",
    code: "model_not_found",
  });
}
