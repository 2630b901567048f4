/**
 * `deno task bench:experts --package <folder>`: decoding with less memory than all experts need, against
 * decoding with all of them in memory. The package is one of `bench/synthetic.ts --zipf`, as evenly random
 * routers would leave little for a memory to hold.
 *
 * Each JSON line has the memory, how many experts it holds, which part of the experts used were there, and
 * the bytes read per token, which come from the page cache where it has room. Tokens must be those of the
 * model in memory, which was compared with ONNX Runtime.
 * @module
 */
import { byteSize } from "../src/cli/model_options.ts";
import { CHUNK_BYTES } from "../src/files/manifest.ts";
import { checkLayer } from "./check_layer.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { rateOf, runJson, timeOurs, type Timing, type TimingJob } from "./timing.ts";
import { ratioOf } from "./turns.ts";

interface Options extends BenchOptions {
  memory?: number[];
  context: number;
  tokens: number;
}

/** Which part of the experts the memory holds, unless it is told; a token of V2-Lite uses 6 of 64. */
const SHARES = [0.095, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8];
/** Until the places hold what is used often, tokens. */
const WARM_UP = 64;

const choices = new URL("workers/choices.ts", import.meta.url).pathname;

await benchCommand("experts", "Time decoding with experts on demand.")
  .option("--memory <sizes>", "such as 4GB, separated by commas (default: for a curve)", byteSizes)
  .option("--context <tokens>", "length of the prompt", Number, 64)
  .option("--tokens <count>", "tokens that are timed", Number, 64)
  .action(async (options: Options) => {
    const { package: folder, context, tokens } = options;
    const open = openOptions(options);
    const check = await checkLayer(folder, open);
    const facts = await packageFacts(folder);
    const job: TimingJob = {
      ...{ package: folder, options: open, work: "decode", size: context, count: tokens },
      warmUp: WARM_UP,
    };
    const resident: Timing[] = [await timeOurs(job)];
    const all = Object.values(resident[0]!.info!.bytes).reduce((sum, bytes) => sum + bytes);
    const memories = options.memory ??
      SHARES.map((share) => Math.round(all - (1 - share) * facts.expertBytes));
    const little = JSON.stringify({ ...open, memoryBytes: Math.max(...memories) });
    const zipfExponent = await runJson<number>(Deno.execPath(), [
      "run",
      "-A",
      choices,
      folder,
      little,
    ]);
    const results = await Results.begin("experts", { check, zipfExponent });
    const found = memories.map((): Timing[] => []);
    for (let round = 0; round < options.rounds; round++) {
      if (round > 0) resident.push(await timeOurs(job));
      for (const [i, memoryBytes] of memories.entries()) {
        readDataFiles(folder);
        const timing = await timeOurs({ ...job, options: { ...open, memoryBytes } });
        checkTokens(timing, resident[0]!);
        found[i]!.push(timing);
        console.error(
          `round ${round + 1}, ${(memoryBytes / 1e9).toFixed(2)} GB: ` +
            `${(hitRate(timing) * 100).toFixed(1)} % hits, ${
              rateOf(timing).toFixed(2)
            } tok/s, ratio ` +
            `${(rateOf(timing) / rateOf(resident[round]!)).toFixed(2)}`,
        );
      }
    }
    const inMemory = resident.map((timing) => rateOf(timing));
    for (const [i, memoryBytes] of memories.entries()) {
      const [first] = found[i]!;
      const onDemand = found[i]!.map((timing) => rateOf(timing));
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        context,
        tokens,
        memoryBytes,
        places: first!.experts!.places,
        hitRate: hitRate(first!),
        bytesReadPerToken: Math.round(first!.experts!.bytesRead / tokens),
        tokensPerSecond: median(onDemand),
        residentTokensPerSecond: median(inMemory),
        ratio: ratioOf(onDemand, inMemory),
        peakBytes: Math.max(...found[i]!.map(({ peakBytes }) => peakBytes!)),
        info: first!.info,
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });

/** The page cache holds them afterwards, where they fit. */
function readDataFiles(folder: string) {
  const buffer = new Uint8Array(CHUNK_BYTES);
  for (const { name } of Deno.readDirSync(folder)) {
    if (!name.endsWith(".data")) continue;
    using file = Deno.openSync(`${folder}/${name}`);
    while (file.readSync(buffer) !== null);
  }
}

function byteSizes(text: string): number[] {
  return text.split(",").map(byteSize);
}

function hitRate({ experts }: Timing): number {
  if (!experts) throw new Error("Cannot time experts on demand: the memory holds all of them.");
  return 1 - experts.misses / experts.uses;
}

function checkTokens({ tokenIds }: Timing, resident: Timing) {
  if (String(tokenIds) === String(resident.tokenIds)) return;
  throw new Error("Cannot trust times: with experts on demand other tokens come.");
}
