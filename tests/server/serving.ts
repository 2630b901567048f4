// deno-lint-ignore-file no-explicit-any
/**
 * What the server's tests share: the embedded model, requests to a server without a socket, events of a stream.
 * @module
 */
import { strict as assert } from "node:assert";
import { LLM } from "../../mod.ts";
import { createServer, type Server, type ServerOptions } from "../../src/server/mod.ts";

let opened: Promise<LLM> | undefined;
/** The embedded model, opened once. */
export function model(): Promise<LLM> {
  return opened ??= LLM.open();
}

/** A server of the embedded model. */
export async function serverOf(options: ServerOptions = {}): Promise<Server> {
  return createServer(await model(), options);
}

/** A request as clients send them. */
export function request(path: string, body?: unknown, init: RequestInit = {}): Request {
  return new Request(`http://localhost${path}`, {
    ...(body !== undefined && {
      method: "POST",
      body: typeof body === "string" ? body : JSON.stringify(body),
    }),
    ...init,
    headers: { "content-type": "application/json", ...init.headers },
  });
}

/** JSON of an answer, its HTTP status and headers. */
export async function ask(
  server: Server,
  path: string,
  body?: unknown,
  init?: RequestInit,
): Promise<any> {
  const response = await server.fetch(request(path, body, init));
  const text = await response.text();
  assert.match(response.headers.get("content-type") ?? "", /^application\/json/, text);
  return { ...JSON.parse(text), http: response.status, headers: response.headers };
}

/** An event of a stream. */
export interface ServerEvent {
  /** Its type, where it has one. */
  event?: string;
  /** Its JSON; `[DONE]` as it is. */
  data: any;
}

/** The events of a stream's text, which must be nothing but events and comments. */
export function eventsOf(text: string): ServerEvent[] {
  assert(text.endsWith("\n\n"), "the stream ends within an event");
  return text.slice(0, -2).split("\n\n").filter((block) => !block.startsWith(":")).map((block) => {
    const match = /^(?:event: (.+)\n)?data: (.+)$/.exec(block);
    assert(match, `no event: ${block}`);
    const [, event, data] = match;
    return { ...(event && { event }), data: data === "[DONE]" ? data : JSON.parse(data!) };
  });
}

/** The events of an answer. */
export async function stream(server: Server, path: string, body: object): Promise<ServerEvent[]> {
  const response = await server.fetch(request(path, { ...body, stream: true }));
  const text = await response.text();
  assert.equal(response.status, 200, text);
  assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
  return eventsOf(text);
}

/** An error's fields, after a check that it has OpenAI's and no others. */
export function errorOf(
  answer: any,
): { status: number; type: string; param: string | null; code: string | null; message: string } {
  assert.deepEqual(Object.keys(answer.error), ["message", "type", "param", "code"]);
  assert(typeof answer.error.message === "string" && answer.error.message.length > 0);
  return { status: answer.http, ...answer.error };
}
