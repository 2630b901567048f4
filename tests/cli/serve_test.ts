/**
 * `hybridseek serve` as a process: what it prints, whom it serves, how it stops.
 */
import { strict as assert } from "node:assert";
import { start } from "../server/server_process.ts";

const post = (address: string, body: object, init: RequestInit = {}) =>
  fetch(`${address}/v1/completions`, {
    method: "POST",
    body: JSON.stringify(body),
    ...init,
    headers: { "content-type": "application/json", ...init.headers },
  });

Deno.test("serve says what it serves and where, and serves it to this machine's own names only", async () => {
  await using server = await start();
  assert.match(
    server.printed,
    /^hybridseek-reference: deepseek_v2, wasm \(.+\), 1 thread, context of 2048 tokens\n/,
  );
  const response = await post(server.address, { prompt: "Once", max_tokens: 3 });
  const { model, usage } = await response.json();
  assert.deepEqual([model, usage.completion_tokens], ["hybridseek-reference", 3]);
  // fetch lets nobody choose the host, a socket does.
  const socket = await Deno.connect({
    hostname: "127.0.0.1",
    port: Number(new URL(server.address).port),
  });
  const text = "GET /health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
  await socket.write(new TextEncoder().encode(text));
  assert.match(await new Response(socket.readable).text(), /^HTTP\/1\.1 403 /);
});

Deno.test("SIGTERM lets streams end, then the exit code is 0", async () => {
  await using server = await start();
  const body = { prompt: "Once", max_tokens: 150, ignore_eos: true, stream: true };
  const response = await post(server.address, body);
  server.child.kill("SIGTERM");
  const text = await response.text();
  assert.match(text, /"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/);
  assert.equal((await server.child.status).code, 0);
});

Deno.test("a second signal ends it at once", async () => {
  await using server = await start();
  const body = { prompt: "Once", max_tokens: 2000, ignore_eos: true, stream: true };
  const response = await post(server.address, body);
  server.child.kill("SIGTERM");
  await server.stderrMatches(/stopping/);
  server.child.kill("SIGINT");
  assert.equal((await server.child.status).code, 130);
  await assert.rejects(response.text());
});

Deno.test("keys come from the command line or the environment", async () => {
  for (
    const options of [
      { args: ["--api-key", "secret"] },
      { env: { HYBRIDSEEK_API_KEY: "secret" } },
    ]
  ) {
    await using server = await start(options);
    assert.equal((await post(server.address, { prompt: "x" })).status, 401);
    const headers = { authorization: "Bearer secret" };
    assert.equal(
      (await post(server.address, { prompt: "x", max_tokens: 1 }, { headers })).status,
      200,
    );
  }
});

Deno.test("--request-timeout ends what takes longer, --priority lets requests say theirs", async () => {
  await using server = await start({ args: ["--request-timeout", "1", "--priority"] });
  const short = await post(server.address, { prompt: "Once", max_tokens: 1, priority: -1 });
  assert.equal(short.status, 200);
  await short.body!.cancel();
  const long = await post(server.address, {
    ...{ prompt: "Once", max_tokens: 2000, n: 16, ignore_eos: true },
  });
  assert.equal(long.status, 504);
  await long.body!.cancel();
  await assert.rejects(start({ args: ["--request-timeout", "-1"] }), /It must be 0 or more/);
});

Deno.test("a port that is taken is an error in words", async () => {
  await using server = await start();
  const { port } = new URL(server.address);
  await assert.rejects(
    start({ args: ["--port", port] }),
    /error: Cannot listen on 127\.0\.0\.1:\d+: /,
  );
});

Deno.test("the second name and another host are served; without a key that is said", async () => {
  const args = ["--host", "0.0.0.0", "--name", "a", "--name", "b"];
  await using server = await start({ args });
  await server.stderrMatches(/without --api-key, everybody who reaches 0\.0\.0\.0/);
  const address = server.address.replace("0.0.0.0", "127.0.0.1");
  const response = await post(address, { model: "b", prompt: "x", max_tokens: 1 });
  assert.equal((await response.json()).model, "b");
});

Deno.test("how requests share the model is said on the command line", async () => {
  const sequences = ["--max-num-seqs", "1", "--max-queued-requests", "0"];
  const args = [...sequences, "--max-num-batched-tokens", "64", "--no-prefix-caching"];
  await using server = await start({ args });
  const long = { prompt: "Once", max_tokens: 2000, ignore_eos: true, stream: true };
  const { body } = await post(server.address, long);
  const short = { prompt: "Once ".repeat(100), max_tokens: 1 };
  const refused = await post(server.address, short);
  assert.deepEqual([refused.status, (await refused.json()).error.code], [429, "queue_full"]);
  await body!.cancel();
  const answered = async () => {
    for (;;) {
      const response = await post(server.address, short);
      if (response.status === 200) return (await response.json()).usage;
      await response.body!.cancel(); // the stream has not ended yet
    }
  };
  await answered();
  const { prompt_tokens, prompt_cache_hit_tokens } = await answered();
  assert(prompt_tokens > 100);
  assert.equal(prompt_cache_hit_tokens, 0);
  const figures = await (await fetch(`${server.address}/metrics`)).text();
  assert.match(figures, /^hybridseek_cache_blocks_cached 0$/m);
});

Deno.test("OpenTelemetry's exporter of Deno gets a span for each request", async () => {
  // deno-lint-ignore no-explicit-any
  const spans: any[] = [];
  const sink = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    async (request) => {
      const body = await request.json();
      for (const { scopeSpans = [] } of body.resourceSpans ?? []) {
        for (const { spans: some } of scopeSpans) spans.push(...some);
      }
      return Response.json({});
    },
  );
  const env = {
    OTEL_DENO: "true",
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${sink.addr.port}`,
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
  };
  {
    await using server = await start({ env });
    const response = await post(server.address, { prompt: "Once", max_tokens: 3, stream: true });
    await response.text();
    server.child.kill("SIGTERM");
    assert.equal((await server.child.status).code, 0);
  }
  await sink.shutdown();
  const span = spans.find(({ name }) => name === "text_completion hybridseek-reference");
  assert(span, `no such span: ${spans.map(({ name }) => name)}`);
  const attribute = (name: string) =>
    span.attributes.find(({ key }: { key: string }) => key === name)?.value;
  assert.equal(
    Number(
      attribute("gen_ai.usage.output_tokens").intValue ??
        attribute("gen_ai.usage.output_tokens").doubleValue,
    ),
    3,
  );
});
