/**
 * Backend ort-native in Node and Bun, from the packed npm package and the same native library as in Deno: the
 * logits of every fixture and the reference model, and of one on two ranks, against the goldens made with
 * transformers.
 */
import { strict as assert } from "node:assert";
import { findOnnxRuntime } from "../../src/backend/native/addon.ts";
import { fixtures, packageOf, temporaryPath } from "../packages.ts";
import { readSafetensors } from "../safetensors_values.ts";
import { nativeLibrary, needs, readShared } from "../shared.ts";
import { needsRuntimes, repository, run } from "./runtimes.ts";

const runtimes = [
  { name: "Node 22", npm: "node@22", program: "node" },
  { name: "Bun", npm: "bun@1", program: "bun" },
];

/** Largest error of a logit, as a fraction of the golden logits' range. */
const LOGIT_BOUND = 2e-4;

/** Prompts of a model and the logits of their last positions. */
function goldensOf(name: string): { prompts: number[][]; want: (i: number) => Float32Array } {
  const reference = name === "reference-model";
  const path = reference ? "reference-goldens/generations" : `fixtures/${name}/golden`;
  const golden = JSON.parse(readShared(`${path}.json`));
  const { tensors } = readSafetensors(
    new URL(`../../../shared/${path}.safetensors`, import.meta.url),
  );
  const entries: { input_ids: number[] }[] = reference ? golden.generations : golden.prompts;
  const tensor = (i: number) => reference ? `prompt.${i}.last_logits` : `logits.${i}`;
  return {
    prompts: entries.map(({ input_ids }) => input_ids),
    want: (i) => tensors.get(tensor(i))!.values as Float32Array,
  };
}

for (const { name, npm, program } of runtimes) {
  const { name: title, ignore } = needs(`ort-native in ${name}: logits of every model`, {
    shared: true,
    native: true,
  });
  Deno.test(
    ignore ? { name: title, ignore, fn() {} } : {
      ...needsRuntimes(title),
      async fn() {
        const folder = temporaryPath("project");
        await Deno.mkdir(folder);
        await Deno.writeTextFile(`${folder}/package.json`, '{ "type": "module", "private": true }');
        const tarball = temporaryPath("hybridseek.tgz");
        await run(Deno.execPath(), ["pack", "--allow-dirty", "--output", tarball], repository);
        await run("npm", ["install", "--silent", "--no-audit", tarball, npm], folder);
        const models = [...fixtures, "reference-model", "deepseek-v2-wide"];
        const jobs = await Promise.all(models.map(async (model, i) => ({
          folder: await packageOf(model, { weights: "f32" }),
          prompts: goldensOf(model).prompts,
          ranks: i === models.length - 1 ? 2 : 1,
        })));
        await Deno.writeTextFile(`${folder}/jobs.json`, JSON.stringify(jobs));
        await Deno.writeTextFile(
          `${folder}/logits.js`,
          `import { readFileSync, writeFileSync } from "node:fs";
         import { LLM } from "@hybridseek/hybridseek";
         const results = [];
         for (const { folder, prompts, ranks } of JSON.parse(readFileSync("jobs.json", "utf8"))) {
           const options = { backend: "ort-native", threads: 2, tensorParallel: ranks };
           const llm = await LLM.open(folder, options);
           for (const prompt of prompts) results.push([...(await llm.forward(prompt)).logits]);
           await llm.close();
         }
         writeFileSync("results.json", JSON.stringify(results));`,
        );
        const env = {
          HYBRIDSEEK_NATIVE: nativeLibrary,
          HYBRIDSEEK_ONNXRUNTIME: (await findOnnxRuntime())!,
        };
        await run(`${folder}/node_modules/.bin/${program}`, ["logits.js"], folder, env);
        const results: number[][] = JSON.parse(await Deno.readTextFile(`${folder}/results.json`));
        for (const model of models) {
          const { prompts, want } = goldensOf(model);
          for (const i of prompts.keys()) {
            const wanted = want(i);
            const got = results.shift()!.slice(-wanted.length);
            const range = wanted.reduce((most, x) => Math.max(most, x)) -
              wanted.reduce((least, x) => Math.min(least, x));
            const error = got.reduce((most, x, k) => Math.max(most, Math.abs(x - wanted[k]!)), 0);
            assert(error <= LOGIT_BOUND * range, `${model}, prompt ${i}: error ${error}`);
          }
        }
        assert.equal(results.length, 0);
      },
    },
  );
}
