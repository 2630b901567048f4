/**
 * Listens for HTTP requests, in Deno with its own server, elsewhere with Node's.
 * @module
 */
import type { AddressInfo } from "node:net";
import { InvalidArgumentError } from "../errors.ts";

/** Where to listen. */
export interface ListenOptions {
  /** Name or number of the network interface. */
  host: string;
  /** Port; 0 takes a free one. */
  port: number;
}

/** A listener. */
export interface Listener {
  /** Port it listens on. */
  port: number;
  /** Takes no more connections, and waits until those that are open have their answers. */
  close(): Promise<void>;
}

/**
 * Listens.
 *
 * @param fetch Answers requests.
 * @param options Where.
 * @returns The listener.
 * @throws {InvalidArgumentError} If the address is taken, or not this machine's.
 */
export async function listen(
  fetch: (request: Request) => Promise<Response>,
  options: ListenOptions,
): Promise<Listener> {
  try {
    return typeof Deno === "object"
      ? listenInDeno(fetch, options)
      : await listenInNode(fetch, options);
  } catch (cause) {
    throw new InvalidArgumentError(
      "port",
      `Cannot listen on ${options.host}:${options.port}: ${
        (cause as Error).message
      }; choose another ` +
        "--port or --host.",
      { cause },
    );
  }
}

function listenInDeno(
  fetch: (request: Request) => Promise<Response>,
  { host, port }: ListenOptions,
): Listener {
  const server = Deno.serve({ hostname: host, port, onListen: () => {} }, fetch);
  return { port: server.addr.port, close: () => server.shutdown() };
}

async function listenInNode(
  fetch: (request: Request) => Promise<Response>,
  { host, port }: ListenOptions,
): Promise<Listener> {
  const [{ createServer }, { getRequestListener }] = await Promise.all([
    import("node:http"),
    import("@hono/node-server"),
  ]);
  const server = createServer(getRequestListener(fetch));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      // Connections that are kept open for a next request get none.
      const timer = setInterval(() => server.closeIdleConnections(), 50);
      await closed;
      clearInterval(timer);
    },
  };
}
