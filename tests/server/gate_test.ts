/**
 * Who is let in, and how refusals look: keys, hosts, origins, methods, sizes.
 */
import { strict as assert } from "node:assert";
import { createServer } from "../../src/server/mod.ts";
import { ask, errorOf, model, request, serverOf } from "./serving.ts";

const PATHS = [
  "/",
  "/v1/models",
  "/v1/chat/completions",
  "/metrics",
  "/openapi.json",
  "/ready",
  "/no",
];

Deno.test("with keys, every route but /health needs one, before anything else is said", async () => {
  const server = await serverOf({ apiKeys: ["first", "second"] });
  for (const path of PATHS) {
    for (const authorization of ["", "Bearer", "Bearer wrong", "Bearer firs", "Basic !", "first"]) {
      const answer = await ask(server, path, undefined, { headers: { authorization } });
      const { status, type, code } = errorOf(answer);
      assert.deepEqual([status, type, code], [401, "authentication_error", "invalid_api_key"]);
      assert.match(answer.headers.get("www-authenticate"), /^Basic realm=/);
    }
  }
  assert.equal((await ask(server, "/health")).http, 200);
  const basic = `Basic ${btoa("anybody:second")}`;
  for (const authorization of ["Bearer first", "bearer second", basic]) {
    const answer = await ask(server, "/v1/models", undefined, { headers: { authorization } });
    assert.equal(answer.http, 200);
  }
});

Deno.test("an empty key is refused when the server is made", async () => {
  const llm = await model();
  assert.throws(() => createServer(llm, { apiKeys: ["a", ""] }), RangeError);
  assert.throws(() => createServer(llm, { names: [] }), RangeError);
});

Deno.test("a server that knows its names serves no other host", async () => {
  const server = await serverOf({ hosts: ["localhost", "127.0.0.1", "[::1]"] });
  for (const host of ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"]) {
    assert.equal(
      (await ask(server, "/health", undefined, { headers: { host } })).http,
      200,
      host,
    );
  }
  for (const host of ["evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io"]) {
    const refusal = errorOf(await ask(server, "/health", undefined, { headers: { host } }));
    assert.deepEqual([refusal.status, refusal.code], [403, "host_not_allowed"], host);
  }
});

Deno.test("no page of another origin is let in unless its origin is configured", async () => {
  const origin = "https://app.example";
  const preflight = (path: string) =>
    request(path, undefined, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST" },
    });
  const closed = await serverOf();
  const refused = await closed.fetch(preflight("/v1/completions"));
  assert.equal(refused.status, 405);
  assert.equal(refused.headers.get("access-control-allow-origin"), null);
  await refused.body?.cancel();

  const open = await serverOf({ corsOrigins: [origin], apiKeys: ["key"] });
  const allowed = await open.fetch(preflight("/v1/completions"));
  assert.equal(allowed.status, 204);
  assert.equal(allowed.headers.get("access-control-allow-origin"), origin);
  const failed = await ask(open, "/v1/models", undefined, { headers: { origin } });
  assert.equal(failed.http, 401);
  assert.equal(failed.headers.get("access-control-allow-origin"), origin);
  const stranger = await ask(open, "/health", undefined, {
    headers: { origin: "https://x.example" },
  });
  assert.equal(stranger.headers.get("access-control-allow-origin"), null);
});

Deno.test("unknown addresses are 404, other methods 405 with what there is", async () => {
  const server = await serverOf();
  const missing = errorOf(await ask(server, "/v1/nothing"));
  assert.deepEqual([missing.status, missing.type, missing.code], [
    404,
    "not_found_error",
    "not_found",
  ]);
  const wrong = await ask(server, "/v1/completions");
  assert.equal(errorOf(wrong).status, 405);
  assert.equal(wrong.headers.get("allow"), "POST");
  const head = await server.fetch(request("/health", undefined, { method: "HEAD" }));
  assert.equal(head.status, 200);
});

Deno.test("embeddings are refused with a reason", async () => {
  const refusal = errorOf(await ask(await serverOf(), "/v1/embeddings", { input: "x" }));
  assert.deepEqual([refusal.status, refusal.type], [404, "not_found_error"]);
  assert.match(refusal.message, /no embeddings/);
});

Deno.test("a body must be JSON, say so, and be of bounded size", async () => {
  const server = await serverOf({ limits: { bodyBytes: 1000 } });
  const path = "/v1/completions";
  const body = { prompt: "a", max_tokens: 1 };
  const refusals: [number, string, Promise<unknown>][] = [
    [
      415,
      "unsupported_media_type",
      ask(server, path, body, { headers: { "content-type": "text/plain" } }),
    ],
    [400, "invalid_json", ask(server, path, "{")],
    [400, "invalid_value", ask(server, path, "[]")],
    [413, "request_too_large", ask(server, path, { ...body, prompt: "x".repeat(1000) })],
  ];
  for (const [status, code, answer] of refusals) {
    const refusal = errorOf(await answer);
    assert.deepEqual([refusal.status, refusal.code], [status, code]);
  }
  // A body of unknown length is counted as it comes.
  const endless = new ReadableStream({
    pull: (controller) => controller.enqueue(new TextEncoder().encode(" ".repeat(100))),
  });
  const answer = await ask(server, path, undefined, { method: "POST", body: endless });
  assert.equal(errorOf(answer).status, 413);
});

Deno.test("lists of a million wrong items are refused at the first of them", async () => {
  const server = await serverOf();
  const million = (item: string) => `[${Array(1_000_000).fill(item).join(",")}]`;
  const bodies: [string, string, string][] = [
    ["/detokenize", "tokens[0]", `{"tokens":${million('""')}}`],
    ["/v1/completions", "stop_token_ids", `{"prompt":"a","stop_token_ids":${million('""')}}`],
    ["/v1/completions", "stop", `{"prompt":"a","stop":${million("1")}}`],
    ["/v1/completions", "prompt", `{"prompt":${million('""')}}`],
    ["/v1/chat/completions", "messages", `{"messages":${million("{}")}}`],
    ["/v1/responses", "input", `{"input":${million("{}")}}`],
  ];
  for (const [path, param, body] of bodies) {
    const refusal = errorOf(await ask(server, path, body));
    assert.deepEqual([refusal.status, refusal.param], [400, param]);
  }
});

Deno.test("too many streams of one key are told to come again", async () => {
  const long = { prompt: "Once", max_tokens: 100, ignore_eos: true };
  const server = await serverOf({ limits: { streamsPerKey: 1 }, apiKeys: ["a", "b"] });
  const open = (name: string) =>
    server.fetch(request("/v1/completions", { ...long, stream: true }, {
      headers: { authorization: `Bearer ${name}` },
    }));
  const first = await open("a");
  const second = await open("a");
  assert.equal(second.status, 429);
  assert.equal(second.headers.get("retry-after"), "1");
  assert.equal((await second.json()).error.code, "too_many_streams");
  const other = await open("b");
  assert.equal(other.status, 200);
  await Promise.all([first.body!.cancel(), other.body!.cancel()]);
  await server.drain(); // they are free again at once
});

Deno.test("a draining server refuses what comes, and ends when nothing is left", async () => {
  const server = await serverOf();
  const running = ask(server, "/v1/completions", { prompt: "Once", max_tokens: 50 });
  await new Promise((resolve) => setTimeout(resolve, 0));
  let drained = false;
  const drain = server.drain().then(() => drained = true);
  const late = await ask(server, "/v1/completions", { prompt: "x" });
  assert.deepEqual([late.http, late.error.code], [503, "stopping"]);
  assert.equal((await ask(server, "/ready")).http, 503);
  assert.equal((await ask(server, "/health")).http, 200);
  assert(!drained);
  assert.equal((await running).http, 200);
  await drain;
});
