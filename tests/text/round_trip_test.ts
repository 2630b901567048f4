import { strict as assert } from "node:assert";
import fc from "fast-check";
import { Detokenizer } from "../../src/text/detokenizer.ts";
import { needsShared } from "../shared.ts";
import { openTokenizer } from "./real_tokenizers.ts";

/** Text of every kind; the arbitrary shrinks to short ASCII. */
const text = fc.string({ unit: "binary", maxLength: 200 });

// The LLM vocabulary is not lossless: its added tokens ø, ö, ü … decode to broken bytes.
for (const name of ["reference-model", "deepseek-v3"] as const) {
  Deno.test(
    needsShared(`${name}: decode() of encode() is the text, special tokens or not`),
    async () => {
      const tokenizer = await openTokenizer(name);
      fc.assert(
        fc.property(text, fc.boolean(), (text, parseSpecialTokens) => {
          const ids = tokenizer.encode(text, { addSpecialTokens: false, parseSpecialTokens });
          assert.equal(tokenizer.decode(ids), text);
        }),
        { numRuns: 3000, seed: 1 },
      );
    },
  );

  Deno.test(needsShared(`${name}: the bytes of the tokens are the bytes of the text`), async () => {
    const tokenizer = await openTokenizer(name);
    fc.assert(
      fc.property(text, (text) => {
        const ids = tokenizer.encode(text, { addSpecialTokens: false });
        const bytes = ids.flatMap((id) => [...tokenizer.tokenBytes(id)]);
        assert.deepEqual(Uint8Array.from(bytes), new TextEncoder().encode(text));
      }),
      { numRuns: 300, seed: 1 },
    );
  });
}

Deno.test(
  needsShared("deepseek-llm: a text without its lossy letters comes back, streamed too"),
  async () => {
    const tokenizer = await openTokenizer("deepseek-llm");
    fc.assert(
      fc.property(text, (text) => {
        const lossless = text.replaceAll(/[øöúÿõ÷ûýÀùÁþü]/g, "o");
        const ids = tokenizer.encode(lossless, { addSpecialTokens: false });
        assert.equal(tokenizer.decode(ids), lossless);
        const detokenizer = new Detokenizer(tokenizer);
        const pieces = ids.map((id) => detokenizer.push([id]));
        assert.equal(pieces.join("") + detokenizer.finish(), lossless);
      }),
      { numRuns: 2000, seed: 1 },
    );
  },
);
