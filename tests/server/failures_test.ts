/**
 * A server whose model breaks under its requests: a worker that dies, memory that runs out. Who can be answered is
 * answered, what happened is told, and afterwards all is as before.
 */
import { strict as assert } from "node:assert";
import { Worker } from "node:worker_threads";
import { CapacityError, LLM } from "../../mod.ts";
import { createServer, type Server } from "../../src/server/mod.ts";
import { scriptedModel } from "./scripted_model.ts";
import { ask, errorOf, eventsOf, request, stream } from "./serving.ts";

const path = "/v1/completions";
const story = { prompt: "Once upon a time there was", temperature: 0, max_tokens: 12 };
const turn = (ms = 0) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function until(condition: () => boolean | Promise<boolean>) {
  const limit = performance.now() + 60_000;
  while (!await condition()) {
    assert(performance.now() < limit, "it does not come true");
    await turn(5);
  }
}

async function figure(server: Server, name: string): Promise<number> {
  const text = await (await server.fetch(request("/metrics"))).text();
  return Number(new RegExp(`^hybridseek_${name} (\\S+)$`, "m").exec(text)![1]);
}

/** Collects the workers that are given work while something runs. */
async function workersOf(run: () => Promise<unknown>): Promise<Set<Worker>> {
  const workers = new Set<Worker>();
  const { postMessage } = Worker.prototype;
  Worker.prototype.postMessage = function (...message: Parameters<typeof postMessage>) {
    workers.add(this);
    postMessage.apply(this, message);
  };
  try {
    await run();
  } finally {
    Worker.prototype.postMessage = postMessage;
  }
  return workers;
}

Deno.test("a worker that dies ends all that runs with the error, and the server opens the model again", async () => {
  const options = { threads: 2 };
  let llm = await LLM.open(undefined, options);
  const errors: unknown[] = [];
  let letOpen!: () => void;
  const mayOpen = new Promise<void>((resolve) => letOpen = resolve);
  const server = createServer(llm, {
    onError: (error) => errors.push(error),
    async reopen() {
      await llm.close();
      await mayOpen;
      return llm = await LLM.open(undefined, options);
    },
  });
  try {
    const want = (await ask(server, path, story)).choices[0].text;
    const long = { ...story, max_tokens: 1500, ignore_eos: true };
    const streams = await Promise.all(
      Array.from({ length: 8 }, () => server.fetch(request(path, { ...long, stream: true }))),
    );
    const whole = ask(server, path, long);
    const { steps } = llm.stats();
    const workers = await workersOf(() => until(() => llm.stats().steps > steps + 10));
    assert.equal(workers.size, 2);
    await [...workers][1]!.terminate();

    for (const stream of streams) {
      const events = eventsOf(await stream.text());
      assert.equal(events.at(-1)!.data.error.code, "backend_failed");
      assert(events.length > 5 && events.every(({ data }) => data !== "[DONE]"));
    }
    const refusal = errorOf(await whole);
    assert.deepEqual([refusal.status, refusal.code], [500, "backend_failed"]);
    assert.equal(errors.length, 1);
    assert.match(String(errors[0]), /a worker exited/);

    assert.equal((await ask(server, "/health")).http, 200);
    assert.equal((await ask(server, "/ready")).http, 503);
    assert.equal(await figure(server, "model_ready"), 0);
    const meanwhile = await ask(server, path, story);
    assert.deepEqual([meanwhile.http, meanwhile.error.code], [503, "model_failed"]);
    assert.equal(meanwhile.headers.get("retry-after"), "5");
    letOpen();
    await until(async () => (await ask(server, "/ready")).http === 200);
    const answers = await Promise.all(Array.from({ length: 4 }, () => ask(server, path, story)));
    assert.deepEqual(answers.map(({ choices }) => choices[0].text), Array(4).fill(want));
    assert.equal(await figure(server, "model_failures_total"), 1);
    assert.equal(await figure(server, "requests_in_flight"), 0);
    assert.equal(llm.stats().heldBlocks, 0);
  } finally {
    await llm.close();
  }
});

Deno.test("a model that can not be opened again at once is tried again, and at last given up", async () => {
  const broken = () =>
    scriptedModel({
      step() {
        throw new TypeError("nobody foresaw this");
      },
    }).llm;
  const short = new CapacityError("out_of_memory", "Cannot open the model: no memory is left.");
  for (const [failing, ready] of [[2, true], [3, false]] as const) {
    const errors: unknown[] = [];
    let attempts = 0;
    const server = createServer(broken(), {
      onError: (error) => errors.push(error),
      reopenTerms: { attempts: 3, delayMs: 1 },
      reopen: () =>
        attempts++ < failing ? Promise.reject(short) : Promise.resolve(scriptedModel().llm),
    });
    assert.equal((await ask(server, path, story)).http, 500);
    await until(() => attempts === 3);
    await turn(5);
    assert.deepEqual(errors.slice(1), Array(failing).fill(short));
    assert.equal((await ask(server, "/ready")).http, ready ? 200 : 503);
    assert.equal((await ask(server, path, story)).http, ready ? 200 : 503);
    assert.equal(await figure(server, "model_failures_total"), 1);
    await turn(20);
    assert.equal(attempts, 3);
  }
  let attempts = 0;
  const server = createServer(broken(), {
    reopenTerms: { delayMs: 1e6 },
    reopen: () => Promise.reject(++attempts),
  });
  assert.equal((await ask(server, path, story)).http, 500);
  await server.drain(); // a timer that were left would fail this test
  assert.equal(attempts, 1);
});

Deno.test("a cache that is too small for all makes them wait, not fail, and what can never fit is refused", async () => {
  await using llm = await LLM.open(undefined, { contextLength: 256, cacheTokens: 256 });
  const server = createServer(llm);
  const body = (i: number) => ({
    ...story,
    prompt: `${story.prompt} ${i}`,
    max_tokens: 100,
    ignore_eos: true,
  });
  const alone: string[] = [];
  for (let i = 0; i < 12; i++) alone.push((await ask(server, path, body(i))).choices[0].text);
  const together = await Promise.all(
    alone.map(async (_, i) => {
      const events = await stream(server, path, body(i));
      assert.equal(events.pop()!.data, "[DONE]");
      return events.map(({ data }) => data.choices[0].text).join("");
    }),
  );
  assert.deepEqual(together, alone);
  assert(llm.stats().preemptions > 0, "nobody had to make room: the cache was large enough");
  const refusal = errorOf(await ask(server, path, { ...story, prompt: "word ".repeat(300) }));
  assert.deepEqual([refusal.status, refusal.code], [400, "context_length_exceeded"]);
  const { heldBlocks, running, waiting } = llm.stats();
  assert.deepEqual([heldBlocks, running, waiting], [0, 0, 0]);
});

Deno.test("a request for which memory can not be had ends by itself, the others get their answers", async () => {
  const poison = 1234;
  const { llm } = scriptedModel({
    step: () => turn(),
    next: (ids) => ids.includes(77) ? poison : 100,
  });
  const { tokenizer } = llm;
  const { decodeBytes } = tokenizer;
  tokenizer.decodeBytes = (ids, options) => {
    if ([...ids].includes(poison)) throw new RangeError("Array buffer allocation failed");
    return decodeBytes.call(tokenizer, ids, options);
  };
  const errors: unknown[] = [];
  const server = createServer(llm, { onError: (error) => errors.push(error) });
  const others = Array.from(
    { length: 4 },
    () => stream(server, path, { prompt: [5, 6], max_tokens: 50 }),
  );
  for (const streamed of [false, true]) {
    const refusal = errorOf(
      await ask(server, path, { prompt: [77], max_tokens: 50, stream: streamed }),
    );
    assert.deepEqual([refusal.status, refusal.code], [500, "internal_error"]);
  }
  for (const events of await Promise.all(others)) assert.equal(events.at(-1)!.data, "[DONE]");
  assert.match(String(errors[0]), /allocation failed/);
  assert.equal((await ask(server, "/ready")).http, 200);
  const { heldBlocks, running, waiting } = llm.stats();
  assert.deepEqual([heldBlocks, running, waiting], [0, 0, 0]);
});
