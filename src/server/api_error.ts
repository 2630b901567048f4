/**
 * Errors as OpenAI's API reports them: `{ error: { message, type, param, code } }`.
 * @module
 */
import { z } from "@hono/zod-openapi";
import { HybridseekError, InvalidArgumentError } from "../errors.ts";
import { resolveSamplingParams } from "../sampling_params.ts";

/** OpenAI's kinds of errors. */
export type ApiErrorType =
  | "invalid_request_error"
  | "authentication_error"
  | "permission_error"
  | "not_found_error"
  | "rate_limit_error"
  | "server_error";

/** What an error says beside its message. */
export interface ApiErrorOptions extends ErrorOptions {
  /** Its kind; `invalid_request_error` by default. */
  type?: ApiErrorType;
  /** The field of the request that it is about. */
  param?: string;
  /** What went wrong, for programs. */
  code?: string;
  /** Further headers of the response. */
  headers?: Record<string, string>;
}

/** A refusal or failure that a client is told of. */
export class ApiError extends Error {
  /** HTTP status. */
  readonly status: number;
  /** Further headers of the response. */
  readonly headers: Record<string, string>;
  readonly #fields: { type: ApiErrorType; param: string | null; code: string | null };

  /**
   * @param status HTTP status.
   * @param message What is wrong and what to do.
   * @param options Kind, field, code and headers.
   */
  constructor(status: number, message: string, options: ApiErrorOptions = {}) {
    super(message, options);
    const { type = "invalid_request_error", param = null, code = null, headers = {} } = options;
    this.status = status;
    this.headers = headers;
    this.#fields = { type, param, code };
  }

  /** The body of the response. */
  toJSON(): {
    error: { message: string; type: string; param: string | null; code: string | null };
  } {
    return { error: { message: this.message, ...this.#fields } };
  }

  /** The response. */
  toResponse(): Response {
    return Response.json(this, { status: this.status, headers: this.headers });
  }
}

/** The body of every error, for the API's description. */
export const errorBody: z.ZodType = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
}).openapi("Error");

/** The library's errors by their code: status and kind. What is not here is the server's failure. */
const STATUS: Record<string, [status: number, type: ApiErrorType, headers?: HeadersOf]> = {
  invalid_argument: [400, "invalid_request_error"],
  context_length_exceeded: [400, "invalid_request_error"],
  out_of_memory: [400, "invalid_request_error"],
  unsupported: [400, "invalid_request_error"],
  queue_full: [429, "rate_limit_error", { "retry-after": "1" }],
  deadline_exceeded: [504, "server_error"],
  closed: [503, "server_error", { "retry-after": "5" }],
  backend_failed: [500, "server_error"],
};

type HeadersOf = Record<string, string>;

/** Fields of the request whose names are not those of the library in snake case. */
const PARAMS: Record<string, string> = { promptTokenIds: "prompt", conversations: "messages" };

/** The library's names of parameters, which its messages have and clients do not know. */
const NAMES = new RegExp(
  `\\b(${Object.keys(resolveSamplingParams()).join("|")}|addGenerationPrompt)\\b`,
  "g",
);

/**
 * What a client is told of an error.
 *
 * @param error Anything that was thrown.
 * @returns It; of an unforeseen error no more than that there was one.
 */
export function apiErrorOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const known = error instanceof HybridseekError ? STATUS[error.code] : undefined;
  if (!known) {
    return new ApiError(500, "The server failed.", {
      type: "server_error",
      code: "internal_error",
      cause: error,
    });
  }
  const { message, code } = error as HybridseekError;
  const [status, type, headers] = known;
  if (!(error instanceof InvalidArgumentError)) {
    const named = message.replace(NAMES, snakeCase);
    return new ApiError(status, named, { type, code, headers, cause: error });
  }
  const param = PARAMS[error.field] ?? snakeCase(error.field);
  const named = message.replaceAll(error.field, param).replace(NAMES, snakeCase);
  return new ApiError(status, named, { type, code, param, cause: error });
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
