/**
 * Saved caches: what is generated from one is what would have been, and a file that is damaged, another
 * model's or made to harm is refused before it is used.
 */
import { strict as assert } from "node:assert";
import fc from "fast-check";
import { LLM, type OpenOptions } from "../../mod.ts";
import { readCacheFile, writeCacheFile } from "../../src/engine/cache_file.ts";
import { Engine } from "../../src/engine/engine.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import { openModel } from "../../src/open_model.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { openFixture, ways } from "../packages.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { needsShared } from "../shared.ts";
import { limitBackend } from "./limited_backend.ts";

const STORY =
  "Once upon a time there was a kind boy named Theo, and every day he went to the big park";
const params = { temperature: 0.8, seed: 9, maxTokens: 60, ignoreEos: true, logprobs: 1 };

Deno.test("a sequence that stops, is saved and goes on elsewhere gets the tokens it would have got", async () => {
  await using here = await LLM.open();
  const [whole] = await here.generate(STORY, params);
  const { tokenIds, logprobs } = whole!.outputs[0]!;
  const sofar = { promptTokenIds: [...whole!.promptTokenIds, ...tokenIds.slice(0, 33)] };
  const file = await here.saveCache(sofar);

  const others: OpenOptions[] = [{}, { threads: 2 }, { build: "simd" }];
  for (const options of others) {
    await using there = await LLM.open(undefined, options);
    const saved = Math.floor(sofar.promptTokenIds.length / 16) * 16;
    assert.equal(await there.loadCache(file), saved);
    assert.equal(there.stats().cachedBlocks, saved / 16);
    const [rest] = await there.generate(sofar, { ...params, maxTokens: 27 });
    assert.equal(rest!.cachedTokens, saved);
    assert.deepEqual(rest!.outputs[0]!.tokenIds, tokenIds.slice(33));
    assert.deepEqual(rest!.outputs[0]!.logprobs, logprobs!.slice(33));
    assertSameBytes(await there.saveCache(sofar), file, "what is saved again is the same file");
  }
});

Deno.test("a cache is found by the salt that it is loaded with, and loading it again changes nothing", async () => {
  await using llm = await LLM.open();
  const file = await llm.saveCache(STORY, { cacheSalt: "a" });
  await using other = await LLM.open();
  await other.loadCache(file, { cacheSalt: "b" });
  await other.loadCache(file, { cacheSalt: "b" });
  const cached = async (cacheSalt?: string) =>
    (await other.generate(STORY, { maxTokens: 1 }, { cacheSalt }))[0]!.cachedTokens;
  assert.deepEqual([await cached(), await cached("a"), await cached("b")], [0, 0, 16]);
  const short = await llm.saveCache("Hi");
  assert.equal(await other.loadCache(short), 0);
});

Deno.test("caches are saved and loaded while others generate, and theirs stay theirs", async () => {
  await using llm = await LLM.open(undefined, { contextLength: 256, cacheTokens: 1536 });
  const [want] = await llm.generate(STORY, params);
  const prompts = Array.from({ length: 6 }, (_, i) => ({
    promptTokenIds: Array.from({ length: 100 }, (_, k) => 300 + (i * 977 + k * 131) % 3700),
  }));
  const files = await Promise.all(prompts.map((prompt) => llm.saveCache(prompt)));
  const results = await Promise.all([
    llm.generate(STORY, params),
    ...files.slice(0, 3).map((file) => llm.loadCache(file)),
    llm.generate(STORY, params),
    ...prompts.map((prompt) => llm.saveCache(prompt)),
  ]);
  assert.deepEqual((results[0] as typeof want[])[0]!.outputs, want!.outputs);
  assert.deepEqual((results[4] as typeof want[])[0]!.outputs, want!.outputs);
  assert.deepEqual(results.slice(1, 4), [96, 96, 96]);
  for (const [i, file] of files.entries()) assertSameBytes(results[5 + i] as Uint8Array, file);
});

Deno.test("a cache that is loaded while another is computed does not take its place before it is saved", async () => {
  const { backend, spec: { vocabSize } } = await openModel(embeddedModel(), {});
  const tokenIds = (first: number) => Array.from({ length: 100 }, (_, i) => first + i);
  // Eight blocks, of which a prompt has seven, and a saved cache six.
  let load = () => {};
  const limited = limitBackend(backend, { contextLength: 128, blocks: 9 }, () => load());
  const engine = new Engine(limited, new Sampler(vocabSize), vocabSize);
  try {
    const loaded = await engine.readCache(tokenIds(300), {});
    const want = await engine.readCache(tokenIds(500), {});
    await engine.writeCache(loaded, {});
    let loading: Promise<void> | undefined;
    load = () => loading ??= engine.writeCache(loaded, {});
    const got = await engine.readCache(tokenIds(500), {});
    await loading;
    assert.deepEqual([want.tokenIds.length, got.tokenIds.length], [96, 96]);
    assertSameBytes(got.blocks, want.blocks);
  } finally {
    await engine.close();
  }
});

Deno.test(
  needsShared("a cache of another model, cache type or backend is refused by what differs"),
  async () => {
    await using llm = await LLM.open();
    const file = await llm.saveCache(STORY);
    const refuses = async (opening: Promise<LLM>, message: RegExp) => {
      await using other = await opening;
      await assert.rejects(other.loadCache(file), { name: "InvalidFileError", message });
    };
    await refuses(openFixture("deepseek-v2-lite"), /its model is "[0-9a-f]{64}", this model's is/);
    await refuses(LLM.open(undefined, { cacheType: "int8" }), /layout is "wasm f32", .* wasm int8/);
    await refuses(LLM.open(undefined, { backend: "ort" }), /layout is "wasm f32", .* ort f32/);
    await refuses(
      LLM.open(undefined, { contextLength: 8, cacheTokens: 16 }),
      /it has 16 tokens, the context is 8; open the model with a larger contextLength/,
    );
  },
);

for (const [way, options] of Object.entries(ways)) {
  const test = `a saved cache of the reference model goes on ${way}`;
  Deno.test(needsShared(test, options.backend), async () => {
    await using llm = await openFixture("reference-model", options);
    const [want] = await llm.generate(STORY, { temperature: 0, maxTokens: 20 });
    const file = await llm.saveCache(STORY);
    await using other = await openFixture("reference-model", options);
    assert.equal(await other.loadCache(file), 16);
    const [got] = await other.generate(STORY, { temperature: 0, maxTokens: 20 });
    assert.equal(got!.cachedTokens, 16);
    assert.deepEqual(got!.outputs[0]!.tokenIds, want!.outputs[0]!.tokenIds);
  });
}

Deno.test("without prefix caching there is nothing to save or load, and no room is said so", async () => {
  await using off = await LLM.open(undefined, { enablePrefixCaching: false });
  const unsupported = { name: "UnsupportedError", message: /leave it out/ };
  await assert.rejects(off.saveCache(STORY), unsupported);
  await assert.rejects(off.loadCache(new Uint8Array()), unsupported);

  await using full = await LLM.open(undefined, { contextLength: 512, cacheTokens: 512 });
  const file = await full.saveCache({
    promptTokenIds: Array.from({ length: 400 }, (_, i) => 300 + i),
  });
  const events = full.stream({ promptTokenIds: Array.from({ length: 300 }, (_, i) => 900 + i) }, {
    maxTokens: 200,
    ignoreEos: true,
  });
  await events.next();
  await assert.rejects(full.loadCache(file), { code: "out_of_memory", message: /can be had/ });
  await events.return(undefined as never);
  assert.equal(await full.loadCache(file), 400);
});

const kind = { model: "a".repeat(64), layout: "test f32", blockSize: 2, blockBytes: 8 };
const limits = { vocabSize: 100, contextLength: 8 };
const cached = { tokenIds: [5, 6, 7, 8], blocks: Uint8Array.from({ length: 16 }, (_, i) => i) };

Deno.test("a file reads back as it was written", async () => {
  const { tokenIds, blocks } = await readCacheFile(
    await writeCacheFile(kind, cached),
    kind,
    limits,
  );
  assert.deepEqual([tokenIds, [...blocks]], [cached.tokenIds, [...cached.blocks]]);
});

Deno.test("every file that is cut off or has one bit changed is refused, and so is anything else", async () => {
  const file = await writeCacheFile(kind, cached);
  const refuses = async (bytes: Uint8Array) => {
    await assert.rejects(readCacheFile(bytes, kind, limits), { name: "InvalidFileError" });
  };
  for (let length = 0; length < file.length; length++) await refuses(file.slice(0, length));
  for (let bit = 0; bit < file.length * 8; bit++) {
    const changed = file.slice();
    changed[bit >> 3]! ^= 1 << (bit & 7);
    await refuses(changed);
  }
  await refuses("HSCACHE1" as unknown as Uint8Array);
  await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), refuses), { numRuns: 200 });
});

Deno.test("a file whose hash is right but whose header lies is refused by what it says", async () => {
  const lies: [header: unknown, blocks: number, message: RegExp][] = [
    [{ ...kind, model: "b".repeat(64), tokenIds: [5, 6] }, 8, /its model is "bbb/],
    [{ ...kind, layout: undefined, tokenIds: [5, 6] }, 8, /its layout is undefined/],
    [{ ...kind, blockSize: 4, tokenIds: [5, 6, 7, 8] }, 8, /its blockSize is 4/],
    [{ ...kind, blockBytes: 1e9, tokenIds: [5, 6] }, 8, /its blockBytes is 1000000000/],
    [{ ...kind, tokenIds: [5, 100] }, 8, /its tokens are none of the model's/],
    [{ ...kind, tokenIds: [5, -1] }, 8, /its tokens are none/],
    [{ ...kind, tokenIds: [5, "6"] }, 8, /its tokens are none/],
    [{ ...kind, tokenIds: { length: 2 } }, 8, /its tokens are none/],
    [{ ...kind, tokenIds: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] }, 40, /10 tokens, the context is 8/],
    [{ ...kind, tokenIds: [5, 6, 7] }, 12, /12 bytes of blocks for 3 tokens/],
    [{ ...kind, tokenIds: [5, 6] }, 16, /16 bytes of blocks for 2 tokens/],
    [{ ...kind, tokenIds: [5, 6, 7, 8] }, 8, /8 bytes of blocks for 4 tokens/],
    [null, 8, /its model is undefined/],
    [[], 8, /its model is undefined/],
    ["{", 8, /no JSON/],
  ];
  for (const [header, blocks, message] of lies) {
    const text = header === "{" ? "{" : JSON.stringify(header);
    await assert.rejects(
      readCacheFile(await forged(text, blocks), kind, limits),
      { name: "InvalidFileError", message },
      text,
    );
  }
  const beyond = await forged("{}", 0, 1e9);
  await assert.rejects(readCacheFile(beyond, kind, limits), /its header ends at/);
});

/** A file with a right hash around any header. */
async function forged(header: string, blockBytes: number, headerBytes = header.length) {
  const file = new Uint8Array(44 + header.length + blockBytes);
  file.set(new TextEncoder().encode("HSCACHE1"));
  new DataView(file.buffer).setUint32(40, headerBytes, true);
  file.set(new TextEncoder().encode(header), 44);
  file.set(new Uint8Array(await crypto.subtle.digest("SHA-256", file.slice(40))), 8);
  return file;
}
