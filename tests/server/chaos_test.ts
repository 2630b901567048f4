/**
 * A server among clients that vanish, do not read, or send garbage: it answers the others, with the same words
 * as ever, and keeps nothing of the rest.
 */
import { strict as assert } from "node:assert";
import fc from "fast-check";
import { type ServerProcess, start } from "./server_process.ts";
import { eventsOf } from "./serving.ts";

const text = new TextEncoder();
const story = { prompt: "Once upon a time there was", temperature: 0, max_tokens: 8 };

function post(address: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(`${address}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
    signal,
  });
}

async function answerOf(address: string): Promise<string> {
  const response = await post(address, story);
  assert.equal(response.status, 200);
  return (await response.json()).choices[0].text;
}

/** What of a request that was cut off still runs; 0 shortly after it was. */
async function inFlight(address: string): Promise<number> {
  const figures = await (await fetch(`${address}/metrics`)).text();
  return Number(/^hybridseek_requests_in_flight (\d+)$/m.exec(figures)![1]);
}

async function settles(address: string): Promise<void> {
  const until = performance.now() + 20_000;
  while (await inFlight(address) > 0) {
    assert(performance.now() < until, "requests of clients that have gone still run");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function connect({ address }: ServerProcess): Promise<Deno.TcpConn> {
  return await Deno.connect({ hostname: "127.0.0.1", port: Number(new URL(address).port) });
}

Deno.test("clients that vanish leave nothing behind, the others get their answers", async () => {
  await using server = await start();
  const want = await answerOf(server.address);
  const long = { ...story, max_tokens: 1500, ignore_eos: true };
  const vanish = async (stream: boolean, afterMs: number) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), afterMs);
    const response = await post(server.address, { ...long, stream, n: 2 }, controller.signal);
    await response.text();
  };
  const vanishing = Promise.allSettled(
    Array.from({ length: 12 }, (_, i) => vanish(i % 2 === 0, 30 * i)),
  );
  const answers = await Promise.all(Array.from({ length: 4 }, () => answerOf(server.address)));
  assert.deepEqual(answers, Array(4).fill(want));
  const outcomes = new Set((await vanishing).map(({ status }) => status));
  assert.deepEqual(outcomes, new Set(["rejected"]));
  await settles(server.address);
  assert.equal(await answerOf(server.address), want);
});

Deno.test("clients that never read are cut off, the others get their answers", async () => {
  await using server = await start();
  const want = await answerOf(server.address);
  // Some megabytes each, with all that a token can carry: more than sockets and the server hold for them.
  const body = JSON.stringify({
    ...{ messages: [{ role: "user", content: "Hi" }], max_tokens: 1900, n: 2, stream: true },
    ...{ logprobs: true, top_logprobs: 20, ignore_eos: true },
  });
  const head =
    "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" +
    `content-length: ${body.length}\r\n\r\n`;
  const mute = await connect(server);
  await mute.write(text.encode(head + body));
  while (await inFlight(server.address) === 0) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(await answerOf(server.address), want);
  const until = performance.now() + 60_000;
  while (await inFlight(server.address) > 0) {
    assert(performance.now() < until, "a stream that nobody reads still runs");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const figures = await (await fetch(`${server.address}/metrics`)).text();
  assert.match(figures, /requests_total\{reason="abort"\} 1\n/, "it was not cut off, but ended");
  mute.close();
  assert.equal(await answerOf(server.address), want);
});

Deno.test("garbage is refused or ignored, and never answered with a failure of the server's", async () => {
  await using server = await start();
  const want = await answerOf(server.address);
  const lines = [
    "GARBAGE\r\n\r\n",
    "\0\x01\x02\xff",
    "GET / HTTP/9.9\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" +
    "content-length: 1000\r\n\r\n{", // and no more
    "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    `GET /${"x".repeat(100_000)} HTTP/1.1\r\nhost: localhost\r\n\r\n`,
    `GET / HTTP/1.1\r\nhost: localhost\r\n${"a: b\r\n".repeat(20_000)}\r\n`,
  ];
  for (const line of lines) {
    const socket = await connect(server);
    await socket.write(text.encode(line)).catch(() => {});
    const piece = new Uint8Array(64);
    const silence = new Promise<null>((resolve) => setTimeout(() => resolve(null), 200));
    const read = await Promise.race([socket.read(piece).catch(() => null), silence]);
    if (read) {
      assert.match(new TextDecoder().decode(piece.subarray(0, read)), /^HTTP\/1\.[01] [234]/);
    }
    socket.close();
  }
  const fields = [
    "prompt",
    "max_tokens",
    "n",
    "stop",
    "logprobs",
    "logit_bias",
    "stream",
    "echo",
    "model",
  ];
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.jsonValue(),
        fc.dictionary(fc.constantFrom(...fields), fc.oneof(fc.jsonValue(), fc.nat(5), fc.string())),
        fc.string().map((text) => `{"prompt": ${text}`),
      ),
      async (body) => {
        const response = await post(server.address, body);
        await response.text();
        assert(response.status < 500, `${response.status} for ${JSON.stringify(body)}`);
      },
    ),
    { numRuns: 100 },
  );
  assert.equal(await answerOf(server.address), want);
  await settles(server.address);
});

Deno.test("64 streams at a time, twice, all end as one alone does", async () => {
  await using server = await start();
  const body = { ...story, max_tokens: 24, stream: true, stream_options: { include_usage: true } };
  const streamed = async () => {
    const response = await post(server.address, body);
    const events = eventsOf(await response.text());
    assert.equal(events.pop()!.data, "[DONE]");
    return events.map(({ data }) => data.choices[0]?.text ?? data.usage.completion_tokens).join(
      "|",
    );
  };
  const want = await streamed();
  for (let round = 0; round < 2; round++) {
    const texts = await Promise.all(Array.from({ length: 64 }, streamed));
    assert.deepEqual(new Set(texts), new Set([want]));
  }
  assert.equal(await inFlight(server.address), 0);
});
