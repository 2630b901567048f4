/**
 * `deno task bench:prefill --package <folder> [--gguf <file> --llama <program>]`: tokens a second of a
 * prompt, from its ids to its first token; against llama.cpp with as many threads.
 *
 * Each JSON line has the operations of a token (2 for each weight that it meets, without attention over
 * the context and without the head, which sees one token) and which part of the probed int8 multiply-add
 * peak at 128 bits ours reaches.
 * @module
 */
import { checkLayer } from "./check_layer.ts";
import { compare } from "./compare.ts";
import { benchCommand, type BenchOptions, numbers, openOptions, rival } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { probeLimits } from "./probes/probe.ts";
import { Results } from "./results.ts";

interface Options extends BenchOptions {
  tokens: number[];
  repeats: number;
}

await benchCommand("prefill", "Time prompts.")
  .option("--tokens <counts>", "lengths of the prompt, separated by commas", numbers, [128, 512])
  .option("--repeats <count>", "prompts in each process", Number, 3)
  .action(async (options: Options) => {
    const open = openOptions(options);
    const llama = rival(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("prefill", { check });
    for (const size of options.tokens) {
      const job = { package: options.package, options: open, work: "prefill" as const, size };
      const found = await compare({ ...job, count: options.repeats }, llama, options.rounds);
      const limits = await probeLimits(found.info.threads);
      const gops = found.ours.tokensPerSecond * facts.operationsPerToken / 1e9;
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        tokens: size,
        gops,
        shareOfPeak: limits?.multiplyAddGops128 && gops / limits.multiplyAddGops128,
        limits,
        ...found,
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
