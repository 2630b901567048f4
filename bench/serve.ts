/**
 * `deno task bench:serve [--streams 32] [--seconds 10] [--model <package> | --embedded]`: what serving costs
 * for each generated token, and whether a long load leaves anything behind.
 *
 * By default the backend is a script that computes nothing: all the time that this process takes goes into
 * scheduler, sampler (of 102,400 tokens), text, JSON, events and HTTP. The clients are a process of their own. With a model it is a
 * soak: errors, requests that never end, and memory from the first quarter to the last.
 * @module
 */
import process from "node:process";
import { Command } from "commander";
import { nextTask } from "../src/backend/wasm/next_task.ts";
import { number } from "../src/cli/model_options.ts";
import { LLM } from "../src/llm.ts";
import { createServer } from "../src/server/mod.ts";
import { scriptedModel } from "../tests/server/scripted_model.ts";
import { normals } from "./normals.ts";
import { Results } from "./results.ts";

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

await new Command("serve")
  .description("Time what serving costs for each token.")
  .option("--streams <count>", "at a time", number, 32)
  .option("--seconds <count>", "how long", number, 10)
  .option("--model <package>", "soak this one instead of a script")
  .option("--embedded", "soak the embedded one")
  .option("--sampling <json>", "of the requests", '{"temperature":0.3,"top_p":0.95}')
  .action(async ({ streams, seconds, model, embedded, sampling }: Options) => {
    const real = model !== undefined || embedded === true;
    const llm = real
      ? await LLM.open(model)
      : scriptedModel({ step: nextTask, logits: likelyTokens() }).llm;
    const errors: string[] = [];
    const server = createServer(llm, { onError: (error) => errors.push(String(error)) });
    const listener = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen: () => {} },
      server.fetch,
    );
    const clients = (seconds: number) => run([listener.addr.port, streams, seconds, sampling]);
    await clients(Math.min(3, seconds)); // warm
    const memory: number[] = [];
    const sample = () => memory.push(Deno.memoryUsage().rss);
    const timer = setInterval(sample, (seconds * 1000) / 20);
    const begun = performance.now();
    const cpu = process.cpuUsage();
    const report = await clients(seconds);
    const { user, system } = process.cpuUsage(cpu);
    const wall = (performance.now() - begun) / 1e3;
    clearInterval(timer);
    await server.drain();
    const quarter = Math.floor(memory.length / 4);
    const results = await Results.begin("serve", {});
    results.add({
      ...{ model: real ? model ?? "embedded" : "script", streams, seconds },
      sampling: JSON.parse(sampling),
      ended: report.streams,
      tokens: report.tokens,
      tokensPerSecond: report.tokens / wall,
      cpuMicrosecondsPerToken: (user + system) / report.tokens,
      errors: report.errors.length + errors.length,
      firstErrors: [...report.errors, ...errors].slice(0, 3),
      rssMiBFirstQuarter: Math.max(...memory.slice(0, quarter)) / 2 ** 20,
      rssMiBLastQuarter: Math.max(...memory.slice(-quarter)) / 2 ** 20,
    });
    await listener.shutdown();
    await llm.close();
  })
  .parseAsync(Deno.args, { from: "user" });

/**
 * Logits with a language model's spread over DeepSeek-V2's vocabulary, as in `bench/sampler.ts`; the likely
 * tokens are among those that have a text.
 */
function likelyTokens(): Float32Array {
  const source = normals();
  const next = () => source.next().value!;
  return Float32Array.from({ length: 102_400 }, (_, id) => {
    const likely = id < 4000 && id % 39 === 5;
    return 2.5 * next() + (likely ? 8 * Math.abs(next()) : 0);
  });
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
