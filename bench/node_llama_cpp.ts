/**
 * `deno task bench:node-llama-cpp --package <folder> --gguf <file> --node-llama-cpp <folder>`: ours against
 * node-llama-cpp, both in Deno with the JavaScript loop and the sampler that their users have. It runs with
 * and without its flash attention, and with one thread fewer; the fastest counts. The folder is one where
 * `npm install --ignore-scripts node-llama-cpp@3.22.1` was run.
 * @module
 */
import { checkLayer } from "./check_layer.ts";
import { benchCommand, type BenchOptions, numbers, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { rateOf, runJson, timeOurs, type TimingJob } from "./timing.ts";
import { fastest, ratioOf, takeTurns } from "./turns.ts";
import type { NodeLlamaCppJob } from "./workers/node_llama_cpp.ts";

interface Options extends BenchOptions {
  nodeLlamaCpp: string;
  prompt: number;
  tokens: number;
  topK: number[];
}

const worker = new URL("workers/node_llama_cpp.ts", import.meta.url).pathname;

await benchCommand("node-llama-cpp", "Time against node-llama-cpp in Deno.")
  .requiredOption("--node-llama-cpp <folder>", "where npm has installed it")
  .option("--prompt <tokens>", "length of the prompt", Number, 128)
  .option("--tokens <count>", "tokens that are timed", Number, 32)
  .option("--top-k <counts>", "likeliest tokens to sample from; 0: all", numbers, [0, 40])
  .action(async (options: Options) => {
    const { gguf } = options;
    if (!gguf) throw new Error("Cannot compare: no model is given, give --gguf.");
    const open = openOptions(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("node_llama_cpp", { check });
    const works: Pick<TimingJob, "work" | "count" | "topK">[] = [
      { work: "prefill", count: 3 },
      ...options.topK.map((topK) => ({ work: "decode" as const, count: options.tokens, topK })),
    ];
    for (const { work, count, topK } of works) {
      const size = options.prompt;
      const tokens = work === "prefill" ? size : 1;
      const job: TimingJob = { package: options.package, options: open, work, size, count, topK };
      let threads = 0;
      const timeRival = async (flashAttention: boolean, fewer = 0) => {
        const rival: NodeLlamaCppJob = {
          ...{ folder: options.nodeLlamaCpp, gguf, vocabSize: facts.vocabSize },
          ...{ threads: Math.max(threads - fewer, 1), flashAttention, work, size, count, topK },
        };
        const timing = await runJson(Deno.execPath(), [
          "run",
          "-A",
          "--node-modules-dir=manual", // of the folder that is named, not of this repository
          worker,
          JSON.stringify(rival),
        ]);
        return rateOf(timing, tokens);
      };
      const label = topK === undefined ? work : `${work}, top ${topK || "all"}`;
      const { ours, ...theirs } = await takeTurns(label, options.rounds, {
        ours: async () => {
          const timing = await timeOurs(job);
          threads = timing.info!.threads;
          return rateOf(timing, tokens);
        },
        plain: () => timeRival(false),
        flash: () => timeRival(true),
        "one thread fewer": () => timeRival(true, 1),
      });
      const best = fastest(theirs);
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        work,
        prompt: size,
        topK,
        threads,
        rivalSettings: best,
        oursTokensPerSecond: median(ours),
        nodeLlamaCppTokensPerSecond: median(theirs[best]),
        ratio: ratioOf(ours, theirs[best]),
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
