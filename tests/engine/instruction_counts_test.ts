/**
 * How many WebAssembly instructions a token of the reference model takes, counted while they execute: no
 * more than 2 % from the committed figures, which say for what reason they are as they are. A count is the
 * same on every machine, however busy; and it is of the real computation, whose logits must be ours bit by
 * bit. Needs HYBRIDSEEK_PYTHON, a Python that has wasmtime 50.0.1.
 *
 * `HYBRIDSEEK_PYTHON=... deno run -A tests/engine/instruction_counts_test.ts "the reason"` commits the
 * figures of the modules in `wasm/dist` behind the earlier ones.
 */
import { strict as assert } from "node:assert";
import { BUILDS, engineSizes } from "../../src/backend/wasm/engine_module.ts";
import { startRunner } from "../../src/backend/wasm/engine_runner.ts";
import { placeLoadedExperts } from "../../src/backend/wasm/expert_places.ts";
import { MODULE_BYTES, writeJob, writeSizes } from "../../src/backend/wasm/memory_plan.ts";
import { planWasmBackend } from "../../src/backend/wasm/wasm_backend.ts";
import { loadWeights } from "../../src/backend/wasm/weight_loader.ts";
import type { CacheType } from "../../src/backend/wasm/opcodes.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { modelSpec } from "../../src/model_spec.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { sha256Hex } from "../../wasm/artifacts.ts";
import { packageOf } from "../packages.ts";
import { hasShared } from "../shared.ts";

/** The reference model in two storage formats, which use most kernels between them. */
const cases: Case[] = [
  { name: "int8 weights, f32 cache", cacheType: "f32", location: embeddedModel },
  {
    name: "int4 weights, int8 cache",
    cacheType: "int8",
    location: () => packageOf("reference-model", { weights: "int4" }),
    needsShared: true,
  },
];
/** Builds that are counted: those with one thread. */
const builds = ["simd", "relaxed-simd"] as const;
/** How far a count may be from the committed one. */
const TOLERANCE = 0.02;
/** Steps in order; those with a name are counted. Past 512 tokens attention goes by two segments. */
const steps: { name?: string; tokens: number }[] = [
  { name: "prefill of 64 tokens", tokens: 64 },
  { name: "decode at context 65", tokens: 1 },
  { tokens: 256 },
  { tokens: 215 },
  { name: "prefill of 64 tokens at context 600", tokens: 64 },
  { name: "decode at context 601", tokens: 1 },
];

/** A package and how it is run. */
interface Case {
  name: string;
  cacheType: CacheType;
  location: () => URL | Promise<string>;
  needsShared?: true;
}
/** Instructions per token, by build and step. */
type Counts = Record<string, Record<string, number>>;
/** What `instruction_counts.json` holds, the latest last. */
interface Update {
  reason: string;
  instructionsPerToken: Record<string, Counts>;
}

const file = new URL("instruction_counts.json", import.meta.url);
const python = Deno.env.get("HYBRIDSEEK_PYTHON");

/** Runs the steps here, and each again while counting. */
async function count(one: Case): Promise<Counts> {
  const folder = await Deno.makeTempDir();
  try {
    const { request, sha256 } = await writeImages(one, folder);
    const script = new URL("../python/count_instructions.py", import.meta.url).pathname;
    const process = new Deno.Command(python!, { args: [script], stdin: "piped", stdout: "piped" })
      .spawn();
    const written = new Blob([JSON.stringify(request)]).stream().pipeTo(process.stdin);
    const { success, stdout } = await process.output();
    await written;
    assert(success, "count_instructions.py failed");
    const answer: Record<
      string,
      Record<string, { instructions: number; logitsSha256: string }>
    > = JSON.parse(new TextDecoder().decode(stdout));
    const counts: Counts = {};
    for (const build of builds) {
      counts[build] = {};
      for (const { name, tokens } of steps) {
        if (!name) continue;
        const { instructions, logitsSha256 } = answer[build]![name]!;
        assert.equal(logitsSha256, sha256[name], `${build}, ${name}: the logits`);
        counts[build][name] = Math.round(instructions / tokens);
      }
    }
    return counts;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Writes the memory as it is before each counted step, and hashes the logits after it. */
async function writeImages({ location, cacheType }: Case, folder: string) {
  const model = await ModelPackage.open(await location());
  const graph = readModel("model.onnx", await model.readAll("model.onnx"));
  const spec = modelSpec(graph);
  const contextLength = steps.reduce((sum, { tokens }) => sum + tokens, 0);
  const sizes = { contextLength, cacheTokens: contextLength, cacheType };
  const { limits, program, plan } = planWasmBackend(graph, spec, sizes, 1);
  const runner = await startRunner(undefined, "simd", plan);
  const { buffer } = runner.memory;
  await loadWeights(model, program.loads, engineSizes(), runner, plan, () => {});
  placeLoadedExperts(runner.memory, plan, program.experts);
  await model.close();
  const { words, tensors } = program;
  const table = tensors.map(({ bytes }, tensor) => ({ address: plan.tensors[tensor]!, bytes }));
  writeJob(runner.memory, plan, plan.step, words, table);

  const blocks = Int32Array.from({ length: limits.blocks - 1 }, (_, i) => i + 1);
  const { tensor, width } = program.outputs.get("logits")!;
  const logits = { address: plan.tensors[tensor]!, bytes: width * 4 };
  const images: Record<string, string> = {};
  const sha256: Record<string, string> = {};
  let context = 0;
  for (const [index, { name, tokens }] of steps.entries()) {
    const positions = Int32Array.from({ length: tokens }, (_, i) => context + i);
    context += tokens;
    const inputs = {
      token_ids: positions.map((i) => (i * 7919 + i * i * 31) % spec.vocabSize),
      positions,
      slots: positions.map((i) => limits.blockSize + i),
      query_starts: Int32Array.of(0, tokens),
      context_lengths: Int32Array.of(context),
      block_tables: blocks,
      logit_rows: Int32Array.of(tokens - 1),
    };
    for (const [name, tensor] of program.inputs) {
      new Int32Array(buffer, plan.tensors[tensor]).set(inputs[name]);
    }
    writeSizes(runner.memory, plan, [tokens, 1, 1, blocks.length]);
    if (name) {
      images[name] = `${folder}/${index}`;
      // What lies below is each module's own.
      await Deno.writeFile(images[name], new Uint8Array(buffer, MODULE_BYTES));
    }
    await runner.run(plan.step.job);
    if (name) {
      sha256[name] = await sha256Hex(new Uint8Array(buffer, logits.address, logits.bytes).slice());
    }
  }
  const modules = Object.fromEntries(builds.map((build) => {
    const url = new URL(`../../wasm/dist/${BUILDS[build].module}.wasm`, import.meta.url);
    return [build, url.pathname];
  }));
  const { pages, step: { job } } = plan;
  return { request: { modules, pages, start: MODULE_BYTES, job, logits, images }, sha256 };
}

if (import.meta.main) {
  const reason = Deno.args[0];
  if (!reason || !python || !hasShared) {
    throw new Error(
      'Cannot update the counts: set HYBRIDSEEK_PYTHON, have ../shared and pass "the reason".',
    );
  }
  const updates: Update[] = JSON.parse(await Deno.readTextFile(file));
  const instructionsPerToken: Update["instructionsPerToken"] = {};
  for (const one of cases) instructionsPerToken[one.name] = await count(one);
  updates.push({ reason, instructionsPerToken });
  await Deno.writeTextFile(file, JSON.stringify(updates, null, 2) + "\n");
} else {
  for (const one of cases) {
    const missing = [
      ...(python ? [] : ["HYBRIDSEEK_PYTHON is not set"]),
      ...(one.needsShared && !hasShared ? ["no ../shared"] : []),
    ];
    const ignored = missing.length > 0 ? ` (ignored: ${missing.join(", ")})` : "";
    Deno.test({
      name: `${one.name}: instructions per token are the committed ones within 2 %${ignored}`,
      ignore: missing.length > 0,
      fn: () => check(one),
    });
  }
}

async function check(one: Case) {
  const updates: Update[] = JSON.parse(await Deno.readTextFile(file));
  const committed = updates.at(-1)!.instructionsPerToken[one.name]!;
  const changed: string[] = [];
  for (const [build, counts] of Object.entries(await count(one))) {
    for (const [step, now] of Object.entries(counts)) {
      const before = committed[build]?.[step] ?? NaN;
      const change = now / before - 1;
      const line = `${build}, ${step}: ${before} → ${now} (${(100 * change).toFixed(2)} %)`;
      console.log(line);
      // Fewer must be committed too: what was gained could be lost again unseen.
      if (!(Math.abs(change) <= TOLERANCE)) changed.push(line);
    }
  }
  assert(
    changed.length === 0,
    `Instructions per token changed by more than 2 %:\n${changed.join("\n")}\nWhere they should, ` +
      'commit them: deno run -A tests/engine/instruction_counts_test.ts "the reason"',
  );
}
