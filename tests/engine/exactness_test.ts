/**
 * The same bytes whatever computes them: logits of every fixture, bit by bit, fed whole, token by token and
 * in chunks, in every build, on any number of threads, and on every machine: their sha256 is committed.
 *
 * `deno run -A tests/engine/exactness_test.ts` writes the hashes anew, for a change that means to change
 * results; the goldens (`tests/golden/`) say whether it may.
 */
import { strict as assert } from "node:assert";
import type { EngineBuild } from "../../src/backend/wasm/engine_module.ts";
import type { CacheType } from "../../src/backend/wasm/opcodes.ts";
import { Engine } from "../../src/engine/engine.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import { openModel } from "../../src/open_model.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { fixtures, packageOf } from "../packages.ts";
import { needsShared } from "../shared.ts";
import { limitBackend } from "./limited_backend.ts";

/** Tokens of the prompt: past a segment of attention's context (512) and into a tile behind it (64). */
const LENGTH = 601;
/** Positions whose logits are hashed. */
const POSITIONS = [0, 1, 63, 64, 65, 127, 300, 511, 512, 513, 599, 600];

const hashesFile = new URL("logits_sha256.json", import.meta.url);
const hashes: Record<string, string> = JSON.parse(Deno.readTextFileSync(hashesFile));

/** A model in a storage format and cache type. */
interface Case {
  model: string;
  weights?: "f32" | "f16" | "int8" | "int4";
  cacheType?: CacheType;
}

const cases: Case[] = [
  { model: "embedded" },
  { model: "embedded", cacheType: "bf16" },
  { model: "embedded", cacheType: "int8" },
  ...fixtures.map((model): Case => ({ model, weights: "f32" })),
  { model: "deepseek-v2", weights: "f16" },
  { model: "deepseek-v2", weights: "int8" },
  { model: "deepseek-v2", weights: "int4" },
  { model: "deepseek-v2-lite", weights: "int4", cacheType: "int8" },
  { model: "deepseek-moe", weights: "int8", cacheType: "bf16" },
  { model: "deepseek-llm-gqa", weights: "int4" },
];

function nameOf({ model, weights, cacheType }: Case): string {
  return [model, weights, cacheType && `${cacheType} cache`].filter(Boolean).join(", ");
}

/** Logits at the positions, with at most `chunk` tokens in a step. */
async function logitsOf({ model, weights, cacheType }: Case, options: OpenOptions, chunk = 256) {
  const location = model === "embedded" ? embeddedModel() : await packageOf(model, { weights });
  const opened = await openModel(location, { ...options, cacheType });
  const { spec, backend, tokenizer } = opened;
  const limited = limitBackend(backend, { tokens: chunk });
  const engine = new Engine(limited, new Sampler(spec.vocabSize), spec.vocabSize);
  const tokens = Array.from({ length: LENGTH }, (_, i) => (i * 7919 + i * i * 31) % spec.vocabSize);
  try {
    return await engine.score(tokens, POSITIONS);
  } finally {
    await engine.close();
    tokenizer?.free();
  }
}

async function sha256(logits: Float32Array): Promise<string> {
  const bytes = new Uint8Array(logits.slice().buffer);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/** Every build, every number of threads, every way to cut the prompt; not each with each. */
const ways: { build: EngineBuild; threads?: number; chunk?: number }[] = [
  { build: "relaxed-simd" },
  { build: "simd" },
  { build: "relaxed-simd", chunk: 1 },
  { build: "threads-relaxed-simd", threads: 1, chunk: 64 },
  { build: "threads-relaxed-simd", threads: 2 },
  { build: "threads-simd", threads: 3, chunk: 7 },
  { build: "memory64", threads: 5 },
];

if (import.meta.main) {
  for (const one of cases) hashes[nameOf(one)] = await sha256(await logitsOf(one, {}));
  Deno.writeTextFileSync(hashesFile, JSON.stringify(hashes, null, 2) + "\n");
} else {
  for (const one of cases) {
    const name = nameOf(one);
    const test = one.model === "embedded" ? { name, ignore: false } : needsShared(name);
    Deno.test(
      { ...test, name: `${test.name}: logits have the committed sha256 in every way` },
      async () => {
        for (const { build, threads, chunk } of ways) {
          const hash = await sha256(await logitsOf(one, { build, threads }, chunk));
          assert.equal(hash, hashes[name], `${build}, ${threads ?? 1} threads, chunks of ${chunk}`);
        }
      },
    );
  }
}
