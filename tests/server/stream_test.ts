/**
 * Streams that do not go as they should: long silences, clients that go or do not read, a model that fails.
 * The backend is a script, so that what happens when is certain.
 */
import { strict as assert } from "node:assert";
import { BackendError } from "../../mod.ts";
import { createServer, type ServerOptions } from "../../src/server/mod.ts";
import { type Script, scriptedModel } from "./scripted_model.ts";
import { ask, errorOf, eventsOf, request } from "./serving.ts";

const turn = (ms = 0) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const path = "/v1/completions";
const long = { prompt: "Once", max_tokens: 1000, stream: true };

function scripted(script: Script = {}, options: ServerOptions = {}) {
  const scripted = scriptedModel({ step: () => turn(), ...script });
  return { scripted, server: createServer(scripted.llm, options) };
}

Deno.test("a long silence is filled with comments, which are no events", async () => {
  const { scripted, server } = slowPrefill();
  const response = await server.fetch(request(path, { ...long, max_tokens: 2 }));
  assert.equal(scripted.steps, 0, "the response waits for the prompt");
  const text = await response.text();
  assert.match(text, /^(: keep-alive\n\n)+data: /);
  assert.equal(eventsOf(text).at(-1)!.data, "[DONE]");
});

function slowPrefill() {
  return scripted(
    { step: (plan) => turn(plan.tokenIds.length > 1 ? 300 : 0) },
    { limits: { keepAliveMs: 20 } },
  );
}

Deno.test("a prompt that fails after a silence is an event of its own, and there is no [DONE]", async () => {
  const { server } = scripted({
    async step() {
      await turn(100);
      throw new BackendError("backend_failed", "Cannot go on: the script says so.");
    },
  }, { limits: { keepAliveMs: 20 } });
  const response = await server.fetch(request(path, long));
  assert.equal(response.status, 200);
  const events = eventsOf(await response.text());
  assert.equal(events.length, 1);
  assert.equal(events[0]!.data.error.code, "backend_failed");
});

Deno.test("a client that goes ends its request within one step, streamed or not", async () => {
  for (const stream of [true, false]) {
    const { scripted: model, server } = scripted();
    const controller = new AbortController();
    const answer = server.fetch(request(path, { ...long, stream }, { signal: controller.signal }));
    if (stream) await (await answer).body!.getReader().read();
    while (model.steps < 10) await turn();
    controller.abort();
    const { steps } = model;
    await server.drain();
    for (let i = 0; i < 10; i++) await turn();
    assert(model.steps <= steps + 1, `${model.steps - steps} steps after the client went`);
    const { status } = await answer;
    assert.equal(status, stream ? 200 : 499);
  }
});

Deno.test("a stream that is cancelled ends its request within one step", async () => {
  const { scripted: model, server } = scripted();
  const { body } = await server.fetch(request(path, long));
  await body!.cancel();
  const { steps } = model;
  await server.drain();
  for (let i = 0; i < 10; i++) await turn();
  assert(model.steps <= steps + 1);
});

Deno.test("a client that does not read is cut off, the others get their answers", async () => {
  const { scripted: model, server } = scripted({}, { limits: { unreadBytes: 20_000 } });
  const slow = await server.fetch(request(path, long));
  const other = await server.fetch(request(path, { ...long, max_tokens: 300 }));
  const events = eventsOf(await other.text());
  assert.equal(events.at(-1)!.data, "[DONE]");
  await server.drain();
  assert(model.steps < 500, `${model.steps} steps for a stream that nobody reads`);
  await assert.rejects(slow.text(), /left 20000 bytes unread/);
});

Deno.test("a model that fails ends all streams with an error; without a way to reopen it stays failed", async () => {
  const errors: unknown[] = [];
  let fail = false;
  const { server } = scripted({
    async step() {
      await turn();
      if (fail) throw new BackendError("backend_failed", "Cannot go on: the script says so.");
    },
  }, { onError: (error) => errors.push(error) });
  const streams = await Promise.all([1, 2, 3].map(() => server.fetch(request(path, long))));
  const whole = ask(server, path, { ...long, stream: false });
  fail = true;
  for (const stream of streams) {
    const events = eventsOf(await stream.text());
    const { error } = events.at(-1)!.data;
    assert.deepEqual([error.type, error.code], ["server_error", "backend_failed"]);
    assert(events.every(({ data }) => data !== "[DONE]"));
  }
  const refusal = errorOf(await whole);
  assert.deepEqual([refusal.status, refusal.code], [500, "backend_failed"]);
  const late = await ask(server, path, long);
  assert.deepEqual([late.http, late.error.code], [503, "model_failed"]);
  assert.equal(late.headers.get("retry-after"), "5");
  assert.equal((await ask(server, "/ready")).http, 503);
  assert.equal((await ask(server, "/health")).http, 200);
  assert.equal(errors.length, 1);
});

Deno.test("a failed model is opened again, once, and then answers", async () => {
  const broken = scriptedModel({
    step() {
      throw new BackendError("backend_failed", "Cannot go on: the script says so.");
    },
  });
  let opened = 0;
  const server = createServer(broken.llm, {
    async reopen() {
      opened++;
      await turn(50);
      return scriptedModel().llm;
    },
  });
  const body = { prompt: "Once", max_tokens: 2 };
  const failed = await Promise.all([ask(server, path, body), ask(server, path, body)]);
  assert.deepEqual(failed.map(({ http }) => http), [500, 500]);
  const meanwhile = errorOf(await ask(server, path, body));
  assert.deepEqual([meanwhile.status, meanwhile.code], [503, "model_failed"]);
  await turn(100);
  assert.equal((await ask(server, path, body)).choices[0].text, " word word");
  assert.equal((await ask(server, "/ready")).http, 200);
  assert.equal(opened, 1);
});

Deno.test("an error that nobody foresaw says nothing of itself to the client", async () => {
  const errors: unknown[] = [];
  const { server } = scripted({
    step() {
      throw new TypeError("secret is not a function");
    },
  }, { onError: (error) => errors.push(error) });
  const refusal = errorOf(await ask(server, path, { prompt: "Once" }));
  assert.deepEqual([refusal.status, refusal.code, refusal.message], [
    500,
    "internal_error",
    "The server failed.",
  ]);
  assert.match(String(errors[0]), /secret/);
});

Deno.test("metrics count prompts, tokens and times", async () => {
  const { server } = scripted();
  await ask(server, path, { prompt: ["a", "b"], max_tokens: 5, n: 2 });
  await ask(server, path, { prompt: "", n: 0 });
  const { body } = await server.fetch(request(path, long));
  await body!.cancel();
  await server.drain();
  const response = await server.fetch(request("/metrics"));
  assert.match(response.headers.get("content-type")!, /^text\/plain/);
  const figures = new Map(
    (await response.text()).split("\n").filter((line) => line && !line.startsWith("#"))
      .map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.split(" ").at(-1))]),
  );
  const figure = (name: string) => figures.get(`hybridseek_${name}`);
  assert.equal(figure('requests_total{reason="length"}'), 4);
  assert.equal(figure('requests_total{reason="abort"}'), 1);
  assert.equal(figure('refused_requests_total{status="400"}'), 1);
  // The model counts what it takes in and writes: also of a stream that nobody reads to its end.
  assert.equal(figure("prompt_tokens_total"), 6);
  assert(figure("generated_tokens_total")! > 20);
  assert.equal(figure("request_duration_seconds_count"), 2);
  assert(figure("inter_token_latency_seconds_count")! >= 16);
  assert(figure("time_to_first_token_seconds_count")! >= 2);
  assert.equal(figure("requests_in_flight"), 0);
});

Deno.test("metrics tell how evenly each layer's experts are used", async () => {
  const layer = (layer: number) => ({ layer, output: `layers.${layer}.experts`, experts: 4 });
  const { server } = scripted({
    expertLayers: [layer(1), layer(2)],
    experts: (name, { tokenIds }) =>
      // Layer 1 takes two of four in turn, layer 2 always the same.
      Int32Array.from({ length: tokenIds.length * 2 }, (_, i) =>
        name === "layers.1.experts" ? i % 2 : 3),
  });
  const entropy = /^hybridseek_expert_load_entropy\{layer="(\d)"\} (\S+)$/gm;
  const figures = async () => {
    const text = await (await server.fetch(request("/metrics"))).text();
    return [...text.matchAll(entropy)].map(([, layer, value]) => [layer, Number(value)]);
  };
  assert.deepEqual(await figures(), []);
  await ask(server, path, { prompt: "a", max_tokens: 3 });
  assert.deepEqual(await figures(), [["1", 0.5], ["2", 0]]);
});

Deno.test("/openapi.json describes every endpoint and its refusals", async () => {
  const { server } = scripted();
  const { openapi, paths } = await ask(server, "/openapi.json");
  assert.match(openapi, /^3\.1/);
  const wanted = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"];
  wanted.push("/v1/models", "/v1/models/{model}", "/tokenize", "/detokenize", "/tokenizer_info");
  wanted.push("/health", "/ready", "/metrics");
  assert.deepEqual(Object.keys(paths).sort(), wanted.sort());
  const { requestBody, responses } = paths["/v1/completions"].post;
  assert(requestBody.required);
  for (const status of [200, 400, 401, 403, 404, 413, 415, 429, 500, 503, 504]) {
    assert(responses[status]);
  }
});
