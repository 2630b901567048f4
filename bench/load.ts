/**
 * `deno task bench:load --package <folder>`: opening a package with and without verification, each in a
 * fresh process, against reading the same files and against hashing them on one thread.
 * @module
 */
import { createHash } from "node:crypto";
import { CHUNK_BYTES } from "../src/files/manifest.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { timeOurs } from "./timing.ts";

/** Reads every data file of a package. @returns Seconds, and the bytes read. */
function readAll(folder: string, use: (chunk: Uint8Array) => void = () => {}) {
  const buffer = new Uint8Array(CHUNK_BYTES);
  const begun = performance.now();
  let bytes = 0;
  for (const { name } of Deno.readDirSync(folder)) {
    if (!name.endsWith(".data")) continue;
    using file = Deno.openSync(`${folder}/${name}`);
    for (let count; (count = file.readSync(buffer)) !== null;) {
      use(buffer.subarray(0, count));
      bytes += count;
    }
  }
  return { seconds: (performance.now() - begun) / 1e3, bytes };
}

await benchCommand("load", "Time opening a package.")
  .action(async (options: BenchOptions) => {
    const facts = await packageFacts(options.package);
    const results = await Results.begin("load", {});
    readAll(options.package); // into the page cache, where it fits
    for (const verify of [false, true]) {
      const loads: number[] = [];
      const reads: number[] = [];
      const hashes: number[] = [];
      let peakBytes = 0;
      for (let round = 0; round < options.rounds; round++) {
        reads.push(readAll(options.package).seconds);
        if (verify) {
          const digest = (chunk: Uint8Array) => createHash("sha256").update(chunk).digest();
          hashes.push(readAll(options.package, digest).seconds);
        }
        const open = { ...openOptions(options), verify };
        const work = { work: "decode" as const, size: 1, count: 1 };
        const timing = await timeOurs({ package: options.package, options: open, ...work });
        loads.push(timing.loadSeconds);
        peakBytes = Math.max(peakBytes, timing.peakBytes!);
      }
      const rate = (seconds: number[]) => facts.weightBytes / median(seconds) / 1e9;
      results.add({
        layers: facts.layers,
        weights: facts.weights,
        verify,
        weightBytes: facts.weightBytes,
        loadSeconds: median(loads),
        loadGBps: rate(loads),
        readGBps: rate(reads),
        ...(verify ? { readAndHashGBps: rate(hashes) } : {}),
        shareOfRead: median(reads) / median(loads),
        peakBytes,
        peakByWeights: peakBytes / facts.weightBytes,
      });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
