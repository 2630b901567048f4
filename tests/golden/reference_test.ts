/**
 * The trained reference model against its goldens made with transformers: greedy texts token by token, last
 * logits, and what each storage format does to the perplexity of held-out text.
 */
import { strict as assert } from "node:assert";
import type { LLM } from "../../src/llm.ts";
import { openFixture, ways } from "../packages.ts";
import { readSafetensors } from "../safetensors_values.ts";
import { needsShared, readShared } from "../shared.ts";

interface Generation {
  prompt: string;
  input_ids: number[];
  greedy_ids: number[];
  greedy_text: string;
}

/** Largest error of a logit, as a fraction of the golden logits' range. */
const LOGIT_BOUND = 2e-4;
const MAX_TOKENS = 96;

const generations = (): Generation[] =>
  JSON.parse(readShared("reference-goldens/generations.json")).generations;

for (const [way, options] of Object.entries(ways)) {
  const needsWay = (what: string) =>
    needsShared(`reference model on ${way}: ${what}`, options.backend);
  Deno.test(needsWay("greedy texts token by token"), async () => {
    await using llm = await openFixture("reference-model", options);
    const params = { temperature: 0, maxTokens: MAX_TOKENS };
    const results = await llm.generate(generations().map(({ prompt }) => prompt), params);
    for (const [i, { input_ids, greedy_ids, greedy_text }] of generations().entries()) {
      const { promptTokenIds, outputs: [output] } = results[i]!;
      assert.deepEqual(promptTokenIds, input_ids);
      assert.deepEqual(output!.tokenIds, greedy_ids);
      assert.equal(output!.text, greedy_text);
      assert.equal(output!.finishReason, greedy_ids.length < MAX_TOKENS ? "stop" : "length");
    }
  });

  Deno.test(needsWay("logits after every prompt"), async () => {
    const url = new URL(
      "../../../shared/reference-goldens/generations.safetensors",
      import.meta.url,
    );
    const { tensors } = readSafetensors(url);
    await using llm = await openFixture("reference-model", options);
    for (const [i, { input_ids }] of generations().entries()) {
      const want = tensors.get(`prompt.${i}.last_logits`)!.values as Float32Array;
      const { logits, shape } = await llm.forward(input_ids, { rows: [input_ids.length - 1] });
      assert.deepEqual(shape, [1, want.length]);
      const bound = LOGIT_BOUND * (Math.max(...want) - Math.min(...want));
      for (const [k, value] of logits.entries()) assert(Math.abs(value - want[k]!) <= bound);
    }
  });
}

interface HeldOut {
  perplexity: number;
  all_docs: number[][];
}

/** Relative changes of the perplexity that are allowed. */
const bounds = {
  f32: () => 1e-4,
  f16: () => 1e-4,
  int8: () => 5e-3,
  // 1.2 times what a round trip of the weights alone costs, by the reference's own report.
  int4: () => {
    const { quantization } = JSON.parse(readShared("reference-goldens/report.json"));
    const row = quantization["int4 Q4_0-like block-32 (signed max/-8), all linears"];
    return 1.2 * row.ppl_delta_percent / 100;
  },
};

for (const [weights, bound] of Object.entries(bounds)) {
  Deno.test(needsShared(`reference model in ${weights}: held-out perplexity`), async () => {
    const heldOut: HeldOut = JSON.parse(readShared("reference-goldens/heldout-perplexity.json"));
    const exporting = { weights: weights as keyof typeof bounds };
    for (const exact of [true, false]) {
      await using llm = await openFixture("reference-model", { exact }, exporting);
      const change = await perplexity(llm, heldOut.all_docs) / heldOut.perplexity - 1;
      console.log(
        `${weights}, exact ${exact}: perplexity ${(100 * change).toFixed(4)} %, ` +
          `allowed ${100 * bound()} %`,
      );
      assert(Math.abs(change) <= bound(), `exact ${exact}: changed by ${change}`);
    }
  });
}

async function perplexity(llm: LLM, documents: number[][]): Promise<number> {
  let sum = 0;
  let count = 0;
  for (const tokens of documents) {
    const { logits, shape: [, vocab] } = await llm.forward(tokens);
    for (const [i, token] of tokens.slice(1).entries()) {
      const row = logits.subarray(i * vocab, (i + 1) * vocab);
      const largest = row.reduce((most, value) => Math.max(most, value));
      const total = row.reduce((total, value) => total + Math.exp(value - largest), 0);
      sum += Math.log(total) + largest - row[token]!;
      count++;
    }
  }
  return Math.exp(sum / count);
}
