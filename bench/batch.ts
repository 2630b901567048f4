/**
 * `deno task bench:batch --package <folder> [--gguf <file> --llama <program>]`: total tokens a second of
 * sequences that decode together.
 *
 * Each line has the bytes that a step must read when every token chooses its experts evenly by itself, the
 * tokens a second that the probed read bandwidth allows by it, and the gain over one sequence.
 * @module
 */
import { checkLayer } from "./check_layer.ts";
import { compare } from "./compare.ts";
import { benchCommand, type BenchOptions, numbers, openOptions, rival } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { probeLimits } from "./probes/probe.ts";
import { Results } from "./results.ts";

interface Options extends BenchOptions {
  sequences: number[];
  context: number;
  tokens: number;
}

await benchCommand("batch", "Time sequences that decode together.")
  .option("--sequences <counts>", "how many, separated by commas", numbers, [1, 2, 4, 8, 16])
  .option("--context <tokens>", "length of each prompt", Number, 64)
  .option("--tokens <count>", "steps that are timed", Number, 24)
  .action(async (options: Options) => {
    const open = openOptions(options);
    const llama = rival(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("batch", { check });
    let base: number | undefined;
    for (const sequences of options.sequences) {
      const found = await compare(
        {
          package: options.package,
          options: open,
          work: "decode",
          size: options.context,
          count: options.tokens,
          sequences,
        },
        llama,
        options.rounds,
      );
      const limits = await probeLimits(found.info.threads);
      const stepBytes = facts.stepBytes(sequences);
      base ??= found.ours.tokensPerSecond / sequences;
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        sequences,
        context: options.context,
        tokens: options.tokens,
        stepBytes: Math.round(stepBytes),
        boundTokensPerSecond: limits && limits.readGBps2M * 1e9 / stepBytes * sequences,
        gain: found.ours.tokensPerSecond / base,
        limits,
        ...found,
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
