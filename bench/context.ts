/**
 * `deno task bench:context --package <folder> [--gguf <file> --llama <program>]`: decoding after prompts of
 * rising length, and the attention alone.
 *
 * The attention's time is what a step takes longer than one after the first length, all in one process
 * and in turn (`workers/attention.ts`). Beside it are the cache bytes that it reads at least (of f32), its
 * operations, and the share of the machine's limit that it reaches: the slower of reading those bytes at
 * the probed bandwidth and of computing at the probed peak of f32 products and sums, rounded apart.
 * Prompts of more than `--longest` tokens are not computed: those lines have the attention alone.
 * @module
 */
import { number } from "../src/cli/model_options.ts";
import { checkLayer } from "./check_layer.ts";
import { compare } from "./compare.ts";
import { benchCommand, type BenchOptions, numbers, openOptions, rival } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { probeLimits } from "./probes/probe.ts";
import { Results } from "./results.ts";
import { timeAttention } from "./timing.ts";

interface Options extends BenchOptions {
  context: number[];
  longest: number;
  tokens: number;
}

const LENGTHS = [64, 512, 2048, 8192, 32768];

await benchCommand("context", "Time tokens after long prompts.")
  .option("--context <tokens>", "lengths, separated by commas, the base first", numbers, LENGTHS)
  .option("--longest <tokens>", "the longest prompt that is computed", number, 8192)
  .option("--tokens <count>", "tokens that are timed", Number, 24)
  .action(async (options: Options) => {
    const open = openOptions(options);
    const llama = rival(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("context", { check });
    const base = options.context[0]!;
    const attention = await timeAttention({
      package: options.package,
      options: open,
      contexts: options.context,
      count: options.tokens,
    });
    const limits = await probeLimits(attention.threads);
    for (const [i, context] of options.context.entries()) {
      const job = {
        package: options.package,
        options: open,
        work: "decode" as const,
        size: context,
      };
      const found = context <= options.longest
        ? await compare({ ...job, count: options.tokens }, llama, options.rounds)
        : undefined;
      const attentionSeconds = attention.seconds[i]! - attention.seconds[0]!;
      const cacheBytesRead = facts.cacheBytesPerToken * (context - base);
      const attentionOperations = facts.attentionOperationsPerKey * (context - base);
      const least = limits && Math.max(
            cacheBytesRead / limits.readGBps2M,
            attentionOperations / limits.floatGflops128,
          ) / 1e9;
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        context,
        tokens: options.tokens,
        attentionSeconds,
        cacheBytesRead,
        attentionOperations,
        attentionShareOfLimit: least && least / attentionSeconds,
        limits,
        ...found,
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
