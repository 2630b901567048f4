/**
 * `deno task bench:browser --package <folder> --gguf <file> --chromium <program>`: ours against wllama
 * (llama.cpp in WebAssembly), each on a fresh page of headless Chromium with cross-origin isolation, so that
 * both may use threads. wllama comes from npm. Its GGUF must be below 2 GB; of several, separated by commas,
 * the fastest counts.
 * @module
 */
import { basename } from "node:path";
import { checkLayer } from "./check_layer.ts";
import { serve } from "./browser/server.ts";
import { benchCommand, type BenchOptions, openOptions } from "./options.ts";
import { packageFacts } from "./package_facts.ts";
import { Results } from "./results.ts";
import { median } from "./statistics.ts";
import { fastest, ratioOf } from "./turns.ts";

interface Options extends BenchOptions {
  chromium: string;
  prompt: number;
  tokens: number;
}

/** Tokens a second. */
interface Rates {
  prefill: number;
  decode: number;
  error?: string;
  info?: { threads: number; build: string };
}

const WORKS = ["prefill", "decode"] as const;
const WLLAMA = "@wllama/wllama@3.8.1";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** A large model takes minutes on a slow side. */
const TIMEOUT_MS = 1800e3;

/** Our side runs in a worker, as the engine may block its thread. */
const IN_WORKER = `(job) => new Promise((resolve, reject) => {
  const worker = new Worker("/ours.js", { type: "module" });
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = ({ message }) => reject(new Error(message));
  worker.postMessage(job);
})`;
/** wllama makes its own worker. */
const ON_PAGE = `async (job) => await (await import("/wllama.js")).run(job)`;

async function run(program: string, args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args }).output();
  if (!success) throw new Error(`Cannot run ${program}: ${new TextDecoder().decode(stderr)}`);
}

/** Bundles ours and fetches wllama. @param folder Into this folder. */
async function prepare(folder: string): Promise<void> {
  const main = new URL("../mod.ts", import.meta.url).pathname;
  const bundle = ["bundle", "--quiet", "--platform", "browser"];
  await run(Deno.execPath(), [...bundle, "--output", `${folder}/bundle.js`, main]);
  await run("npm", ["pack", "--silent", "--pack-destination", folder, WLLAMA]);
  const archive = [...Deno.readDirSync(folder)].find(({ name }) => name.endsWith(".tgz"))!;
  await run("tar", ["xzf", `${folder}/${archive.name}`, "-C", folder]);
}

await benchCommand("browser", "Time against wllama in Chromium.")
  .option("--chromium <program>", "the browser", "/usr/bin/chromium")
  .option("--prompt <tokens>", "length of the prompt", Number, 128)
  .option("--tokens <count>", "tokens that are timed", Number, 16)
  .action(async (options: Options) => {
    const { gguf, rounds } = options;
    if (!gguf) throw new Error("Cannot compare: no model is given, give --gguf.");
    const models = gguf.split(",");
    const open = openOptions(options);
    const check = await checkLayer(options.package, open);
    const facts = await packageFacts(options.package);
    const folder = await Deno.makeTempDir({ prefix: "hybridseek-browser-" });
    try {
      await prepare(folder);
      const server = serve({
        "bundle.js": `${folder}/bundle.js`,
        "wasm": new URL("../wasm", import.meta.url).pathname,
        "ours.js": new URL("browser/ours.js", import.meta.url).pathname,
        "wllama.js": new URL("browser/wllama.js", import.meta.url).pathname,
        "wllama": `${folder}/package/esm`,
        "package": options.package,
        ...Object.fromEntries(models.map((gguf, i) => [`gguf${i}`, gguf])),
      });
      const { chromium } = await import("npm:playwright-core@1.65.1");
      /** Evaluates on a fresh page of a fresh browser. */
      const onPage = async (code: string, job: unknown): Promise<Rates> => {
        const launch = { executablePath: options.chromium, args: FLAGS, timeout: TIMEOUT_MS };
        const browser = await chromium.launch(launch);
        try {
          const page = await browser.newPage();
          await page.goto(`${server.address}/`);
          const rates: Rates = await page.evaluate(`(${code})(${JSON.stringify(job)})`);
          if (rates.error) throw new Error(`Cannot time in the browser: ${rates.error}`);
          return rates;
        } finally {
          await browser.close();
        }
      };
      const results = await Results.begin("browser", { check });
      const job = { size: options.prompt, count: options.tokens };
      const ours: Rates[] = [];
      const theirs = models.map((): Rates[] => []);
      for (let round = 0; round < rounds; round++) {
        ours.push(await onPage(IN_WORKER, { ...job, options: open }));
        const { threads } = ours[0]!.info!;
        for (const [i, rates] of theirs.entries()) {
          rates.push(await onPage(ON_PAGE, { ...job, threads, gguf: `gguf${i}` }));
        }
        for (const work of WORKS) {
          const shown = theirs.map((rates) => rates.at(-1)![work].toFixed(2)).join(" and ");
          console.error(
            `${work}, round ${round + 1}: ours ${
              ours.at(-1)![work].toFixed(2)
            }, wllama ${shown} tok/s`,
          );
        }
      }
      for (const work of WORKS) {
        const rates = (side: Rates[]) => side.map((rate) => rate[work]);
        const wllama = Object.fromEntries(models.map((gguf, i) => [gguf, rates(theirs[i]!)]));
        const best = fastest(wllama);
        results.add({
          layers: facts.layers,
          weights: facts.weights,
          work,
          ...job,
          info: ours[0]!.info,
          gguf: basename(best),
          oursTokensPerSecond: median(rates(ours)),
          wllamaTokensPerSecond: median(wllama[best]!),
          ratio: ratioOf(rates(ours), wllama[best]!),
        });
      }
      await server.close();
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  })
  .parseAsync(Deno.args, { from: "user" });
