/**
 * Fields of a request that say how it is to be treated beside others, as vLLM's.
 * @module
 */
import { z } from "@hono/zod-openapi";
import type { CallOptions } from "../llm.ts";
import { ApiError } from "./api_error.ts";
import type { ServerLimits } from "./limits.ts";

/** The fields, as {@linkcode termFields} has checked them. */
export interface TermFields {
  /** See {@linkcode CallOptions}, as both. */
  priority?: number;
  cache_salt?: string;
}

/** The fields for a schema. */
export const termFields: Record<keyof TermFields, z.ZodType> = {
  priority: z.int().optional(),
  cache_salt: z.string().min(1).max(1024).optional(),
};

/**
 * How a request is to be treated. Clients of different keys never find each other's prompts in the cache,
 * whatever salt they give.
 *
 * @param fields Checked.
 * @param client Whose it is, see {@linkcode Gate.client}: of one length, so no other one and salt join alike.
 * @param limits Of the server.
 * @returns The library's options.
 * @throws {ApiError} 400 if it says a priority and may not.
 */
export function termsOf(
  { priority, cache_salt = "" }: TermFields,
  client: string,
  { requestMs, priorities }: ServerLimits,
): Omit<CallOptions, "signal"> {
  if (priority && !priorities) {
    throw new ApiError(400, "Cannot use priority: this server treats all requests alike.", {
      param: "priority",
      code: "unsupported",
    });
  }
  return { priority, cacheSalt: client + cache_salt, timeoutMs: requestMs };
}
