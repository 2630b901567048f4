/**
 * What an endpoint is, and how it reads the body of a request.
 * @module
 */
import { createRoute, z } from "@hono/zod-openapi";
import { ApiError, errorBody } from "./api_error.ts";
import type { ServerContext } from "./context.ts";

/** A request on its way through the server. */
export interface IncomingRequest {
  /** As it came. */
  request: Request;
  /** Whose it is, see {@linkcode Gate.client}. */
  client: string;
  /** Named parts of its path. */
  params: Readonly<Record<string, string>>;
}

/** A method and path that the server answers. */
export interface Endpoint {
  /** Its description in /openapi.json. */
  route: ReturnType<typeof createRoute>;
  /** Answers. Throws what {@linkcode apiErrorOf} takes. */
  answer(incoming: IncomingRequest, context: ServerContext): Response | Promise<Response>;
}

/** What an endpoint says of itself. */
export interface EndpointDescription {
  /** Method and path; parts in braces have names. */
  at: `${"GET" | "POST"} /${string}`;
  /** In a few words. */
  summary: string;
  /** Its body, if it has one. */
  body?: z.ZodType;
  /** What it returns. */
  returns: { description: string; schema?: z.ZodType; type?: string; stream?: true };
  /** Statuses of refusals, beside those that the gate and the reading of a body have. */
  refusals?: readonly number[];
}

/** What the statuses of refusals mean. */
const REFUSALS: Record<number, string> = {
  400: "The request is malformed or asks for what is not supported.",
  401: "No valid API key.",
  403: "The host is not one of the server's names.",
  404: "There is no such model or endpoint.",
  413: "The body is too large.",
  415: "The body is not JSON.",
  429: "Too much at a time; come again after Retry-After seconds.",
  500: "The server failed.",
  503: "The server is stopping, or its model is being opened again.",
  504: "The request took longer than it may.",
};

/**
 * Makes the description of an endpoint.
 *
 * @param description What it says of itself.
 * @returns Its route.
 */
export function describe(description: EndpointDescription): Endpoint["route"] {
  const { at, summary, body, returns, refusals = [] } = description;
  const [method, path] = at.split(" ") as ["GET" | "POST", string];
  const statuses = [401, 403, ...body ? [400, 413, 415] : [], 500, ...refusals];
  const { type = "application/json", schema, stream } = returns;
  const content = {
    ...(schema && { [type]: { schema } }),
    ...(stream && { "text/event-stream": { schema: z.string() } }),
  };
  const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name!);
  return createRoute({
    method: method.toLowerCase() as "get" | "post",
    path,
    summary,
    request: {
      ...(body && { body: { required: true, content: { "application/json": { schema: body } } } }),
      ...(names.length > 0 && {
        params: z.object(Object.fromEntries(names.map((name) => [name, z.string()]))),
      }),
    },
    responses: {
      200: { description: returns.description, content },
      ...Object.fromEntries(statuses.map((status) => [status, {
        description: REFUSALS[status]!,
        content: { "application/json": { schema: errorBody } },
      }])),
    },
  });
}

/**
 * Reads a body.
 *
 * @param request Whose.
 * @param schema What it must be; fields that it does not know stay.
 * @param most Bytes that it may have.
 * @returns The body, `null` fields left out.
 * @throws {ApiError} 415 if it is not said to be JSON, 413 if it is too large, 400 if it is no JSON or not
 *   what it must be; `param` names the field.
 */
export async function readBody<Body>(
  request: Request,
  schema: z.ZodType,
  most: number,
): Promise<Body> {
  const type = request.headers.get("content-type") ?? "";
  // A page of somebody else's may send other types here without being asked whether it may.
  if (!/^application\/(\S+\+)?json\b/i.test(type)) {
    throw new ApiError(415, "Cannot read the request: its content-type must be application/json.", {
      code: "unsupported_media_type",
    });
  }
  const text = await readText(request, most);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ApiError(
      400,
      `Cannot read the request: it is no JSON: ${(cause as Error).message}.`,
      {
        code: "invalid_json",
        cause,
      },
    );
  }
  const result = schema.safeParse(withoutNulls(value));
  if (result.success) return result.data as Body;
  const { path, message } = result.error.issues[0]!;
  const param = path.map((key, i) =>
    typeof key === "number" ? `[${key}]` : `${i ? "." : ""}${String(key)}`
  )
    .join("");
  throw new ApiError(400, `Cannot use ${param || "the request"}: ${message}.`, {
    param: param || undefined,
    code: "invalid_value",
  });
}

/** A field that is `null` counts as left out, as in OpenAI's API. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== null));
}

async function readText(request: Request, most: number): Promise<string> {
  const tooLarge = () =>
    new ApiError(413, `Cannot read the request: its body has more than ${most} bytes.`, {
      code: "request_too_large",
    });
  if (Number(request.headers.get("content-length") ?? 0) > most) throw tooLarge();
  const decoder = new TextDecoder();
  let [text, bytes] = ["", 0];
  for await (const piece of request.body ?? []) {
    bytes += piece.length;
    if (bytes > most) throw tooLarge();
    text += decoder.decode(piece, { stream: true });
  }
  return text + decoder.decode();
}
