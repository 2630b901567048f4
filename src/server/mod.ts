/**
 * A server with OpenAI's API: a function from requests to responses that runs wherever JavaScript does.
 * @module
 */
export { defaultLimits, type ServerLimits } from "./limits.ts";
export { createServer, type Server, type ServerOptions } from "./server.ts";
export type { GateOptions } from "./gate.ts";
export type { Reopen, ReopenTerms } from "./serving_model.ts";
