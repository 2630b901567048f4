/**
 * A fixture on backend cuda, on the emulated runtime: against its golden, and against stock onnxruntime on the
 * function bodies.
 *
 *     cuda_backend_program.ts FIXTURE WEIGHTS CACHE_TYPE
 *
 * With a cache of fp8 the reference is stock onnxruntime alone, on a body that stores its rows as fp8 too.
 *
 * The environment names the library whose CUDA kernels serve CPU sessions, and the emulated runtime. Fails where a
 * logit is farther from the reference than `session_tolerances.json` declares, or where the likeliest token is
 * another although it leads by four times that.
 * @module
 */
import { strict as assert } from "node:assert";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { LLM } from "../../mod.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import {
  AttributeProto_AttributeType,
  ModelProtoSchema,
  NodeProtoSchema,
  TensorProto_DataType,
} from "../../src/onnx/onnx_pb.ts";
import { packageOf, temporaryPath } from "../packages.ts";
import { readSafetensors } from "../safetensors_values.ts";
import { readShared, shared } from "../shared.ts";
import tolerances from "./session_tolerances.json" with { type: "json" };

const [fixture, weights, cacheType] = Deno.args as [string, "f32" | "int4", "bf16" | "fp8"];
const declared = tolerances[cacheType === "fp8" ? "fp8" : weights];
const golden: { prompts: { input_ids: number[]; greedy: number[] }[] } = JSON.parse(
  readShared(`fixtures/${fixture}/golden.json`),
);
const { tensors } = readSafetensors(new URL(`fixtures/${fixture}/golden.safetensors`, shared));
const folder = await packageOf(fixture, { weights });
const sizes = { contextLength: 128, cacheTokens: 2048 };
const cuda: OpenOptions = { ...sizes, backend: "cuda", cacheType };
const greedy = { temperature: 0, maxTokens: 6, ignoreEos: true };

const reference = cacheType === "fp8" ? await packageWithFp8Rows(folder) : folder;
await using stock = await LLM.open(reference, { ...sizes, backend: "ort", verify: false });
let cacheFile: Uint8Array;
{
  let planned = false;
  await using llm = await LLM.open(folder, { ...cuda, onPlan: () => planned = true });
  assert(planned);
  assert.equal(llm.info.cacheType, cacheType);
  for (const part of ["weights", "cache", "workspace"]) assert(llm.info.bytes[part]! > 0);

  for (const [i, { input_ids }] of golden.prompts.entries()) {
    const want = weights === "f32" && cacheType === "bf16"
      ? tensors.get(`logits.${i}`)!.values as Float32Array
      : (await stock.forward(input_ids)).logits;
    const { logits } = await llm.forward(input_ids);
    check(`prompt of ${input_ids.length}`, logits.subarray(-want.length), want);
  }

  // All prompts at once: steps of chunks and single tokens, and block tables of different lengths.
  const prompts = golden.prompts.map(({ input_ids }) => ({ promptTokenIds: input_ids }));
  const results = await llm.generate(prompts, greedy);
  for (const [i, { outputs: [output] }] of results.entries()) {
    await checkChoices(`text ${i}`, prompts[i]!.promptTokenIds, output!.tokenIds);
  }

  // Again: what was computed is found.
  const longest = prompts.at(-1)!;
  const [again] = await llm.generate([longest], greedy);
  assert(again!.cachedTokens >= 48, `${again!.cachedTokens} tokens were found`);
  await checkChoices("from the cache", longest.promptTokenIds, again!.outputs[0]!.tokenIds);
  cacheFile = await llm.saveCache(longest);
}
{
  await using llm = await LLM.open(folder, cuda);
  await llm.loadCache(cacheFile);
  const longest = { promptTokenIds: golden.prompts.at(-1)!.input_ids };
  const [loaded] = await llm.generate([longest], greedy);
  assert(loaded!.cachedTokens >= 48, `${loaded!.cachedTokens} tokens were loaded`);
  await checkChoices("from a file", longest.promptTokenIds, loaded!.outputs[0]!.tokenIds);
}

/** Every chosen token must be the likeliest, by stock onnxruntime, as far as the kernels' error leaves it open. */
async function checkChoices(what: string, prompt: number[], chosen: readonly number[]) {
  const all = [...prompt, ...chosen];
  const rows = chosen.map((_, i) => prompt.length - 1 + i);
  const { logits, shape: [, vocab] } = await stock.forward(all, { rows });
  for (const [i, token] of chosen.entries()) {
    const row = logits.subarray(i * vocab, (i + 1) * vocab);
    const behind = Math.max(...row) - row[token]!;
    assert(behind <= 4 * declared, `${what}: token ${i} is ${behind} behind the likeliest`);
  }
  console.log(`ok ${what}: ${chosen.length} tokens`);
}

/**
 * Compares rows of logits. With fp8 rows the last bit of a router's near tie is decided by how the kernels round:
 * one row in 32 may have another expert.
 */
function check(what: string, got: Float32Array, want: Float32Array) {
  const vocab = stock.spec.vocabSize;
  let [most, decided, wrong, far] = [0, 0, 0, 0];
  for (let from = 0; from < want.length; from += vocab) {
    const [row, reference] = [got, want].map((all) => all.subarray(from, from + vocab));
    const error = Math.max(...reference!.map((value, i) => Math.abs(value - row![i]!)));
    if (!(error <= declared)) {
      far++;
      continue;
    }
    most = Math.max(most, error);
    const [first, second] = reference!.toSorted().toReversed();
    if (first! - second! <= 4 * declared) continue;
    decided++;
    if (likeliest(row!) !== likeliest(reference!)) wrong++;
  }
  console.log(
    `${what}: logits within ${most.toExponential(2)}, ${far} rows farther, ` +
      `${decided} tokens decided, ${wrong} wrong`,
  );
  const mayBeFar = cacheType === "fp8" ? Math.floor(want.length / vocab / 32) : 0;
  assert(far <= mayBeFar && wrong === 0, what);
}

function likeliest(row: Float32Array): number {
  return row.indexOf(Math.max(...row));
}

/** A copy of a package whose attention rounds a row to fp8 before it goes into the cache. */
async function packageWithFp8Rows(folder: string): Promise<string> {
  const copy = temporaryPath("fp8");
  Deno.mkdirSync(copy);
  for (const { name } of Deno.readDirSync(folder)) {
    await Deno.copyFile(`${folder}/${name}`, `${copy}/${name}`);
  }
  const model = fromBinary(ModelProtoSchema, Deno.readFileSync(`${folder}/model.onnx`));
  const body = model.functions.find(({ name }) => name === "LatentAttention")!;
  const at = body.node.findIndex(({ opType }) => opType === "ScatterND");
  const append = body.node[at]!;
  const cast = (from: string, into: string, type: TensorProto_DataType) =>
    create(NodeProtoSchema, {
      ...{ opType: "Cast", input: [from], output: [into] },
      attribute: [{ name: "to", type: AttributeProto_AttributeType.INT, i: BigInt(type) }],
    });
  const { FLOAT8E4M3FN, FLOAT } = TensorProto_DataType;
  body.node.splice(
    at,
    0,
    cast(append.input[2]!, "row.fp8", FLOAT8E4M3FN),
    cast("row.fp8", "row.rounded", FLOAT),
  );
  append.input[2] = "row.rounded";
  const bytes = toBinary(ModelProtoSchema, model);
  Deno.writeFileSync(`${copy}/model.onnx`, bytes);
  const manifest: { files: { name: string; bytes: number }[] } = JSON.parse(
    Deno.readTextFileSync(`${folder}/manifest.json`),
  );
  manifest.files.find(({ name }) => name === "model.onnx")!.bytes = bytes.length;
  Deno.writeTextFileSync(`${copy}/manifest.json`, JSON.stringify(manifest));
  return copy;
}
