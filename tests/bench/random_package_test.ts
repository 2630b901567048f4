/**
 * Packages of random weights, which benches time, are packages like any other.
 */
import { strict as assert } from "node:assert";
import { checkLayer } from "../../bench/check_layer.ts";
import { packageFacts } from "../../bench/package_facts.ts";
import { shapes } from "../../bench/synthetic/shapes.ts";
import { writeRandomPackage } from "../../bench/synthetic/write_random_package.ts";
import { LLM } from "../../src/llm.ts";
import { runJson } from "../../bench/timing.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { temporaryPath } from "../packages.ts";

const tiny = Object.entries(shapes).filter(([name]) => name.startsWith("tiny"));

for (const [name, shape] of tiny) {
  Deno.test(`a random ${name} package gives stock onnxruntime's logits`, async () => {
    const folder = temporaryPath(name);
    await writeRandomPackage(shape, folder);
    const { f32, int4 } = await checkLayer(folder, {});
    assert(f32! > 0 && int4! > f32!); // kernels quantize activations, the reference does not
    await using llm = await LLM.open(folder, { contextLength: 64 });
    const params = { temperature: 1, seed: 1, maxTokens: 20, ignoreEos: true };
    const [result] = await llm.generate({ promptTokenIds: [1, 2, 3] }, params);
    assert(new Set(result!.outputs[0]!.tokenIds).size > 10);
  });
}

Deno.test("the same seed gives the same bytes, another seed others", async () => {
  const manifest = async (seed: number) => {
    const folder = temporaryPath("seeded");
    await writeRandomPackage(shapes.tiny!, folder, { seed });
    return await Deno.readTextFile(`${folder}/manifest.json`);
  };
  assert.equal(await manifest(3), await manifest(3));
  assert.notEqual(await manifest(3), await manifest(4));
});

Deno.test("no scale of a random package is a subnormal half", async () => {
  const folder = temporaryPath("scales");
  await writeRandomPackage(shapes.tiny!, folder);
  const model = await ModelPackage.open(folder);
  const graph = readModel("model.onnx", await model.readAll("model.onnx"));
  let scales = 0;
  for (const { name, file, offset, bytes } of graph.initializers.values()) {
    if (!name.endsWith(".scales")) continue;
    for (const bits of new Uint16Array((await model.read(file, offset, bytes)).buffer)) {
      assert((bits & 0x7c00) !== 0, `${name}: ${bits.toString(16)}`);
      scales++;
    }
  }
  await model.close();
  assert(scales > 10_000);
});

Deno.test("the bytes of a step count every weight once and the chosen experts", async () => {
  const folder = temporaryPath("facts");
  await writeRandomPackage(shapes.tiny!, folder, { weights: "f32" });
  const { stepBytes, operationsPerToken, attentionOperationsPerKey } = await packageFacts(folder);
  const hidden = 160;
  const [expert, dense, shared] = [96, 352, 192].map((width) => 3 * hidden * width);
  const attention = hidden * 4 * 48 + hidden * (64 + 16) + 4 * (32 + 48) * 64 + 4 * 48 * hidden;
  const vectors = 2 * hidden + 64;
  const perLayer = attention + vectors;
  const router = 16 * hidden;
  const met = 3 * perLayer + dense! + 2 * (shared! + router + 6 * expert!) + hidden;
  const head = 1000 * hidden;
  assert.equal(stepBytes(1), 4 * (met + head));
  assert.equal(operationsPerToken, 2 * met);
  const experts = 16 * (1 - (10 / 16) ** 3);
  const three = met + head + 2 * (experts - 6) * expert!;
  assert(Math.abs(stepBytes(3) - 4 * three) < 1);
  assert.equal(attentionOperationsPerKey, 3 * 2 * 4 * (64 + 16 + 64));
});

Deno.test("--zipf makes some experts popular", async () => {
  const exponents: number[] = [];
  for (const zipf of [undefined, 1]) {
    const folder = temporaryPath(`zipf-${zipf ?? 0}`);
    await writeRandomPackage({ ...shapes.tiny!, n_routed_experts: 64 }, folder, { zipf });
    const choices = new URL("../../bench/workers/choices.ts", import.meta.url).pathname;
    exponents.push(await runJson(Deno.execPath(), ["run", "-A", choices, folder, "{}"]));
  }
  const [evenly, zipf] = exponents as [number, number];
  assert(evenly < 0.5, String(evenly));
  // 0.98 by a simulation in numpy: the 6 largest of 64 normal numbers minus the logarithms of the ranks.
  assert(Math.abs(zipf - 0.98) < 0.1, String(zipf));
});
