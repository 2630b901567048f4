/**
 * `deno task bench:ort --package <folder>`: decoding on our engine against stock onnxruntime-node, which
 * runs the function bodies of the same file. It gets as many threads, and the better one of its two ways of
 * keeping weights counts.
 * @module
 */
import { checkLayer } from "./check_layer.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { timeOurs, type TimingJob } from "./timing.ts";

interface Options extends BenchOptions {
  context: number;
  tokens: number;
}

await benchCommand("ort", "Time decoding against stock onnxruntime-node.")
  .option("--context <tokens>", "length of the prompt", Number, 32)
  .option("--tokens <count>", "tokens that are timed", Number, 12)
  .action(async (options: Options) => {
    const open = openOptions(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const results = await Results.begin("ort", { check });
    const job: TimingJob = {
      package: options.package,
      options: open,
      work: "decode",
      size: options.context,
      count: options.tokens,
    };
    const rates = { ours: [] as number[], packed: [] as number[], unpacked: [] as number[] };
    for (let round = 0; round < options.rounds; round++) {
      const ours = await timeOurs(job);
      rates.ours.push(1 / median(ours.seconds));
      const { threads } = ours.info!;
      for (const way of ["packed", "unpacked"] as const) {
        const ort = { threads, disablePrepacking: way === "unpacked" };
        const theirs = await timeOurs({ ...job, options: { backend: "ort" }, ort });
        rates[way].push(1 / median(theirs.seconds));
      }
      const shown = Object.entries(rates).map(([name, list]) =>
        `${name} ${list[round]!.toFixed(2)}`
      );
      console.error(`round ${round + 1}: ${shown.join(", ")} tok/s`);
    }
    const ours = median(rates.ours);
    const better = Math.max(median(rates.packed), median(rates.unpacked));
    results.add({
      layers: facts.layers,
      weights: facts.weights,
      context: options.context,
      tokens: options.tokens,
      oursTokensPerSecond: ours,
      ortPrepackedTokensPerSecond: median(rates.packed),
      ortNotPrepackedTokensPerSecond: median(rates.unpacked),
      ratio: ours / better,
    });
  })
  .parseAsync(Deno.args, { from: "user" });
