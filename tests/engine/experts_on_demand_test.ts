/**
 * Experts on demand: with less memory than a model needs, the same bits come out, no byte is read in vain,
 * and what goes wrong while the team waits is told and ends the waiting.
 */
import { strict as assert } from "node:assert";
import type { HybridseekError } from "../../src/errors.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import type { Manifest } from "../../src/files/manifest.ts";
import { LLM } from "../../src/llm.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import { expertConfig, expertPackage } from "../export/expert_model.ts";
import { assertSameBytes } from "../same_bytes.ts";

const DATA = "model-00001-of-00001.data";
/** Experts of all layers together. */
const EXPERTS = 2 * expertConfig.n_routed_experts;
/** A prompt that chooses every expert of every layer. */
const tokens = Array.from({ length: 120 }, (_, i) => (i * 389 + 7) % 1000);

const packages = new Map<string, Promise<string>>();

function packageOf(weights: "f32" | "int8" | "int4"): Promise<string> {
  if (!packages.has(weights)) packages.set(weights, expertPackage(weights));
  return packages.get(weights)!;
}

/** The least memory that a package can be opened with, bytes: what the refusal of less says. */
async function leastMemory(location: string | URL, options: OpenOptions = {}): Promise<number> {
  const opening = LLM.open(location, { threads: 2, ...options, memoryBytes: 1 });
  const error: HybridseekError = await opening.then(() => assert.fail("it opened"), (e) => e);
  assert.equal(error.code, "out_of_memory");
  const [, mib] = /it needs (\d+) MiB \(.*experts \d+ MiB.*\), memoryBytes allows 1 MiB/
    .exec(error.message) ?? assert.fail(error.message);
  return Number(mib) * 2 ** 20;
}

async function results(llm: LLM) {
  const { logits } = await llm.forward(tokens);
  const params = [{ temperature: 0, maxTokens: 12 }, { temperature: 1, seed: 3, maxTokens: 12 }];
  const prompts = params.map((_, i) => ({ promptTokenIds: tokens.slice(i, 5 + i) }));
  const options = params.map((each) => ({ ...each, ignoreEos: true, detokenize: false }));
  const texts = await llm.generate(prompts, options);
  return { logits, tokens: texts.map(({ outputs }) => outputs[0]!.tokenIds) };
}

/** Serves a folder by ranges; `onRange` may hold an answer up. */
function serve(folder: string, onRange: (begin: number) => Promise<void> | void = () => {}) {
  const ranges: { begin: number; end: number }[] = [];
  const server = Deno.serve({ port: 0, onListen: () => {} }, async (request) => {
    const name = new URL(request.url).pathname.slice(1);
    const bytes = await Deno.readFile(`${folder}/${name}`);
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
    if (!range) return new Response(bytes);
    const [begin, end] = [Number(range[1]), Number(range[2]) + 1];
    if (name === DATA) {
      ranges.push({ begin, end });
      await onRange(begin);
    }
    return new Response(bytes.slice(begin, end), { status: 206 });
  });
  const { port } = server.addr as Deno.NetAddr;
  return { address: `http://127.0.0.1:${port}/`, ranges, close: () => server.shutdown() };
}

/** Lengths of the slabs by where they begin. */
async function slabsOf(folder: string): Promise<Map<number, number>> {
  const manifest: Manifest = JSON.parse(await Deno.readTextFile(`${folder}/manifest.json`));
  return new Map(
    Object.values(manifest.slabs).flatMap(({ offset, slabBytes, sha256 }) =>
      sha256.map((_, i): [number, number] => [offset + i * slabBytes, slabBytes])
    ),
  );
}

for (const weights of ["int8", "int4", "f32"] as const) {
  Deno.test(`${weights}: the bits are those of the resident model at any budget and number of threads`, async () => {
    const folder = await packageOf(weights);
    await using resident = await LLM.open(folder, { threads: 2 });
    assert.equal(resident.expertStats, undefined);
    const want = await results(resident);
    const least = await leastMemory(folder);
    for (const [threads, more] of [[1, 0], [2, 0], [3, 1], [2, 2]]) {
      const memoryBytes = await leastMemory(folder, { threads }) + more! * 2 ** 20;
      assert(Math.abs(memoryBytes - least) < 8 * 2 ** 20);
      await using llm = await LLM.open(folder, { threads, memoryBytes });
      assert.deepEqual(await results(llm), want, `${threads} threads, ${more} MiB more`);
      const { places, uses, misses, evictions } = llm.expertStats!;
      assert(places >= expertConfig.num_experts_per_tok && places < EXPERTS, `${places} places`);
      assert(uses > EXPERTS && misses > EXPERTS, `${misses} of ${uses} missed`);
      assert.equal(evictions, misses - places);
    }
  });
}

Deno.test("the embedded model gives the same text with a third of its experts in memory", async () => {
  const prompt = "Once upon a time there was";
  const params = { temperature: 0, maxTokens: 40 };
  await using resident = await LLM.open(embeddedModel());
  const [want] = await resident.generate(prompt, params);
  const memoryBytes = await leastMemory(embeddedModel());
  await using llm = await LLM.open(embeddedModel(), { threads: 2, memoryBytes });
  const [got] = await llm.generate(prompt, params);
  assert.equal(got!.outputs[0]!.text, want!.outputs[0]!.text);
  assert(llm.expertStats!.evictions > 0);
});

Deno.test("the memory stays below the budget, and is refused with the figure that is needed", async () => {
  const folder = await packageOf("int8");
  const memoryBytes = await leastMemory(folder) + 3 * 2 ** 20;
  const taken: number[] = [];
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class extends Memory {
    constructor(descriptor: WebAssembly.MemoryDescriptor) {
      super(descriptor);
      if (descriptor.shared) taken.push(this.buffer.byteLength);
    }
  };
  try {
    await using llm = await LLM.open(folder, { threads: 2, memoryBytes });
    await llm.forward(tokens);
    const parts = Object.values(llm.info.bytes).reduce((sum, bytes) => sum + bytes, 0);
    const most = Math.max(...taken);
    assert(most <= memoryBytes && most > memoryBytes - 2 ** 20, `${most} of ${memoryBytes}`);
    assert(parts <= most && llm.info.bytes.experts! > 0);
  } finally {
    WebAssembly.Memory = Memory;
  }
  const tooLittle = { threads: 2, memoryBytes: memoryBytes - 4 * 2 ** 20 };
  await assert.rejects(LLM.open(folder, tooLittle), { code: "out_of_memory" });
});

Deno.test("without workers a budget is refused, and the message names the way out", async () => {
  const folder = await packageOf("int8");
  const options = { build: "relaxed-simd", memoryBytes: 20 * 2 ** 20 } as const;
  await assert.rejects(LLM.open(folder, options), {
    code: "out_of_memory",
    message: /with workers \(threads\) experts are read when they are chosen/,
  });
});

Deno.test("over HTTP only what is resident and what is chosen is read, slab by slab", async () => {
  const folder = await packageOf("f32");
  const slabs = await slabsOf(folder);
  const server = serve(folder);
  const options = { threads: 2, memoryBytes: await leastMemory(folder) + 8 * 2 ** 20 };
  await using llm = await LLM.open(server.address, options);
  const loaded = server.ranges.splice(0);
  const sum = (ranges: typeof loaded) =>
    ranges.reduce((sum, { begin, end }) => sum + end - begin, 0);
  const { size } = await Deno.stat(`${folder}/${DATA}`);
  await llm.forward(tokens.slice(0, 1));
  const { misses, bytesRead } = llm.expertStats!;
  assert.equal(misses, 2 * expertConfig.num_experts_per_tok);
  assert.equal(bytesRead, sum(server.ranges));
  for (const { begin, end } of server.ranges) assert.equal(slabs.get(begin), end - begin);
  assert.equal(new Set(server.ranges.map(({ begin }) => begin)).size, server.ranges.length);
  assert(sum(loaded) + bytesRead < size, "the package was read whole");
  // The same token again: its experts are there.
  const before = server.ranges.length;
  await llm.forward(tokens.slice(0, 1));
  assert.equal(server.ranges.length, before);
  await server.close();
});

Deno.test("a place is given up by the expert used longest ago", async () => {
  const folder = await packageOf("int8");
  const least = await leastMemory(folder);
  const open = (memoryBytes: number) => LLM.open(folder, { threads: 2, memoryBytes });
  await using small = await open(least);
  await using large = await open(least + 6 * 2 ** 20);
  const sequence = [1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6];
  for (const llm of [small, large]) {
    for (const token of sequence) await llm.forward([token]);
  }
  assert.equal(small.expertStats!.uses, large.expertStats!.uses);
  assert(large.expertStats!.misses < small.expertStats!.misses);
  // Each token's experts, but for those that the next one chooses too, give way to the next one's.
  assert(small.expertStats!.misses > 0.7 * small.expertStats!.uses);
});

Deno.test("a damaged expert is a typed error, and nobody waits for it", async () => {
  const folder = await expertPackage("int8");
  const slabs = [...await slabsOf(folder)];
  using file = await Deno.open(`${folder}/${DATA}`, { read: true, write: true });
  for (const [begin, length] of slabs) {
    await file.seek(begin + (length >> 1), Deno.SeekMode.Start);
    await file.write(Uint8Array.of(0x5a, 0xa5));
  }
  // The chunks at the ends of the stacks hold resident tensors too: loading would find them.
  const memoryBytes = await leastMemory(folder);
  const source = serve(folder);
  const options = { threads: 2, memoryBytes, verify: false };
  await using unverified = await LLM.open(folder, options);
  await unverified.forward([1]);
  const manifest: Manifest = JSON.parse(await Deno.readTextFile(`${folder}/manifest.json`));
  const data = await Deno.readFile(`${folder}/${DATA}`);
  const entry = manifest.files.find(({ name }) => name === DATA)!;
  for (let i = 0; i < entry.sha256.length; i++) {
    const chunk = data.slice(i * 2 ** 23, (i + 1) * 2 ** 23);
    entry.sha256[i] = new Uint8Array(await crypto.subtle.digest("SHA-256", chunk)).toHex();
  }
  await Deno.writeTextFile(`${folder}/manifest.json`, JSON.stringify(manifest));
  await using llm = await LLM.open(folder, { threads: 2, memoryBytes });
  const damage = { name: "InvalidFileError", message: /have the sha256 .*the file is damaged/ };
  await assert.rejects(llm.forward(tokens), damage);
  await assert.rejects(llm.forward([1]), damage);
  await source.close();
});

for (const way of ["abort", "close"] as const) {
  Deno.test(`${way} while an expert is being read`, async () => {
    const folder = await packageOf("int8");
    const slabs = await slabsOf(folder);
    const [stalled, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let stall = true;
    const server = serve(folder, async (begin) => {
      if (!stall || !slabs.has(begin)) return;
      stalled.resolve();
      await released.promise;
    });
    const options = { threads: 2, memoryBytes: await leastMemory(folder) };
    const llm = await LLM.open(server.address, options);
    const controller = new AbortController();
    const running = llm.forward([1], { signal: controller.signal });
    running.catch(() => {});
    await stalled.promise;
    stall = false;
    if (way === "abort") {
      controller.abort();
      await assert.rejects(running, { name: "AbortError" });
      released.resolve();
      await using resident = await LLM.open(folder);
      const logits = [llm, resident].map(async (llm) => (await llm.forward([1])).logits);
      assertSameBytes((await logits[0])!, (await logits[1])!);
      await llm.close();
    } else {
      await llm.close();
      await assert.rejects(running, { name: "BackendError", code: "closed" });
      released.resolve();
    }
    await server.close();
  });
}
