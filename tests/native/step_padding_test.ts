/**
 * Padded steps: shapes that come back, and the same rows of logits, bit for bit, by backend wasm, whose results do
 * not depend on the batch.
 */
import { strict as assert } from "node:assert";
import fc from "fast-check";
import type { Backend } from "../../src/backend/backend.ts";
import { padStep } from "../../src/backend/native/step_padding.ts";
import type { StepPlan } from "../../src/backend/step_plan.ts";
import { openWasmBackend } from "../../src/backend/wasm/wasm_backend.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { modelSpec } from "../../src/model_spec.ts";
import { readModel } from "../../src/onnx/read_model.ts";

const BLOCK = 16;
/** Blocks of the longest context of the test. */
const BLOCKS = 3;

async function openEmbedded(): Promise<{ backend: Backend; vocabSize: number }> {
  const model = await ModelPackage.open(embeddedModel());
  const graph = readModel("model.onnx", await model.readAll("model.onnx"));
  const spec = modelSpec(graph);
  const sizes = { contextLength: 4 * BLOCK, cacheTokens: 20 * BLOCKS * BLOCK, threads: 1 };
  return { backend: await openWasmBackend(model, graph, spec, sizes), vocabSize: spec.vocabSize };
}

/** A step that decodes after contexts of these lengths; each sequence has blocks of its own. */
function decodeStep(
  contexts: readonly number[],
  wanted: readonly number[],
  vocab: number,
): StepPlan {
  const width = Math.max(...contexts.map((context) => Math.ceil((context + 1) / BLOCK)));
  const table = (b: number) =>
    Array.from({ length: width }, (_, i) => i * BLOCK <= contexts[b]! ? 1 + b * BLOCKS + i : 0);
  return {
    tokenIds: Int32Array.from(contexts, (context, b) => (context * 31 + b * 7 + 1) % vocab),
    positions: Int32Array.from(contexts),
    slots: Int32Array.from(contexts, (context, b) => (1 + b * BLOCKS) * BLOCK + context),
    queryStarts: Int32Array.from({ length: contexts.length + 1 }, (_, i) => i),
    contextLengths: Int32Array.from(contexts, (context) => context + 1),
    blockTables: Int32Array.from(contexts.flatMap((_, b) => table(b))),
    logitRows: Int32Array.from(wanted),
  };
}

Deno.test("a padded step gives the same logits, and writes nothing but its rows and block 0", async () => {
  const { backend, vocabSize } = await openEmbedded();
  const all = Array.from({ length: backend.limits.blocks - 1 }, (_, i) => i + 1);
  const steps = fc.array(fc.nat(BLOCK * BLOCKS - 1), { minLength: 1, maxLength: 11 })
    .chain((contexts) =>
      fc.record({
        contexts: fc.constant(contexts),
        wanted: fc.subarray(contexts.map((_, i) => i)),
        content: fc.nat(255),
      })
    );
  await fc.assert(
    fc.asyncProperty(steps, async ({ contexts, wanted, content }) => {
      const step = decodeStep(contexts, wanted, vocabSize);
      const padded = padStep(step, BLOCK);
      const before = new Uint8Array(all.length * backend.blockBytes);
      // Small numbers, as f32: 0x3c…
      for (let i = 0; i < before.length; i += 4) {
        before.set([0, (i * 13 + content) % 256, i % 128, 0x3c], i);
      }
      const run = async (plan: StepPlan) => {
        await backend.writeBlocks(all, before);
        const { logits } = await backend.run(plan);
        return { logits: logits.slice(), cache: await backend.readBlocks(all) };
      };
      const [own, other] = [await run(step), await run(padded)];
      assert.deepEqual(other.logits.subarray(0, own.logits.length), own.logits);
      assert.deepEqual(other.cache, own.cache);
      const added = padded.slots.subarray(contexts.length);
      assert(added.every((slot) => slot < BLOCK));
    }),
    { numRuns: 30, seed: 7 },
  );
  await backend.close();
});

Deno.test("padded steps have few shapes, and a number for each", () => {
  const shapes = new Map<number, string>();
  for (let sequences = 1; sequences <= 256; sequences++) {
    for (const context of [0, 15, 16, 40]) {
      const step = decodeStep(Array(sequences).fill(context), [0], 100);
      const padded = padStep(step, BLOCK);
      const { tokenIds, queryStarts, contextLengths, blockTables, logitRows } = padded;
      const sizes = [tokenIds, queryStarts, contextLengths, blockTables, logitRows];
      const text = sizes.map(({ length }) => length).join();
      assert(tokenIds.length >= sequences && tokenIds.length < 2 * sequences);
      assert.equal(logitRows.length, tokenIds.length);
      assert.equal(shapes.get(padded.shape) ?? text, text);
      shapes.set(padded.shape, text);
    }
  }
  assert.equal(new Set(shapes.values()).size, shapes.size);
  assert.equal(shapes.size, 9 * 3); // 1 to 256 sequences; 1, 2 and 4 columns
});

Deno.test("steps with prompts stay as they are", () => {
  const step = {
    ...decodeStep([3, 4], [0], 100),
    ...{ tokenIds: Int32Array.of(1, 2, 3), queryStarts: Int32Array.of(0, 2, 3) },
  };
  assert.deepEqual(padStep(step, BLOCK), { ...step, shape: -1 });
});
