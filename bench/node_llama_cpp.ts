/**
 * `deno task bench:node-llama-cpp --package <folder> --gguf <file> --node-llama-cpp <folder>`: ours against
 * node-llama-cpp, both in Deno with the JavaScript loop and the sampler that their users have. The folder is
 * one where `npm install --ignore-scripts node-llama-cpp@3.22.1` was run.
 * @module
 */
import { checkLayer } from "./check_layer.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { runJson, timeOurs, type TimingJob } from "./timing.ts";
import type { NodeLlamaCppJob } from "./workers/node_llama_cpp.ts";

interface Options extends BenchOptions {
  nodeLlamaCpp: string;
  prompt: number;
  tokens: number;
}

const worker = new URL("workers/node_llama_cpp.ts", import.meta.url).pathname;

await benchCommand("node-llama-cpp", "Time against node-llama-cpp in Deno.")
  .requiredOption("--node-llama-cpp <folder>", "where npm has installed it")
  .option("--prompt <tokens>", "length of the prompt", Number, 128)
  .option("--tokens <count>", "tokens that are timed", Number, 32)
  .action(async (options: Options) => {
    const { gguf } = options;
    if (!gguf) throw new Error("Cannot compare: no model is given, give --gguf.");
    const open = openOptions(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("node_llama_cpp", { check });
    for (const work of ["prefill", "decode"] as const) {
      const count = work === "prefill" ? 3 : options.tokens;
      const tokens = work === "prefill" ? options.prompt : 1;
      const size = options.prompt;
      const job: TimingJob = { package: options.package, options: open, work, size, count };
      const ours: number[] = [];
      const theirs: number[] = [];
      let threads = 0;
      for (let round = 0; round < options.rounds; round++) {
        const timing = await timeOurs(job);
        threads = timing.info!.threads;
        ours.push(tokens / median(timing.seconds));
        const { vocabSize } = facts;
        const folder = options.nodeLlamaCpp;
        const rival: NodeLlamaCppJob = { folder, gguf, vocabSize, threads, work, size, count };
        const { seconds } = await runJson(Deno.execPath(), [
          "run",
          "-A",
          "--node-modules-dir=manual", // of the folder that is named, not of this repository
          worker,
          JSON.stringify(rival),
        ]);
        theirs.push(tokens / median(seconds));
        const [our, their] = [ours.at(-1)!, theirs.at(-1)!];
        console.error(
          `${work} ${round + 1}: ours ${our.toFixed(2)}, node-llama-cpp ${
            their.toFixed(2)
          } tok/s, ` +
            `ratio ${(our / their).toFixed(2)}`,
        );
      }
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        work,
        prompt: options.prompt,
        threads,
        oursTokensPerSecond: median(ours),
        nodeLlamaCppTokensPerSecond: median(theirs),
        ratio: median(ours.map((rate, i) => rate / theirs[i]!)),
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
