/**
 * `deno task bench:decode --package <folder> [--gguf <file> --llama <program>]`: tokens a second of one
 * sequence, end to end: attention over the context, sampling and streaming included; against llama.cpp
 * with as many threads. With pages of 2 MB and of 4 KB.
 *
 * Each JSON line has the bytes that a token must read and which part of the probed read bandwidth ours
 * reaches.
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

await benchCommand("decode", "Time tokens that are generated one by one.")
  .option("--context <tokens>", "lengths of the prompt, separated by commas", numbers, [128])
  .option("--tokens <count>", "tokens that are timed", Number, 48)
  .action(async (options: Options) => {
    const open = openOptions(options);
    const llama = rival(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("decode", { check });
    for (const size of options.context) {
      for (const hugePages of [true, false]) {
        const found = await compare(
          {
            package: options.package,
            options: { ...open, hugePages },
            work: "decode",
            size,
            count: options.tokens,
          },
          llama,
          options.rounds,
        );
        const limits = await probeLimits(found.info.threads);
        const bytes = facts.stepBytes(1) +
          facts.cacheBytesPerToken * (size + options.tokens / 2);
        const share = limits &&
          found.ours.tokensPerSecond * bytes /
            ((hugePages ? limits.readGBps2M : limits.readGBps4K) * 1e9);
        results.add({
          layers: facts.layers,
          weights: facts.weights,
          context: size,
          tokens: options.tokens,
          hugePages,
          bytesPerToken: Math.round(bytes),
          shareOfBandwidth: share && share,
          limits,
          ...found,
        });
      }
    }
  })
  .parseAsync(Deno.args, { from: "user" });
