/**
 * Exporting: what is refused, what is left behind, and what is written.
 */
import { strict as assert } from "node:assert";
import { exportCheckpoint, type ExportOptions } from "../../export-tools/export_checkpoint.ts";
import { type HybridseekError, InvalidFileError, UnsupportedError } from "../../src/errors.ts";
import { CHUNK_BYTES, type Manifest, parseManifest } from "../../src/files/manifest.ts";
import { LLM } from "../../src/llm.ts";
import { fixtures, packageOf, temporaryPath } from "../packages.ts";
import { needsShared } from "../shared.ts";
import {
  checkpointOf,
  type NewTensor,
  safetensorsOf,
  tinyConfig,
  tinyTensors,
} from "./checkpoint_files.ts";
import { assertSameBytes } from "../same_bytes.ts";

/** A tiny checkpoint with a change. */
async function tiny(
  change: (tensors: Map<string, NewTensor>, config: Record<string, unknown>) => void = () => {},
): Promise<string> {
  const [tensors, config] = [tinyTensors(), { ...tinyConfig }];
  change(tensors, config);
  return await checkpointOf({
    "config.json": config,
    "model.safetensors": safetensorsOf(tensors),
  });
}

/** The export must fail with a typed error, and leave neither a package nor a trace of one. */
async function refuses(
  checkpoint: string,
  kind: typeof InvalidFileError | typeof UnsupportedError,
  message: RegExp,
  options: ExportOptions = {},
) {
  const parent = temporaryPath("parent");
  await Deno.mkdir(parent);
  await assert.rejects(
    exportCheckpoint(checkpoint, `${parent}/package`, options),
    (error: HybridseekError) => {
      assert(error instanceof kind, String(error));
      assert.match(error.message, message);
      return true;
    },
  );
  assert.deepEqual([...Deno.readDirSync(parent)], [], "something was left behind");
}

const q = "model.layers.0.self_attn.q_proj.weight";

Deno.test("a missing tensor is refused by its name", async () => {
  const folder = await tiny((tensors) => tensors.delete(q));
  await refuses(folder, InvalidFileError, /Cannot find tensor model\.layers\.0\.self_attn\.q_proj/);
});

Deno.test("a tensor of another shape is refused with both shapes", async () => {
  const folder = await tiny((tensors) => tensors.get(q)!.shape.reverse().unshift(1));
  await refuses(
    folder,
    InvalidFileError,
    /its shape is \[1,8,8\], but .*config\.json makes it \[8,8\]/,
  );
});

Deno.test("a tensor that the graph has no place for is refused", async () => {
  const bias = { shape: [8], values: new Float32Array(8) };
  const folder = await tiny((tensors) => tensors.set("model.layers.0.self_attn.q_proj.bias", bias));
  await refuses(folder, InvalidFileError, /1 of its tensors have no place .*q_proj\.bias/);
});

Deno.test("numbers that a format can not hold are refused, whatever was written before", async () => {
  const broken = (value: number) =>
    tiny((tensors) => tensors.get("lm_head.weight")!.values[77] = value);
  const int8 = /Cannot store lm_head\.weight as int8: NaN can not be quantized; choose another/;
  await refuses(await broken(NaN), InvalidFileError, int8, { weights: "int8" });
  await refuses(await broken(Infinity), InvalidFileError, /int8: Infinity/, { weights: "int4" });
  const f16 = /lm_head\.weight as f16: 70000 does not fit half precision, whose largest is 65504/;
  await refuses(await broken(70000), InvalidFileError, f16, { weights: "f16" });
  const f32 = /Cannot store lm_head\.weight as f32: -Infinity is no finite number.*checkpoint anew/;
  await refuses(await broken(-Infinity), InvalidFileError, f32, { weights: "f32" });
  // Norms are f32 in every format.
  const norm = await tiny((tensors) => tensors.get("model.norm.weight")!.values[3] = NaN);
  await refuses(norm, InvalidFileError, /model\.norm\.weight as f32: NaN/, { weights: "int4" });
});

Deno.test("an unknown architecture is refused with the supported ones", async () => {
  const folder = await tiny((_, config) => config.model_type = "mamba");
  await refuses(
    folder,
    UnsupportedError,
    /"mamba" is not supported, supported are deepseek_v2 .*llama/,
  );
});

Deno.test("more positions than a rotary table of 2 GiB holds are refused, not computed", async () => {
  // Heads of 4 elements rotate in 2 pairs of 4 bytes each: 2^31 bytes are 2^28 positions.
  for (const positions of [2 ** 28, 1e12]) {
    const folder = await tiny((_, config) => config.max_position_embeddings = positions);
    const message = new RegExp(
      `max_position_embeddings is ${positions}, .* at most ${2 ** 28 - 1}`,
    );
    await refuses(folder, InvalidFileError, message);
  }
});

Deno.test("PyTorch files are refused with the way out", async () => {
  const folder = await checkpointOf({
    "config.json": tinyConfig,
    "pytorch_model.bin": new Uint8Array(4),
  });
  await refuses(folder, UnsupportedError, /pytorch_model\.bin .*safe_?tensors.*save_pretrained/s);
});

Deno.test("a tokenizer or generation config that can not be opened later is refused now", async () => {
  const broken = (name: string, content: object | string) =>
    checkpointOf({
      "config.json": tinyConfig,
      "model.safetensors": safetensorsOf(tinyTensors()),
      [name]: typeof content === "string" ? new TextEncoder().encode(content) : content,
    });
  const truncated = await broken("tokenizer.json", '{ "model": { "type": "BPE", "vocab": {');
  await refuses(truncated, InvalidFileError, /tokenizer\.json/);
  const other = await broken("tokenizer.json", {
    model: { type: "WordPiece", vocab: {}, merges: [] },
  });
  await refuses(other, UnsupportedError, /Cannot reproduce tokenizer\.json/);
  const eos = await broken("generation_config.json", { eos_token_id: "end" });
  await refuses(eos, InvalidFileError, /its eos_token_id is "end", no token id or list of them/);
});

Deno.test("a folder without tensors or config, or with a broken one, is refused", async () => {
  await refuses(await checkpointOf({}), InvalidFileError, /Cannot open .*config\.json/);
  const noTensors = await checkpointOf({ "config.json": tinyConfig });
  await refuses(noTensors, InvalidFileError, /Cannot find model\.safetensors or/);
  const broken = await checkpointOf({ "config.json": new TextEncoder().encode("{") });
  await refuses(broken, InvalidFileError, /config\.json: it is no JSON/);
  const list = await checkpointOf({ "config.json": [] });
  await refuses(list, InvalidFileError, /config\.json: it is no JSON object/);
  await refuses(temporaryPath("nowhere"), InvalidFileError, /Cannot open .*config\.json/);
});

Deno.test("a folder in a tensor file's place is refused, one in a licence's place left out", async () => {
  const folder = await checkpointOf({ "config.json": tinyConfig });
  await Deno.mkdir(`${folder}/model.safetensors`);
  await refuses(folder, InvalidFileError, /Cannot read .*model\.safetensors: it is no file/);

  const licensed = await tiny();
  await Deno.mkdir(`${licensed}/LICENSES`);
  await Deno.writeTextFile(`${licensed}/LICENSE`, "MIT");
  const path = temporaryPath("package");
  await exportCheckpoint(licensed, path);
  const manifest = parseManifest("", await Deno.readTextFile(`${path}/manifest.json`));
  const licences = manifest.files.map(({ name }) => name).filter((name) => /^LICENSE/.test(name));
  assert.deepEqual(licences, ["LICENSE"]);
});

Deno.test("an index that names files elsewhere is refused", async () => {
  const indices = ["../model.safetensors", "/etc/passwd", "a/b", "", "..", 5]
    .map((name) => JSON.stringify({ weight_map: { a: name } }));
  for (const index of [...indices, "null", "[]"]) {
    const folder = await checkpointOf({
      "config.json": tinyConfig,
      "model.safetensors.index.json": new TextEncoder().encode(index),
    });
    await refuses(folder, InvalidFileError, /its weight_map must name files of the folder/);
  }
  const missing = await checkpointOf({
    "config.json": tinyConfig,
    "model.safetensors.index.json": { weight_map: { a: "model-00001-of-00002.safetensors" } },
  });
  await refuses(missing, InvalidFileError, /Cannot open .*model-00001-of-00002/);
});

Deno.test("a checkpoint in shards gives the package of a single file, bit for bit", async () => {
  const entries = [...tinyTensors()];
  const shards = [entries.slice(0, 5), entries.slice(5)];
  const names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  const map = shards.flatMap((shard, i) => shard.map(([name]) => [name, names[i]]));
  const folder = await checkpointOf({
    "config.json": tinyConfig,
    "model.safetensors.index.json": { weight_map: Object.fromEntries(map) },
    [names[0]!]: safetensorsOf(shards[0]!),
    [names[1]!]: safetensorsOf(shards[1]!),
  });
  const [single, sharded] = [temporaryPath("single"), temporaryPath("sharded")];
  await exportCheckpoint(await tiny(), single);
  await exportCheckpoint(folder, sharded);
  const manifest = (path: string) => Deno.readTextFile(`${path}/manifest.json`);
  assert.equal(await manifest(sharded), await manifest(single));
  const twice = await checkpointOf({
    "config.json": tinyConfig,
    "model.safetensors.index.json": { weight_map: Object.fromEntries(map) },
    [names[0]!]: safetensorsOf(entries),
    [names[1]!]: safetensorsOf(shards[1]!),
  });
  await refuses(twice, InvalidFileError, /lies in .*00001.* and again in .*00002/);
});

Deno.test("a folder that is there is never written over without a word", async () => {
  const path = temporaryPath("there");
  const checkpoint = await tiny();
  await Deno.mkdir(path);
  await Deno.writeTextFile(`${path}/precious.txt`, "mine");
  for (const overwrite of [false, true]) {
    const message = /the folder exists; choose a folder that does not exist/;
    await assert.rejects(exportCheckpoint(checkpoint, path, { overwrite }), message);
  }
  assert.equal(await Deno.readTextFile(`${path}/precious.txt`), "mine");

  const packaged = temporaryPath("packaged");
  await exportCheckpoint(checkpoint, packaged, { weights: "f32" });
  await assert.rejects(exportCheckpoint(checkpoint, packaged), /or allow it to be replaced/);
  await exportCheckpoint(checkpoint, packaged, { weights: "int4", overwrite: true });
  await using llm = await LLM.open(packaged);
  assert.equal(llm.spec.weights, "int4");
});

Deno.test("options are checked", async () => {
  const checkpoint = await tiny();
  const path = temporaryPath("package");
  const wrong = { weights: "int3" as "int4" };
  await assert.rejects(exportCheckpoint(checkpoint, path, wrong), { field: "weights" });
  const small = { maxFileBytes: 100 };
  await assert.rejects(exportCheckpoint(checkpoint, path, small), { field: "maxFileBytes" });
});

Deno.test("an aborted export ends with the reason and leaves nothing", async () => {
  const parent = temporaryPath("parent");
  await Deno.mkdir(parent);
  const controller = new AbortController();
  const reason = new Error("enough");
  const onProgress = () => controller.abort(reason);
  const options = { onProgress, signal: controller.signal };
  await assert.rejects(exportCheckpoint(await tiny(), `${parent}/package`, options), reason);
  assert.deepEqual([...Deno.readDirSync(parent)], []);
});

Deno.test("progress rises to all of the bytes written and hashed", async () => {
  const seen: number[] = [];
  let total = 0;
  const path = temporaryPath("package");
  await exportCheckpoint(await tiny(), path, {
    onProgress({ doneBytes, totalBytes }) {
      seen.push(doneBytes);
      total = totalBytes;
    },
  });
  assert.deepEqual(seen, seen.toSorted((a, b) => a - b));
  assert.equal(seen.at(-1), total);
});

Deno.test(
  needsShared("the manifest has the sha256 of every chunk and of every expert"),
  async () => {
    const folder = await packageOf("deepseek-v2", { weights: "int4", maxFileBytes: 200_000 });
    const manifest: Manifest = parseManifest(
      "",
      await Deno.readTextFile(`${folder}/manifest.json`),
    );
    const hash = async (bytes: Uint8Array<ArrayBuffer>) =>
      new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
    const onDisk = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
    const listed = [...manifest.files.map(({ name }) => name), "manifest.json"].sort();
    assert.deepEqual(onDisk, listed);
    assert(manifest.files.filter(({ name }) => name.endsWith(".data")).length > 3);
    for (const { name, bytes, sha256 } of manifest.files) {
      const content = await Deno.readFile(`${folder}/${name}`);
      assert.equal(content.length, bytes);
      assert.equal(sha256.length, Math.ceil(bytes / CHUNK_BYTES));
      assert.equal(sha256[0], await hash(content.subarray(0, CHUNK_BYTES)));
    }
    // 2 layers of experts, gate_up and down, each with scales.
    const slabs = Object.entries(manifest.slabs);
    assert.equal(slabs.length, 2 * 2 * 2);
    for (const [name, { file, offset, slabBytes, sha256 }] of slabs) {
      assert.equal(sha256.length, 16, name);
      const content = await Deno.readFile(`${folder}/${file}`);
      for (const [expert, want] of sha256.entries()) {
        const begin = offset + expert * slabBytes;
        assert.equal(
          await hash(content.slice(begin, begin + slabBytes)),
          want,
          `${name} ${expert}`,
        );
      }
    }
  },
);

Deno.test(
  needsShared("the embedded model is what the exporter makes of its checkpoint"),
  async () => {
    const folder = await packageOf("reference-model", { weights: "int8" });
    const embedded = new URL("../../models/reference/manifest.json", import.meta.url);
    const fresh = await Deno.readTextFile(`${folder}/manifest.json`);
    assert.equal(await Deno.readTextFile(embedded), fresh);
  },
);

Deno.test(needsShared("every checkpoint opens in every storage format"), async () => {
  for (const name of fixtures) {
    for (const weights of ["f16", "int8", "int4"] as const) {
      await using llm = await LLM.open(await packageOf(name, { weights }));
      const { logits } = await llm.forward([3, 1, 4, 1, 5]);
      assert(logits.every(Number.isFinite), `${name} in ${weights}`);
    }
  }
});

Deno.test(needsShared("tied embeddings serve as the head"), async () => {
  const tied = await tiny((tensors, config) => {
    config.tie_word_embeddings = true;
    tensors.delete("lm_head.weight");
  });
  const untied = await tiny((tensors) => {
    tensors.set("lm_head.weight", tensors.get("model.embed_tokens.weight")!);
  });
  const logits = await Promise.all([tied, untied].map(async (checkpoint) => {
    const path = temporaryPath("package");
    await exportCheckpoint(checkpoint, path, { weights: "f32" });
    await using llm = await LLM.open(path);
    return (await llm.forward([1, 2, 3])).logits;
  }));
  assertSameBytes(logits[0]!, logits[1]!);
});
