/**
 * Server-sent events: a response whose pieces go out as they come.
 * @module
 */
import type { ServerContext } from "./context.ts";

/** Sends an event. @param data An object, written as JSON, or a text. @param event Its type, if it has one. */
export type Send = (data: unknown, event?: string) => void;

/** What a stream is made of. */
export interface EventStreamOptions {
  /** Aborted when the client goes. */
  signal: AbortSignal;
  /** Of the server: how much a client may leave unread, and how long a silence may be. */
  context: ServerContext;
  /**
   * Makes the events.
   * @param send Sends one.
   * @param signal Aborted when the client has gone, or reads too slowly.
   */
  produce(send: Send, signal: AbortSignal): Promise<void>;
}

const HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  "x-accel-buffering": "no",
};

/**
 * Starts a stream. The response is there with the first event, or after a moment of silence; what fails
 * before is thrown, so that it has a status of its own; what fails later is sent as an event of its own.
 *
 * @param options What it is made of.
 * @returns The response.
 */
export async function eventStream(options: EventStreamOptions): Promise<Response> {
  const { signal, context, produce } = options;
  const { unreadBytes, keepAliveMs } = context.limits;
  const abort = new AbortController();
  const onGone = () => abort.abort(new DOMException("The client has gone.", "AbortError"));
  if (signal.aborted) onGone();
  signal.addEventListener("abort", onGone, { once: true });

  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const body = new ReadableStream<Uint8Array>(
    { start: (given) => void (controller = given), cancel: onGone },
    { highWaterMark: unreadBytes, size: ({ byteLength }) => byteLength },
  );
  const encoder = new TextEncoder();
  let open!: () => void;
  const opened = new Promise<void>((resolve) => open = resolve);
  let [begun, silent] = [false, true];
  const write = (text: string) => {
    if (abort.signal.aborted) return;
    if (controller.desiredSize! <= 0) {
      const slow = new Error(`The client has left ${unreadBytes} bytes unread.`);
      controller.error(slow);
      return abort.abort(slow);
    }
    controller.enqueue(encoder.encode(text));
    [begun, silent] = [true, false];
    open();
  };
  const send: Send = (data, event) => {
    const text = typeof data === "string" ? data : JSON.stringify(data);
    write(`${event ? `event: ${event}\n` : ""}data: ${text}\n\n`);
  };
  const timer = setInterval(() => {
    if (silent) write(": keep-alive\n\n");
    silent = true;
  }, keepAliveMs);

  const ended = produce(send, abort.signal).catch((error: unknown) => {
    if (!begun) throw error;
    if (!abort.signal.aborted) send(context.errorOf(error));
  }).finally(() => {
    clearInterval(timer);
    signal.removeEventListener("abort", onGone);
    if (begun && !abort.signal.aborted) controller.close();
  });
  await Promise.race([opened, ended]);
  return new Response(body, { headers: HEADERS });
}
