/**
 * generation_config.json as Hugging Face's `generate` reads it.
 */
import { strict as assert } from "node:assert";
import { InvalidFileError } from "../../src/errors.ts";
import { parseEosTokenIds, parseGenerationConfig } from "../../src/generation_config.ts";

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

Deno.test("config.json gives the end tokens where there is no generation config", () => {
  assert.deepEqual(parseEosTokenIds("config.json", '{ "eos_token_id": 2 }'), [2]);
  assert.deepEqual(parseEosTokenIds("config.json", '{ "eos_token_id": null }'), []);
});

Deno.test("malformed files are refused", () => {
  const refused: [text: string, message: RegExp][] = [
    ["{", /it is no JSON/],
    ["[]", /it is no object/],
    ['{ "temperature": "hot" }', /its temperature is "hot", no number/],
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
