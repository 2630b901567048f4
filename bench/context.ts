/**
 * `deno task bench:context --package <folder> [--gguf <file> --llama <program>]`: decoding after prompts of
 * rising length. The first line is the base: what the others take longer goes into attention.
 *
 * Beside tokens a second each line has the time that a token's attention takes, the cache bytes that it
 * must read at least, and its multiply-adds; with the probed limits they say how near the attention is to
 * what the machine can do.
 * @module
 */
import { checkLayer } from "./check_layer.ts";
import { compare } from "./compare.ts";
import { benchCommand, type BenchOptions, numbers, openOptions, rival } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { probeLimits } from "./probes/probe.ts";
import { Results } from "./results.ts";

interface Options extends BenchOptions {
  context: number[];
  tokens: number;
}

const LENGTHS = [64, 512, 2048, 8192, 32768];

await benchCommand("context", "Time tokens after long prompts.")
  .option("--context <tokens>", "lengths, separated by commas, the base first", numbers, LENGTHS)
  .option("--tokens <count>", "tokens that are timed", Number, 24)
  .action(async (options: Options) => {
    const open = openOptions(options);
    const llama = rival(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("context", { check });
    let base: number | undefined;
    for (const size of options.context) {
      const job = { package: options.package, options: open, work: "decode" as const, size };
      const found = await compare({ ...job, count: options.tokens }, llama, options.rounds);
      const limits = await probeLimits(found.info.threads);
      const stepSeconds = 1 / found.ours.medianTokensPerSecond;
      base ??= stepSeconds;
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        context: size,
        tokens: options.tokens,
        attentionSeconds: stepSeconds - base,
        cacheBytesRead: facts.cacheBytesPerToken * size,
        attentionOperations: facts.attentionOperationsPerKey * size,
        limits,
        ...found,
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
