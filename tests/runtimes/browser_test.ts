/**
 * The bundled module in a real browser, on a page and in a worker: the same text as Deno.
 */
import { strict as assert } from "node:assert";
import { type CompletionOutput, LLM, type RequestOutput } from "../../mod.ts";
import { bundleFolder, denoOutputs, needsRuntimes, request, serveFolder } from "./runtimes.ts";

const CHROMIUM = "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const GENERATE = `
  import { LLM } from "./bundle.js";
  const served = new URL("/models/reference/", location.href);
  async function privateFolder() {
    const root = await navigator.storage.getDirectory();
    const folder = await root.getDirectoryHandle("reference", { create: true });
    const { files } = await (await fetch(new URL("manifest.json", served))).json();
    for (const { name } of [...files, { name: "manifest.json" }]) {
      const file = await folder.getFileHandle(name, { create: true });
      await (await fetch(new URL(name, served))).body.pipeTo(await file.createWritable());
    }
    return folder;
  }
  export async function generate({ prompt, params, options, from }) {
    const steps = [];
    const onProgress = (done, total) => steps.push(done / total);
    const model = from === "private" ? await privateFolder() : served;
    if (options?.memoryBytes === "least") {
      options.memoryBytes = await LLM.open(model, { ...options, memoryBytes: 1 })
        .catch(({ message }) => Number(/it needs (\\d+) MiB/.exec(message)[1]) * 2 ** 20);
    }
    const llm = await LLM.open(model, { onProgress, ...options });
    const [result] = await llm.generate(prompt, params);
    const { evictions } = llm.expertStats ?? {};
    await llm.close();
    return { outputs: result.outputs, loaded: steps.at(-1), build: llm.info.build,
      threads: llm.info.threads, ...evictions > 0 ? { onDemand: true } : {} };
  }
  export async function resume({ prompt, params, choice }) {
    const llm = await LLM.open(served);
    await llm.loadCache(new Uint8Array(await (await fetch("/saved.cache")).arrayBuffer()));
    const [{ cachedTokens, outputs: [{ tokenIds }] }] = await llm.generate(prompt, params);
    const [{ outputs: [{ text }] }] = await llm.generate(prompt, { structuredOutputs: { choice } });
    await llm.close();
    return { cachedTokens, tokenIds, chosen: choice.includes(text) };
  }`;
const WORKER = `
  import { generate } from "./generate.js";
  onmessage = async ({ data }) => {
    try { postMessage(await generate(data)); } catch (error) { postMessage({ error: error.stack }); }
  };`;

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** A text that has been generated to its middle: the request to go on with, its cache, the tokens to come. */
async function begun() {
  await using llm = await LLM.open();
  const { prompt, params } = request;
  const [{ promptTokenIds, outputs: [{ tokenIds }] }] = await llm.generate(prompt, params) as [
    RequestOutput & { outputs: [CompletionOutput] },
  ];
  const sofar = { promptTokenIds: [...promptTokenIds, ...tokenIds.slice(0, 20)] };
  const rest = tokenIds.slice(20);
  const asked = {
    prompt: sofar,
    params: { ...params, maxTokens: rest.length },
    choice: ["a red ball", "a blue kite"],
  };
  return { asked, file: await llm.saveCache(sofar), rest };
}

const missing = exists(CHROMIUM) ? undefined : `no ${CHROMIUM}`;

Deno.test(
  needsRuntimes(
    "the bundle generates Deno's text in Chromium: page, worker, threads, OPFS",
    missing,
  ),
  async () => {
    const folder = await bundleFolder();
    await Deno.writeTextFile(`${folder}/generate.js`, GENERATE);
    await Deno.writeTextFile(`${folder}/worker.js`, WORKER);
    await Deno.writeTextFile(`${folder}/index.html`, "<!doctype html><title>hybridseek</title>");
    const server = serveFolder(folder);
    const { chromium } = await import("npm:playwright-core@1.65.1");
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
    try {
      const page = await browser.newPage();
      await page.goto(`${server.address}/index.html`);
      const onPage = (options: unknown, from?: "private") =>
        page.evaluate(async (given: unknown) => {
          const { generate } = await import("/generate.js" as string);
          return await generate(given);
        }, { ...request, options, from });
      const inWorker = await page.evaluate((given: unknown) => {
        const worker = new Worker("/worker.js", { type: "module" });
        worker.postMessage(given);
        return new Promise((resolve, reject) => {
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = ({ message }) => reject(new Error(message));
        });
      }, request);
      const want = { outputs: await denoOutputs(), loaded: 1, build: "relaxed-simd", threads: 1 };
      assert.deepEqual(await onPage({}), want);
      assert.deepEqual(inWorker, want);
      const threaded = { ...want, threads: 2 };
      assert.deepEqual(await onPage({ threads: 2 }), {
        ...threaded,
        build: "threads-relaxed-simd",
      });
      assert.deepEqual(await onPage({ threads: 2, build: "memory64" }), {
        ...threaded,
        build: "memory64",
      });
      assert.deepEqual(await onPage({ threads: 2, memoryBytes: "least" }), {
        ...threaded,
        build: "threads-relaxed-simd",
        onDemand: true,
      });
      // From the origin's private file system.
      assert.deepEqual(await onPage({}, "private"), want);
      assert.deepEqual(await onPage({ threads: 2, memoryBytes: "least" }, "private"), {
        ...threaded,
        build: "threads-relaxed-simd",
        onDemand: true,
      });
      await assert.rejects(onPage({ hugePages: true }), /only Linux is asked for them/);
      // What was begun in Deno goes on here; and an output of a given form.
      const { asked, file, rest } = await begun();
      await Deno.writeFile(`${folder}/saved.cache`, file);
      const resumed = await page.evaluate(async (given: unknown) => {
        const { resume } = await import("/generate.js" as string);
        return await resume(given);
      }, asked);
      assert.deepEqual(resumed, { cachedTokens: 16, tokenIds: rest, chosen: true });
      // Without the headers that isolate a page there is no shared memory.
      await page.goto(`${server.address}/index.html?plain`);
      assert.deepEqual(await onPage({}), want);
      await assert.rejects(onPage({ threads: 2 }), /the page is not cross-origin isolated/);
    } finally {
      await browser.close();
      await server.close();
    }
  },
);
