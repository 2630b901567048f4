/**
 * Together as if alone: on backend `wasm` a sequence gets the same bits whatever runs beside it and however
 * its prompt is cut into chunks.
 */
import { strict as assert } from "node:assert";
import type { Backend } from "../../src/backend/backend.ts";
import type { StepPlan } from "../../src/backend/step_plan.ts";
import { openWasmBackend } from "../../src/backend/wasm/wasm_backend.ts";
import { Engine } from "../../src/engine/engine.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { modelSpec } from "../../src/model_spec.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { resolveSamplingParams, type SamplingParams } from "../../src/sampling_params.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { limitBackend } from "./limited_backend.ts";

/** Seven prompts of different lengths. */
const prompts = [1, 2, 5, 13, 16, 17, 40].map((length, i) =>
  Array.from({ length }, (_, k) => 300 + (i * 977 + k * 131) % 3700)
);

/** The embedded model with its steps written down, and limits of one's choice. */
async function openRecorded(stepTokens = 256): Promise<{ backend: Backend; plans: StepPlan[] }> {
  const model = await ModelPackage.open(embeddedModel());
  const graph = readModel("model.onnx", await model.readAll("model.onnx"));
  const opened = await openWasmBackend(model, graph, modelSpec(graph));
  await model.close();
  const plans: StepPlan[] = [];
  const backend = limitBackend(opened, { tokens: stepTokens }, (plan) => plans.push(plan));
  return { backend, plans };
}

async function generate(engine: Engine, prompt: number[], params: SamplingParams) {
  const { choices } = await engine.generate({
    promptTokenIds: prompt,
    params: resolveSamplingParams({ ...params, logprobs: 0 }),
    eosTokenIds: [],
  });
  return choices.map(({ tokens }) =>
    tokens.map(({ tokenId, logprobs }) => [tokenId, logprobs!.logprob])
  );
}

for (
  const [name, params] of Object.entries<SamplingParams>({
    greedy: { temperature: 0, maxTokens: 20 },
    sampled: { temperature: 0.9, topP: 0.95, seed: 11, maxTokens: 20, frequencyPenalty: 0.3 },
    "three choices": { temperature: 1, seed: 5, n: 3, maxTokens: 12 },
  })
) {
  Deno.test(`${name}: seven prompts together give the tokens and logprobs each gives alone`, async () => {
    const { backend, plans } = await openRecorded();
    const engine = new Engine(backend, new Sampler(4096), 4096);
    const alone = [];
    const stepsAlone: number[] = [];
    for (const prompt of prompts) {
      plans.length = 0;
      alone.push(await generate(engine, prompt, params));
      stepsAlone.push(plans.length);
    }
    plans.length = 0;
    const together = await Promise.all(prompts.map((prompt) => generate(engine, prompt, params)));
    assert.deepEqual(together, alone);
    // They shared their steps: as many as the longest took, each holding everyone.
    assert.equal(plans.length, Math.max(...stepsAlone));
    const { n = 1 } = params;
    for (const [i, { contextLengths }] of plans.entries()) {
      assert.equal(contextLengths.length, i === 0 ? prompts.length : prompts.length * n);
    }
    await engine.close();
  });
}

Deno.test("logits are the same bits for every way to cut a prompt into chunks", async () => {
  const prompt = prompts[6]!;
  const rows = prompt.map((_, position) => position);
  const results: Float32Array[] = [];
  for (const chunk of [256, 64, 7, 1]) {
    const { backend, plans } = await openRecorded(chunk);
    const engine = new Engine(backend, new Sampler(4096), 4096);
    results.push(await engine.score(prompt, rows));
    assert.equal(plans.length, Math.ceil(prompt.length / chunk));
    await engine.close();
  }
  for (const other of results.slice(1)) assert(sameBits(other, results[0]!));
});

Deno.test("a prompt longer than a step's tokens or rows of logits is cut by the engine", async () => {
  const { backend, plans } = await openRecorded();
  const engine = new Engine(backend, new Sampler(4096), 4096);
  const prompt = Array.from({ length: 700 }, (_, i) => 300 + i);
  const logits = await engine.score(prompt, prompt.map((_, i) => i));
  assert.equal(logits.length, 700 * 4096);
  assert(plans.every(({ logitRows }) => logitRows.length <= 256));
  assert.equal(plans.length, 3);
  await engine.close();
});

Deno.test("an abort stops a request within one step and frees its blocks", async () => {
  const { backend, plans } = await openRecorded();
  const engine = new Engine(backend, new Sampler(4096), 4096);
  const controller = new AbortController();
  let tokens = 0;
  const stopped = engine.generate({
    promptTokenIds: prompts[2]!,
    params: resolveSamplingParams({ maxTokens: 1000 }),
    eosTokenIds: [],
    signal: controller.signal,
    onToken() {
      if (++tokens === 3) controller.abort();
      return undefined;
    },
  });
  const other = generate(engine, prompts[3]!, { temperature: 0, maxTokens: 8 });
  await assert.rejects(stopped, { name: "AbortError" });
  await other;
  assert.equal(tokens, 3);
  assert.deepEqual(plans.map(({ contextLengths }) => contextLengths.length), [
    2,
    2,
    2,
    1,
    1,
    1,
    1,
    1,
  ]);
  await engine.close();
});

Deno.test("a mask, asked for before each token, says which tokens may come", async () => {
  const { backend } = await openRecorded();
  const engine = new Engine(backend, new Sampler(4096), 4096);
  const asked: number[] = [];
  const masks = [500, 1000].map((token) => {
    const mask = new Uint32Array(128);
    mask[token >> 5] = 1 << (token & 31);
    return mask;
  });
  const { choices } = await engine.generate({
    promptTokenIds: prompts[2]!,
    params: resolveSamplingParams({ n: 2, maxTokens: 3 }),
    eosTokenIds: [],
    allowedTokens: (choice) => {
      asked.push(choice);
      return asked.length > 4 ? undefined : masks[choice];
    },
  });
  assert.deepEqual(asked, [0, 1, 0, 1, 0, 1]);
  assert.deepEqual(choices.map(({ tokens }) => tokens.slice(0, 2).map(({ tokenId }) => tokenId)), [
    [500, 500],
    [1000, 1000],
  ]);
  await engine.close();
});

function sameBits(a: Float32Array, b: Float32Array): boolean {
  const [x, y] = [a, b].map((values) =>
    new Uint32Array(values.buffer, values.byteOffset, values.length)
  );
  return x!.length === y!.length && x!.every((bits, i) => bits === y![i]);
}
