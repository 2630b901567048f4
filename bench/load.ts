/**
 * `deno task bench:load --package <folder>`: opening a package with and without verification and with pages
 * of both sizes, each in a fresh process, against reading the same files, hashing on all threads, and writing
 * as much fresh memory: `boundGBps` is the rate of all three on all threads, one after the other, with nothing
 * packed and nobody waiting. The files should fit the page cache. Memory has been free for some seconds when it is
 * written, as it mostly is when a model is opened; `warmBoundGBps` supposes memory that was in use just before.
 * @module
 */
import { CHUNK_BYTES } from "../src/files/manifest.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { type FirstTouchRates, probeFirstTouch } from "./probes/probe.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { timeOurs } from "./timing.ts";

/** After this a virtual machine's host has taken back what has become free, ms. */
const SETTLE_MS = 5000;
/** Chunks that each thread hashes to be timed. */
const HASHED_CHUNKS = 64;

/** Reads every data file of a package on one thread. @returns Bytes a second. */
function readRate(folder: string): number {
  const buffer = new Uint8Array(CHUNK_BYTES);
  const begun = performance.now();
  let bytes = 0;
  for (const { name } of Deno.readDirSync(folder)) {
    if (!name.endsWith(".data")) continue;
    using file = Deno.openSync(`${folder}/${name}`);
    for (let count; (count = file.readSync(buffer)) !== null;) bytes += count;
  }
  return bytes / (performance.now() - begun) * 1e3;
}

function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
}

/** Hashes memory on all threads. @returns Bytes a second, all together. */
async function hashRate(threads: number): Promise<number> {
  const url = new URL("workers/hash.ts", import.meta.url);
  const workers = Array.from({ length: threads }, () => new Worker(url, { type: "module" }));
  const answers = () =>
    Promise.all(workers.map((worker) => new Promise((resolve) => worker.onmessage = resolve)));
  await answers(); // they have started
  const begun = performance.now();
  const done = answers();
  for (const worker of workers) worker.postMessage(HASHED_CHUNKS);
  await done;
  const seconds = (performance.now() - begun) / 1e3;
  for (const worker of workers) worker.terminate();
  return threads * HASHED_CHUNKS * CHUNK_BYTES / seconds;
}

await benchCommand("load", "Time opening a package.")
  .action(async (options: BenchOptions) => {
    const facts = await packageFacts(options.package);
    const threads = options.threads ?? navigator.hardwareConcurrency;
    const results = await Results.begin("load", {});
    readRate(options.package); // into the page cache
    for (const verify of [false, true]) {
      for (const hugePages of [false, true]) {
        const loads: number[] = [];
        const reads: number[] = [];
        const hashes: number[] = [];
        let peakBytes = 0;
        const touches: FirstTouchRates[] = [];
        for (let round = 0; round < options.rounds; round++) {
          reads.push(readRate(options.package));
          hashes.push(await hashRate(threads));
          await settle();
          const touched = await probeFirstTouch(threads, facts.weightBytes, hugePages);
          if (touched) touches.push(touched);
          await settle();
          const timing = await timeOurs({
            package: options.package,
            options: { ...openOptions(options), verify, hugePages },
            ...{ work: "decode", size: 1, count: 1 },
          });
          loads.push(facts.weightBytes / timing.loadSeconds);
          peakBytes = Math.max(peakBytes, timing.peakBytes!);
        }
        const [load, read, hash] = [loads, reads, hashes].map(median) as [number, number, number];
        /** The rate of all that loading can not do without. */
        const bound = (touch: number) =>
          1e-9 / (1 / (threads * read) + (verify ? 1 / hash : 0) + 1e-9 / touch);
        const firstTouch = median(touches.map(({ first }) => first));
        const warmTouch = median(touches.map(({ best }) => best));
        results.add({
          layers: facts.layers,
          weights: facts.weights,
          ...{ verify, hugePages, threads, weightBytes: facts.weightBytes },
          loadSeconds: facts.weightBytes / load,
          loadGBps: load / 1e9,
          readGBps: read / 1e9,
          hashGBps: hash / 1e9,
          ...touches.length > 0 && {
            ...{ firstTouchGBps: firstTouch, boundGBps: bound(firstTouch) },
            shareOfBound: load / 1e9 / bound(firstTouch),
            ...{ warmTouchGBps: warmTouch, warmBoundGBps: bound(warmTouch) },
          },
          shareOfLimit: load / (verify ? Math.min(read, hash) : read),
          peakBytes,
          peakByWeights: peakBytes / facts.weightBytes,
        });
      }
    }
  })
  .parseAsync(Deno.args, { from: "user" });
