/**
 * `deno task bench:serve [--streams 32] [--seconds 10] [--model <package> | --embedded]`: what serving costs
 * for each generated token, and whether a long load leaves anything behind.
 *
 * By default the backend is a script that computes nothing: all the time that this process takes goes into
 * scheduler, sampler (of 102,400 tokens), text, JSON, events and HTTP. The clients are a process of their own.
 *
 * With a model, the time from step to step is compared with the time that the model alone takes for a step, of
 * as many tokens as there are streams. What is left behind shows after each of four quarters, when no request
 * runs and garbage is collected: memory, open files, blocks. The bench fails if requests fail or anything grows.
 * @module
 */
import { basename } from "node:path";
import process from "node:process";
import { Command } from "commander";
import type { Backend } from "../src/backend/backend.ts";
import { nextTask } from "../src/next_task.ts";
import { number } from "../src/cli/model_options.ts";
import { LLM } from "../src/llm.ts";
import { openModel } from "../src/open_model.ts";
import { Sampler } from "../src/sampling/sampler.ts";
import { createServer } from "../src/server/mod.ts";
import { scriptedModel } from "../tests/server/scripted_model.ts";
import { normals } from "./normals.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";

interface Options {
  streams: number;
  seconds: number;
  model?: string;
  embedded?: true;
  sampling: string;
}

/** What the clients print at their end. */
interface ClientReport {
  /** Streams that ended in order. */
  streams: number;
  /** Tokens that the server counted in them. */
  tokens: number;
  /** What went wrong. */
  errors: string[];
}

/** What a process holds. */
interface Held {
  rssMiB: number;
  heapMiB: number;
  /** Open files and sockets; 0 where the system does not tell. */
  files: number;
  /** Blocks of running sequences, and those that are cached. */
  heldBlocks: number;
  cachedBlocks: number;
}

/** Tokens of each stream, as in `serve_clients.ts`. */
const TOKENS = 128;
/** Growth from the second to the last quarter that chance explains: a part of the whole, and MiB. */
const CHANCE = { part: 0.05, mebibytes: 8 };

await new Command("serve")
  .description("Time what serving costs for each token.")
  .option("--streams <count>", "at a time", number, 32)
  .option("--seconds <count>", "how long", number, 10)
  .option("--model <package>", "serve this one instead of a script")
  .option("--embedded", "serve the embedded one")
  .option("--sampling <json>", "of the requests", '{"temperature":0.3,"top_p":0.95}')
  .action(async ({ streams, seconds, model, embedded, sampling }: Options) => {
    const real = model !== undefined || embedded === true;
    const { llm, steps } = real
      ? await timedModel(model)
      : { ...scriptedModel({ step: nextTask, logits: likelyTokens() }), steps: [] };
    if (real) await runAlone(llm, streams);
    const stepAlone = middle(steps, streams, ({ begun, ended }) => ended - begun);
    const errors: string[] = [];
    const server = createServer(llm, { onError: (error) => errors.push(String(error)) });
    const listener = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen: () => {} },
      server.fetch,
    );
    const clients = (seconds: number) => run([listener.addr.port, streams, seconds, sampling]);
    await clients(Math.min(3, seconds)); // warm
    const idle = await held(llm);
    const quarters: Held[] = [];
    const before = llm.stats();
    steps.length = 0;
    const sampler = timeSampler();
    const report: ClientReport = { streams: 0, tokens: 0, errors: [] };
    let [wall, cpu] = [0, 0];
    for (let quarter = 0; quarter < 4; quarter++) {
      const begun = performance.now();
      const used = process.cpuUsage();
      const part = await clients(seconds / 4);
      const { user, system } = process.cpuUsage(used);
      wall += (performance.now() - begun) / 1e3;
      cpu += user + system;
      report.streams += part.streams;
      report.tokens += part.tokens;
      report.errors.push(...part.errors);
      await new Promise((resolve) => setTimeout(resolve, 1000)); // sockets close
      quarters.push(await held(llm));
    }
    const count = llm.stats().steps - before.steps;
    await server.drain();
    const cpuMicroseconds = cpu / report.tokens;
    const samplerMicroseconds = sampler.milliseconds * 1e3 / report.tokens;
    const stepServed = middle(steps, streams, ({ begun }, next) => next.begun - begun);
    const grown = growth(idle, quarters);
    const results = await Results.begin("serve", {});
    results.add({
      ...{ model: real ? basename(model ?? "embedded") : "script", streams, seconds },
      sampling: JSON.parse(sampling),
      ended: report.streams,
      tokens: report.tokens,
      tokensPerSecond: report.tokens / wall,
      tokensPerStep: report.tokens / count,
      samplerMicrosecondsPerToken: samplerMicroseconds,
      ...real
        ? {
          layers: llm.spec.caches.length,
          stepServedMilliseconds: stepServed,
          stepAloneMilliseconds: stepAlone,
          overheadMicrosecondsPerToken: (stepServed - stepAlone) * 1e3 / streams,
          shareOfServing: 1 - stepAlone / stepServed,
        }
        : {
          cpuMicrosecondsPerToken: cpuMicroseconds,
          otherMicrosecondsPerToken: cpuMicroseconds - samplerMicroseconds,
        },
      errors: report.errors.length + errors.length,
      firstErrors: [...report.errors, ...errors].slice(0, 3),
      ...{ idle, quarters, grown },
    });
    await listener.shutdown();
    await llm.close();
    if (report.errors.length + errors.length + grown.length > 0) Deno.exit(1);
  })
  .parseAsync(Deno.args, { from: "user" });

/** A step: when it began and ended, milliseconds, and of how many tokens it was. */
interface TimedStep {
  begun: number;
  ended: number;
  tokens: number;
}

/**
 * A model that notes its steps. A package of random weights has no tokenizer: it gets the embedded model's, and
 * logits whose likely tokens have a text; the model's own are computed all the same.
 */
async function timedModel(
  location: string | undefined,
): Promise<{ llm: LLM; steps: TimedStep[] }> {
  const opened = await openModel(location, {});
  const { backend, spec: { vocabSize } } = opened;
  const spoken = opened.tokenizer ? undefined : repeated(likelyTokens(vocabSize), backend);
  const steps: TimedStep[] = [];
  const run = backend.run.bind(backend);
  backend.run = async (plan) => {
    const begun = performance.now();
    const result = await run(plan);
    steps.push({ begun, ended: performance.now(), tokens: plan.tokenIds.length });
    if (!spoken) return result;
    return { ...result, logits: spoken.subarray(0, plan.logitRows.length * vocabSize) };
  };
  const tokenizer = opened.tokenizer ?? (await openModel(undefined, {})).tokenizer;
  return { llm: Reflect.construct(LLM, [{ ...opened, tokenizer }, {}]) as LLM, steps };
}

/** The median of a time over the steps that hold a token of each stream, and the step after such a one. */
function middle(
  steps: readonly TimedStep[],
  streams: number,
  time: (step: TimedStep, next: TimedStep) => number,
): number {
  const times = steps.slice(0, -1).flatMap((step, i) => {
    const next = steps[i + 1]!;
    return step.tokens === streams && next.tokens === streams ? [time(step, next)] : [];
  });
  return times.length > 0 ? median(times) : NaN;
}

/** Rows of logits for the largest step. */
function repeated(row: Float32Array, { limits: { logitRows } }: Backend): Float32Array {
  const rows = new Float32Array(logitRows * row.length);
  for (let i = 0; i < logitRows; i++) rows.set(row, i * row.length);
  return rows;
}

/** Generates in batches as the clients make them, without a server. */
async function runAlone(llm: LLM, streams: number): Promise<void> {
  const params = { maxTokens: TOKENS / 2, temperature: 0, ignoreEos: true };
  await Promise.all(Array.from({ length: streams }, (_, index) => {
    const content = `Tell me tale ${index}.`;
    return llm.chat([{ role: "user", content }], params);
  }));
}

/** What this process holds now, garbage collected if it was started with `--v8-flags=--expose-gc`. */
async function held(llm: LLM): Promise<Held> {
  (globalThis as { gc?: () => void }).gc?.();
  const { rss, heapUsed } = Deno.memoryUsage();
  const { heldBlocks, cachedBlocks } = llm.stats();
  let files = 0;
  try {
    for await (const _ of Deno.readDir("/proc/self/fd")) files++;
  } catch {
    // Not Linux.
  }
  return { rssMiB: rss / 2 ** 20, heapMiB: heapUsed / 2 ** 20, files, heldBlocks, cachedBlocks };
}

/** What grew from the second quarter to the last, or is held though nothing runs, in words. */
function growth(idle: Held, quarters: readonly Held[]): string[] {
  const [early, late] = [quarters[1]!, quarters.at(-1)!];
  const larger = (field: "rssMiB" | "heapMiB") =>
    late[field] > early[field] * (1 + CHANCE.part) + CHANCE.mebibytes;
  return [
    ...(larger("rssMiB") ? ["memory"] : []),
    ...(larger("heapMiB") ? ["heap"] : []),
    ...(late.files > idle.files ? ["open files"] : []),
    ...(late.heldBlocks > 0 ? ["blocks"] : []),
  ];
}

/**
 * Logits with a language model's spread over DeepSeek-V2's vocabulary, as in `bench/sampler.ts`; the likely
 * tokens are among those that have a text.
 */
function likelyTokens(length = 102_400): Float32Array {
  const source = normals();
  const next = () => source.next().value!;
  return Float32Array.from({ length }, (_, id) => {
    const likely = id < 4000 && id % 39 === 5;
    return 2.5 * next() + (likely ? 8 * Math.abs(next()) : 0);
  });
}

/** Measures the sampler from now on. */
function timeSampler(): { milliseconds: number } {
  const { sample } = Sampler.prototype;
  const spent = { milliseconds: 0 };
  Sampler.prototype.sample = function (...given) {
    const begun = performance.now();
    try {
      return sample.apply(this, given);
    } finally {
      spent.milliseconds += performance.now() - begun;
    }
  };
  return spent;
}

async function run(options: unknown[]): Promise<ClientReport> {
  const clients = new URL("./serve_clients.ts", import.meta.url).pathname;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--allow-net", clients, ...options.map(String)],
    stderr: "inherit",
  });
  const { success, stdout } = await command.output();
  if (!success) throw new Error("Cannot time the server: the clients failed.");
  return JSON.parse(new TextDecoder().decode(stdout));
}
