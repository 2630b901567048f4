/**
 * `deno task bench:threads --package <folder>`: prompts and tokens on one thread, on all of them, and on all
 * of them while another process, started in the same way, spins on the first core.
 * @module
 */
import type { OpenOptions } from "../src/open_model.ts";
import { checkLayer } from "./check_layer.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { rateOf, timeOurs, type TimingJob } from "./timing.ts";
import { ratioOf, takeTurns } from "./turns.ts";

interface Options extends BenchOptions {
  prompt: number;
  tokens: number;
}

/** Runs beside a process that spins on the first core. */
async function disturbed<T>(run: () => Promise<T>): Promise<T> {
  const args = ["-c", "0", Deno.execPath(), "eval", "for (;;);"];
  const spinning = new Deno.Command("taskset", { args }).spawn();
  try {
    return await run();
  } finally {
    spinning.kill("SIGKILL");
    await spinning.status;
  }
}

await benchCommand("threads", "Time one thread, all threads, and a process that competes.")
  .option("--prompt <tokens>", "length of the prompt", Number, 256)
  .option("--tokens <count>", "tokens that are timed", Number, 48)
  .action(async (options: Options) => {
    const { package: folder, prompt, tokens } = options;
    const open = openOptions(options);
    const check = await checkLayer(folder, open);
    const facts = await packageFacts(folder);
    const results = await Results.begin("threads", { check });
    for (const work of ["prefill", "decode"] as const) {
      const count = work === "prefill" ? 3 : tokens;
      const job: TimingJob = { package: folder, options: open, work, size: prompt, count };
      const tokensOfOne = work === "prefill" ? prompt : 1;
      let threads = 0;
      const time = async (more: OpenOptions = {}) => {
        const timing = await timeOurs({ ...job, options: { ...open, ...more } });
        threads = timing.info!.threads;
        return rateOf(timing, tokensOfOne);
      };
      const rates = await takeTurns(work, options.rounds, {
        one: () => time({ threads: 1 }),
        disturbed: () => disturbed(time),
        all: () => time(),
      });
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        work,
        prompt,
        threads,
        tokensPerSecond: median(rates.all),
        oneThreadTokensPerSecond: median(rates.one),
        disturbedTokensPerSecond: median(rates.disturbed),
        speedup: ratioOf(rates.all, rates.one),
        disturbedRatio: ratioOf(rates.disturbed, rates.all),
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
