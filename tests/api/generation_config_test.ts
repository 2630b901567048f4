/**
 * generation_config.json as Hugging Face's `generate` reads it.
 */
import { strict as assert } from "node:assert";
import { exportCheckpoint } from "../../export-tools/export_checkpoint.ts";
import { InvalidFileError } from "../../src/errors.ts";
import { parseEosTokenIds, parseGenerationConfig } from "../../src/generation_config.ts";
import { LLM } from "../../src/llm.ts";
import {
  checkpointOf,
  safetensorsOf,
  tinyConfig,
  tinyTensors,
} from "../export/checkpoint_files.ts";
import { temporaryPath } from "../packages.ts";
import { tinyTokenizer } from "../text/tiny_tokenizer.ts";

const parse = (value: unknown) => parseGenerationConfig("file", JSON.stringify(value));

Deno.test("sampling is asked for by do_sample, and without it decoding is greedy", () => {
  const deepseekV2 = { do_sample: true, temperature: 0.3, top_p: 0.95, eos_token_id: 100001 };
  assert.deepEqual(parse(deepseekV2), {
    defaults: { temperature: 0.3, topP: 0.95 },
    eosTokenIds: [100001],
  });
  assert.deepEqual(parse({ eos_token_id: [7, 9], top_p: 0.9 }), {
    defaults: { temperature: 0, topP: 0.9 },
    eosTokenIds: [7, 9],
  });
  assert.deepEqual(parse({}).eosTokenIds, []);
  assert.deepEqual(parse({ do_sample: true, temperature: null }).defaults, {});
});

Deno.test("the other sampling fields have their names", () => {
  const fields = { top_k: 20, min_p: 0.1, repetition_penalty: 1.1, max_new_tokens: 99 };
  assert.deepEqual(parse({ do_sample: true, ...fields }).defaults, {
    topK: 20,
    minP: 0.1,
    repetitionPenalty: 1.1,
    maxTokens: 99,
  });
});

Deno.test("a least number of tokens stands alone", () => {
  assert.deepEqual(parse({ do_sample: true, min_new_tokens: 40 }).defaults, { minTokens: 40 });
});

Deno.test("config.json gives the end tokens where there is no generation config", () => {
  assert.deepEqual(parseEosTokenIds("config.json", '{ "eos_token_id": 2 }'), [2]);
  assert.deepEqual(parseEosTokenIds("config.json", '{ "eos_token_id": null }'), []);
});

/** Whether each token ends a text of a model whose config.json says that 2 is the end. */
async function ends(tokens: number[], files: Record<string, object>): Promise<boolean[]> {
  const tensors = tinyTensors();
  for (const name of ["model.embed_tokens.weight", "lm_head.weight"]) {
    tensors.set(name, { shape: [264, 8], values: new Float32Array(264 * 8) });
  }
  const checkpoint = await checkpointOf({
    "config.json": { ...tinyConfig, vocab_size: 264, eos_token_id: 2 },
    "model.safetensors": safetensorsOf(tensors),
    ...files,
  });
  const { folder } = await exportCheckpoint(checkpoint, temporaryPath("package"));
  await using llm = await LLM.open(folder);
  const params = tokens.map((token) => ({ allowedTokenIds: [token], maxTokens: 3 }));
  const results = await llm.generate(tokens.map(() => ({ promptTokenIds: [5] })), params);
  return results.map(({ outputs }) => outputs[0]!.finishReason === "stop");
}

Deno.test("end tokens: generation_config.json, else the tokenizer's, else config.json's", async () => {
  const tokenizer = {
    "tokenizer.json": tinyTokenizer(),
    "tokenizer_config.json": { eos_token: "</s>" }, // 259
  };
  const tokens = [2, 7, 259];
  assert.deepEqual(await ends(tokens, {}), [true, false, false]);
  assert.deepEqual(await ends(tokens, tokenizer), [false, false, true]);
  const generation = { ...tokenizer, "generation_config.json": { eos_token_id: [7] } };
  assert.deepEqual(await ends(tokens, generation), [false, true, false]);
});

Deno.test("malformed files are refused", () => {
  const refused: [text: string, message: RegExp][] = [
    ["{", /it is no JSON/],
    ["[]", /it is no object/],
    ['{ "temperature": "hot" }', /its temperature is "hot", no number/],
    ['{ "do_sample": true, "temperature": -1 }', /out of range \(Cannot use temperature = -1/],
    ['{ "do_sample": true, "top_p": 2 }', /out of range \(Cannot use topP = 2/],
    ['{ "max_new_tokens": 0 }', /out of range \(Cannot use maxTokens = 0/],
    ['{ "max_new_tokens": 3, "min_new_tokens": 4 }', /out of range \(Cannot use minTokens = 4/],
    ['{ "eos_token_id": -1 }', /its eos_token_id is -1/],
    ['{ "eos_token_id": [1, "x"] }', /its eos_token_id is \[1,"x"\]/],
  ];
  for (const [text, message] of refused) {
    assert.throws(() => parseGenerationConfig("file", text), (error: InvalidFileError) => {
      assert(error instanceof InvalidFileError);
      assert.match(error.message, message);
      assert.match(error.message, /correct or remove it in the checkpoint/);
      return true;
    });
  }
});
