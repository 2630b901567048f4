/**
 * `deno run -A bench/synthetic.ts <shape> <folder> [--layers N] [--weights int4] [--seed N] [--zipf A]
 * [--force]`: writes a package of random weights, for benches of shapes whose weights are not at hand. It opens as
 * any other; there is no tokenizer, prompts are token ids.
 * @module
 */
import process from "node:process";
import { Command, Option } from "commander";
import type { Weights } from "../export-tools/quantization/recipe.ts";
import { number } from "../src/cli/model_options.ts";
import { progressBar } from "../src/cli/progress_bar.ts";
import { HybridseekError } from "../src/errors.ts";
import { shapes } from "./synthetic/shapes.ts";
import { writeRandomPackage } from "./synthetic/write_random_package.ts";

interface Options {
  layers?: number;
  weights: Weights;
  seed: number;
  zipf?: number;
  force?: true;
}

async function write(name: string, folder: string, options: Options, command: Command) {
  const shape = Object.hasOwn(shapes, name) ? shapes[name] : undefined;
  if (!shape) {
    const known = Object.keys(shapes).join(", ");
    command.error(`error: Cannot write shape ${name}: it is not known, known are ${known}.`);
  }
  const { layers = shape.num_hidden_layers, weights, seed, zipf, force = false } = options;
  const bar = progressBar("Writing");
  const begun = performance.now();
  try {
    const { bytes, dataFiles } = await writeRandomPackage(
      { ...shape, num_hidden_layers: layers },
      folder,
      {
        weights,
        seed,
        zipf,
        overwrite: force,
        onProgress: ({ doneBytes, totalBytes }) => bar.update(doneBytes, totalBytes),
      },
    );
    bar.stop();
    const seconds = Math.round(performance.now() - begun) / 1e3;
    const peakBytes = process.resourceUsage().maxRSS * 1024;
    console.log(
      JSON.stringify({
        shape: name,
        layers,
        weights,
        seed,
        zipf,
        bytes,
        dataFiles,
        seconds,
        peakBytes,
      }),
    );
  } finally {
    bar.stop();
  }
}

const program = new Command("synthetic")
  .description("Write a package of random weights.")
  .argument("<shape>", Object.keys(shapes).join(", "))
  .argument("<folder>", "the folder to be made")
  .option("--layers <count>", "how many layers (default: the shape's)", number)
  .addOption(
    new Option("--weights <format>", "storage").choices(["f32", "f16", "int8", "int4"])
      .default("int4"),
  )
  .option("--seed <integer>", "same seed, same bytes", number, 1)
  .option("--zipf <exponent>", "experts are chosen after Zipf's law (default: evenly)", number)
  .option("--force", "replace a package that is there already")
  .action(write);

try {
  await program.parseAsync(Deno.args, { from: "user" });
} catch (error) {
  if (!(error instanceof HybridseekError)) throw error;
  console.error(`error: ${error.message}`);
  Deno.exit(1);
}
