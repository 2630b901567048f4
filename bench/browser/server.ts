/**
 * A server for a page that may use shared memory.
 * @module
 */

const TYPES: Record<string, string> = {
  html: "text/html",
  js: "text/javascript",
  wasm: "application/wasm",
};

/** What is served: folders or files by the first part of the path. */
export type Roots = Readonly<Record<string, string>>;

/**
 * Serves files, with byte ranges and cross-origin isolation.
 *
 * @param roots What is served, `/<name>/...` below a folder or `/<name>` for a file; `/` is a blank page.
 * @returns Its address, and how to stop it.
 */
export function serve(roots: Roots): { address: string; close: () => Promise<void> } {
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    async (request) => {
      const { pathname } = new URL(request.url);
      const [, name = "", ...rest] = pathname.split("/").map(decodeURIComponent);
      const headers = new Headers({
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
        "content-type": TYPES[pathname.split(".").at(-1)!] ?? "application/octet-stream",
      });
      if (name === "") {
        headers.set("content-type", "text/html");
        return new Response("<!doctype html><title>bench</title>", { headers });
      }
      const root = Object.hasOwn(roots, name) ? roots[name]! : undefined;
      if (root === undefined || rest.includes("..")) return new Response("none", { status: 404 });
      const path = [root, ...rest].join("/");
      return await respond(path, request.headers.get("range"), headers);
    },
  );
  const { port } = server.addr as Deno.NetAddr;
  return { address: `http://127.0.0.1:${port}`, close: () => server.shutdown() };
}

async function respond(path: string, range: string | null, headers: Headers): Promise<Response> {
  const file = await Deno.open(path).catch(() => undefined);
  if (!file) return new Response("none", { status: 404, headers });
  const { size } = await file.stat();
  const [, first, last] = /^bytes=(\d+)-(\d+)?$/.exec(range ?? "") ?? [];
  const begin = Number(first ?? 0);
  const end = Math.min(last === undefined ? size : Number(last) + 1, size);
  await file.seek(begin, Deno.SeekMode.Start);
  let left = end - begin;
  const limited = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      controller.enqueue(chunk.subarray(0, left));
      left -= Math.min(left, chunk.length);
      if (left === 0) controller.terminate();
    },
  });
  headers.set("content-length", String(end - begin));
  headers.set("accept-ranges", "bytes");
  if (first !== undefined) headers.set("content-range", `bytes ${begin}-${end - 1}/${size}`);
  const status = first === undefined ? 200 : 206;
  return new Response(file.readable.pipeThrough(limited), { status, headers });
}
