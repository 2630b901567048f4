/**
 * `GET /health` and `GET /ready`
 * @module
 */
import { z } from "@hono/zod-openapi";
import { ApiError } from "./api_error.ts";
import { describe, type Endpoint } from "./endpoint.ts";

const status = z.object({ status: z.string() });

/** `GET /health`: the one address that needs no key. */
export const health: Endpoint = {
  route: describe({
    at: "GET /health",
    summary: "Whether the process lives",
    returns: { description: "It does.", schema: status },
  }),
  answer: () => Response.json({ status: "ok" }),
};

/** `GET /ready` */
export const ready: Endpoint = {
  route: describe({
    at: "GET /ready",
    summary: "Whether requests may come",
    returns: { description: "They may.", schema: status },
    refusals: [503],
  }),
  answer(_, context) {
    const reason = context.unready();
    if (reason === undefined) return Response.json({ status: "ready" });
    throw new ApiError(503, `Not ready: ${reason}.`, {
      type: "server_error",
      code: "not_ready",
      headers: { "retry-after": "5" },
    });
  },
};
