/**
 * `deno task bench:ort --package <folder>`: decoding on our engine against stock onnxruntime-node, which
 * runs the function bodies of the same file with as many threads. The fastest of three ways counts: weights
 * packed, weights as they are, and packed with activations quantized to int8 as ours are, for which a copy
 * of the graph says `accuracy_level` 4. Without that onnxruntime takes most of a token's time for the int8 head;
 * with it the head takes less than twice our time, and of one layer it is most of what our side does.
 * @module
 */
import { dirname, resolve } from "node:path";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema } from "../src/onnx/onnx_pb.ts";
import { checkLayer } from "./check_layer.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { rateOf, timeOurs, type TimingJob } from "./timing.ts";
import { fastest, ratioOf, takeTurns } from "./turns.ts";

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
    let threads = 0;
    const timeOrt = async (folder: string, disablePrepacking = false) => {
      const ort = { threads, disablePrepacking };
      return rateOf(await timeOurs({ ...job, package: folder, options: { backend: "ort" }, ort }));
    };
    const quantizing = await quantizingCopy(options.package);
    try {
      const { ours, ...theirs } = await takeTurns("decode", options.rounds, {
        ours: async () => {
          const timing = await timeOurs(job);
          threads = timing.info!.threads;
          return rateOf(timing);
        },
        packed: () => timeOrt(options.package),
        unpacked: () => timeOrt(options.package, true),
        int8: () => timeOrt(quantizing),
      });
      const best = fastest(theirs);
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        context: options.context,
        tokens: options.tokens,
        threads,
        rivalSettings: best,
        oursTokensPerSecond: median(ours),
        ortTokensPerSecond: median(theirs[best]),
        ratio: ratioOf(ours, theirs[best]),
        ratios: {
          packed: ratioOf(ours, theirs.packed),
          unpacked: ratioOf(ours, theirs.unpacked),
          int8: ratioOf(ours, theirs.int8),
        },
      });
    } finally {
      await Deno.remove(quantizing, { recursive: true });
    }
  })
  .parseAsync(Deno.args, { from: "user" });

/** The package beside itself, its data files linked, with activations of linear layers quantized to int8. */
async function quantizingCopy(folder: string): Promise<string> {
  const copy = await Deno.makeTempDir({ dir: dirname(resolve(folder)), prefix: "hybridseek-ort-" });
  for await (const { name } of Deno.readDir(folder)) {
    await Deno.link(`${folder}/${name}`, `${copy}/${name}`);
  }
  const model = fromBinary(ModelProtoSchema, await Deno.readFile(`${folder}/model.onnx`));
  for (const { opType, attribute } of model.graph!.node) {
    if (opType !== "MatMulNBits") continue;
    attribute.find(({ name }) => name === "accuracy_level")!.i = 4n;
  }
  await Deno.remove(`${copy}/model.onnx`);
  await Deno.writeFile(`${copy}/model.onnx`, toBinary(ModelProtoSchema, model));
  return copy;
}
