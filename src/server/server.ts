/**
 * The server as a function from requests to responses; whoever listens hands it what comes.
 * @module
 */
import { OpenAPIHono } from "@hono/zod-openapi";
import { cors } from "hono/cors";
import type { LLM } from "../llm.ts";
import { VERSION } from "../version.ts";
import { Admission } from "./admission.ts";
import { ApiError, apiErrorOf } from "./api_error.ts";
import { chatCompletions } from "./chat_completions.ts";
import { completions } from "./completions.ts";
import type { ServerContext } from "./context.ts";
import { detokenize } from "./detokenize.ts";
import { embeddings } from "./embeddings.ts";
import type { Endpoint } from "./endpoint.ts";
import { Gate, type GateOptions } from "./gate.ts";
import { health, ready } from "./health.ts";
import { defaultLimits, type ServerLimits } from "./limits.ts";
import { Metrics, metrics } from "./metrics.ts";
import { modelByName, models } from "./models.ts";
import { PAGE_PATHS, pageFile } from "./page.ts";
import { responses } from "./responses.ts";
import { type Reopen, type ReopenTerms, ServingModel } from "./serving_model.ts";
import { tokenize } from "./tokenize.ts";
import { tokenizerInfo } from "./tokenizer_info.ts";

/** How a server serves. */
export interface ServerOptions extends GateOptions {
  /** Names under which the model is served. Default `hybridseek`. */
  names?: readonly string[];
  /** What a client may take. */
  limits?: Partial<ServerLimits>;
  /** Origins whose pages may use the server from a browser, `*` for all. Default: none. */
  corsOrigins?: readonly string[];
  /** Opens the model again after it failed, closing the failed one first. Default: it stays failed. */
  reopen?: Reopen;
  /** How often that is tried, and after how long. Default: five times, within 15 seconds. */
  reopenTerms?: ReopenTerms;
  /** Further lines of /metrics, in Prometheus' text format: the process's own figures, for example. */
  moreMetrics?(): Promise<string>;
  /** Told of every failure that is the server's own, once however many requests it ends. Default: nobody is. */
  onError?(error: unknown): void;
}

/** A server. */
export interface Server {
  /** Answers a request; for `Deno.serve`, Node and whatever else has requests and responses. */
  fetch(request: Request): Promise<Response>;
  /** Refuses new requests, and waits for those that are on their way. */
  drain(): Promise<void>;
}

const ENDPOINTS: readonly Endpoint[] = [
  chatCompletions,
  completions,
  responses,
  embeddings,
  models,
  modelByName,
  tokenize,
  detokenize,
  tokenizerInfo,
  health,
  ready,
  metrics,
];

/** The one path that needs no key. */
const OPEN_PATH = "/health";
/** The client went before it had its answer; nobody reads this. */
const CLIENT_CLOSED_REQUEST = 499;

/**
 * Makes a server of a model, with OpenAI's API.
 *
 * @param llm The model; it stays the caller's, to be closed after the server has been drained. Open it with
 *   `maxQueuedRequests`, else all that come wait.
 * @param options How it serves.
 * @returns The server.
 * @throws {RangeError} If an API key is empty or there is no name.
 * @example
 * ```ts
 * import { LLM } from "@hybridseek/hybridseek";
 * import { createServer } from "@hybridseek/hybridseek/server";
 * import { strict as assert } from "node:assert";
 *
 * await using llm = await LLM.open();
 * const server = createServer(llm);
 * const response = await server.fetch(
 *   new Request("http://localhost/v1/completions", {
 *     method: "POST",
 *     headers: { "content-type": "application/json" },
 *     body: JSON.stringify({ prompt: "Once upon a time", max_tokens: 8 }),
 *   }),
 * );
 * const { choices } = await response.json();
 * assert.equal(choices.length, 1);
 * // Deno.serve(server.fetch) listens.
 * ```
 */
export function createServer(llm: LLM, options: ServerOptions = {}): Server {
  const { names = ["hybridseek"], corsOrigins = [], onError = () => {} } = options;
  if (names.length === 0) throw new RangeError("A server needs a name for its model.");
  const limits = { ...defaultLimits, ...options.limits };
  const model = new ServingModel(llm, options.reopen, onError, options.reopenTerms);
  const admission = new Admission(limits);
  let reported: unknown;
  const context: ServerContext = {
    get llm() {
      return model.llm;
    },
    names,
    created: Math.floor(Date.now() / 1e3),
    limits,
    admission,
    metrics: new Metrics({
      requests: () => admission.requests,
      llm: () => model.described,
      failures: () => model.failures,
      ready: () => model.unready === undefined,
      more: options.moreMetrics,
    }),
    unready: () => admission.closed ? "the server is stopping" : model.unready,
    errorOf(error) {
      const told = apiErrorOf(error);
      if (told.status === 500 && error !== reported) onError(error);
      if (told.status === 500) reported = error;
      model.check();
      return told;
    },
  };
  const gate = new Gate(options);
  const app = new OpenAPIHono<{ Variables: { client: string } }>();
  app.use(async (c, next) => {
    gate.checkHost(c.req.raw);
    await next();
  });
  if (corsOrigins.length > 0) {
    app.use(cors({ origin: [...corsOrigins], exposeHeaders: ["retry-after"] }));
  }
  app.use(async (c, next) => {
    c.set("client", c.req.path === OPEN_PATH ? "" : await gate.client(c.req.raw));
    await next();
  });
  for (const { route, answer } of ENDPOINTS) {
    app.openAPIRegistry.registerPath(route);
    app.on(route.method, route.path.replace(/\{(\w+)\}/, ":$1{.+}"), async (c) => {
      const incoming = { request: c.req.raw, client: c.get("client"), params: c.req.param() };
      return await answer(incoming, context);
    });
  }
  let description: string | undefined;
  app.get("/openapi.json", (c) => {
    description ??= JSON.stringify(describeApi(app));
    return c.body(description, 200, { "content-type": "application/json" });
  });
  for (const path of Object.keys(PAGE_PATHS) as (keyof typeof PAGE_PATHS)[]) {
    app.get(path, () => pageFile(path));
  }
  for (const path of new Set(app.routes.map(({ path }) => path))) {
    if (path === "/*") continue;
    const allow = app.routes.filter((route) => route.path === path)
      .map(({ method }) => method === "GET" ? "GET, HEAD" : method).join(", ");
    app.all(path, (c) => refuse(methodNotAllowed(c.req.method, c.req.path, allow)));
  }
  app.notFound((c) => refuse(notFound(c.req.path)));
  app.onError((error, c) => {
    if (c.req.raw.signal.aborted) return new Response(null, { status: CLIENT_CLOSED_REQUEST });
    return refuse(context.errorOf(error));
  });
  function refuse(error: ApiError): Response {
    context.metrics.refused(error.status);
    return error.toResponse();
  }
  return {
    fetch: async (request) => await app.fetch(request),
    drain() {
      model.stop();
      return admission.close();
    },
  };
}

function notFound(path: string): ApiError {
  return new ApiError(404, `Cannot find ${path}: there is no such endpoint.`, {
    type: "not_found_error",
    code: "not_found",
  });
}

function methodNotAllowed(method: string, path: string, allow: string): ApiError {
  return new ApiError(405, `Cannot ${method} ${path}: it takes ${allow}.`, {
    code: "method_not_allowed",
    headers: { allow },
  });
}

function describeApi(app: OpenAPIHono<{ Variables: { client: string } }>) {
  app.openAPIRegistry.registerComponent("securitySchemes", "key", {
    type: "http",
    scheme: "bearer",
  });
  return app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "hybridseek",
      version: VERSION,
      description: "OpenAI's API, and vLLM's tokenizer.",
    },
    security: [{ key: [] }],
  });
}
