/**
 * What requests to a server take from each other: room, cached prompts, precedence. The backend is a script, whose
 * cache has blocks of 16 tokens.
 */
import { strict as assert } from "node:assert";
import { createServer, type ServerOptions } from "../../src/server/mod.ts";
import { type Script, scriptedModel } from "./scripted_model.ts";
import { ask, errorOf, request, stream } from "./serving.ts";

const path = "/v1/completions";
const tokens = (count: number) => Array.from({ length: count }, (_, i) => 10 + i);
/** Prompts of 40 tokens have two full blocks. */
const body = { prompt: tokens(40), max_tokens: 2 };

function scripted(script: Script = {}, options: ServerOptions = {}) {
  const model = scriptedModel(script);
  return { model, server: createServer(model.llm, options) };
}

/** A gate in front of the model's steps. */
function halted() {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => open = resolve);
  return { step: () => opened, open };
}

const until = async (condition: () => boolean) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 0));
};

Deno.test("a request that finds the queue full is told to come again, streamed or not", async () => {
  const { step, open } = halted();
  const { model: { llm }, server } = scripted({
    ...{ step, engine: { maxNumSeqs: 1, maxQueuedRequests: 1 } },
  });
  const first = ask(server, path, body);
  await until(() => llm.stats().running === 1);
  const second = ask(server, path, body);
  await until(() => llm.stats().waiting === 1);
  for (const stream of [false, true]) {
    const full = await ask(server, path, { ...body, stream });
    const refusal = errorOf(full);
    assert.deepEqual([refusal.status, refusal.type, refusal.code], [
      429,
      "rate_limit_error",
      "queue_full",
    ]);
    assert.equal(full.headers.get("retry-after"), "1");
  }
  open();
  assert.deepEqual([(await first).http, (await second).http], [200, 200]);
});

Deno.test("a request whose time is over is 504, or an event if its stream has begun", async () => {
  const step = () => new Promise<void>((resolve) => setTimeout(resolve, 5));
  const { server } = scripted({ step }, { limits: { requestMs: 500 } });
  const long = { ...body, max_tokens: 1000 };
  const refusal = errorOf(await ask(server, path, long));
  assert.deepEqual([refusal.status, refusal.type, refusal.code], [
    504,
    "server_error",
    "deadline_exceeded",
  ]);
  const events = await stream(server, path, long);
  assert(events.length > 1);
  assert.equal(events.at(-1)!.data.error.code, "deadline_exceeded");
  assert.equal((await ask(server, path, body)).http, 200);
});

Deno.test("usage says what was in the cache, in OpenAI's words and in DeepSeek's, streamed or not", async () => {
  const { server } = scripted();
  const usage = (cached: number) => ({
    ...{ prompt_tokens: 40, completion_tokens: 2, total_tokens: 42 },
    prompt_tokens_details: { cached_tokens: cached },
    prompt_cache_hit_tokens: cached,
    prompt_cache_miss_tokens: 40 - cached,
  });
  assert.deepEqual((await ask(server, path, body)).usage, usage(0));
  assert.deepEqual((await ask(server, path, body)).usage, usage(32));
  const options = { stream_options: { include_usage: true } };
  const events = await stream(server, path, { ...body, ...options });
  assert.deepEqual(events.at(-2)!.data.usage, usage(32));
});

Deno.test("metrics are the model's own figures, counters as such", async () => {
  const { server } = scripted({ limits: { blocks: 65 } });
  await ask(server, path, body);
  await ask(server, path, body);
  const text = await (await server.fetch(request("/metrics"))).text();
  const figures: [name: string, type: string, value: number][] = [
    ["sequences_running", "gauge", 0],
    ["sequences_waiting", "gauge", 0],
    ["cache_blocks", "gauge", 64], // one is the backend's own
    ["cache_blocks_held", "gauge", 0],
    ["cache_blocks_cached", "gauge", 2],
    ["cache_blocks_free", "gauge", 62],
    ["prompt_tokens_total", "counter", 80],
    ["cached_prompt_tokens_total", "counter", 32],
    ["generated_tokens_total", "counter", 4],
    ["steps_total", "counter", 4],
    ["preemptions_total", "counter", 0],
    ["drafted_tokens_total", "counter", 0],
    ["accepted_tokens_total", "counter", 0],
  ];
  for (const [name, type, value] of figures) {
    assert(text.includes(`# TYPE hybridseek_${name} ${type}\nhybridseek_${name} ${value}\n`), name);
  }
});

Deno.test("a key finds only its own prompts in the cache, a salt only those with the same", async () => {
  const { server } = scripted({}, { apiKeys: ["a", "b"] });
  const cached = async (key: string, fields: object = {}) => {
    const init = { headers: { authorization: `Bearer ${key}` } };
    const answer = await ask(server, path, { ...body, ...fields }, init);
    return answer.usage.prompt_cache_hit_tokens;
  };
  assert.equal(await cached("a"), 0);
  assert.equal(await cached("a"), 32);
  assert.equal(await cached("b"), 0);
  assert.equal(await cached("b"), 32);
  assert.equal(await cached("a", { cache_salt: "x" }), 0);
  assert.equal(await cached("a", { cache_salt: "x" }), 32);
  assert.equal(await cached("a", { cache_salt: "y" }), 0);
  assert.equal(await cached("b", { cache_salt: "x" }), 0);

  const { server: open } = scripted();
  const find = async (fields: object) =>
    (await ask(open, path, { ...body, ...fields })).usage.prompt_cache_hit_tokens;
  assert.deepEqual([await find({}), await find({})], [0, 32]);
  assert.deepEqual([await find({ cache_salt: "x" }), await find({ cache_salt: "x" })], [0, 32]);
});

Deno.test("of requests that wait the one with the lowest priority number goes first", async () => {
  const { step, open } = halted();
  const { model: { llm }, server } = scripted({ step, engine: { maxNumSeqs: 1 } }, {
    limits: { priorities: true },
  });
  const ended: number[] = [];
  const send = async (priority: number) => {
    assert.equal((await ask(server, path, { ...body, priority })).http, 200);
    ended.push(priority);
  };
  const running = send(-9);
  await until(() => llm.stats().running === 1);
  const waiting = [2, -1, 1].map(send);
  await until(() => llm.stats().waiting === 3);
  open();
  await Promise.all([running, ...waiting]);
  assert.deepEqual(ended, [-9, -1, 1, 2]);
});

Deno.test("unless the server says so, no request goes before others by a priority of its own", async () => {
  const { server } = scripted();
  for (const priority of [-1, 1]) {
    const refusal = errorOf(await ask(server, path, { ...body, priority }));
    assert.deepEqual([refusal.status, refusal.param], [400, "priority"]);
  }
  assert.equal((await ask(server, path, { ...body, priority: 0 })).http, 200);
});
