import { strict as assert } from "node:assert";
import fc from "fast-check";
import { Detokenizer } from "../../src/text/detokenizer.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { needsShared } from "../shared.ts";
import { openTokenizer, tokenizerNames } from "./real_tokenizers.ts";
import { tinyTokenizer } from "./tiny_tokenizer.ts";

/** Ids 0 to 255 are the bytes. */
function open(): Tokenizer {
  return Tokenizer.fromJson(JSON.stringify(tinyTokenizer()));
}

Deno.test("push() holds bytes back until they form a code point", () => {
  using tokenizer = open();
  const detokenizer = new Detokenizer(tokenizer);
  const pieces = Array.from(new TextEncoder().encode("é€😀"), (byte) => detokenizer.push([byte]));
  assert.deepEqual(pieces, ["", "é", "", "", "€", "", "", "", "😀"]);
  assert.equal(detokenizer.finish(), "");
});

Deno.test("finish() flushes what no code point completes, and the next push begins anew", () => {
  using tokenizer = open();
  const detokenizer = new Detokenizer(tokenizer);
  assert.equal(detokenizer.push([97, 0xe2, 0x82]), "a");
  assert.equal(detokenizer.finish(), "\ufffd");
  assert.equal(detokenizer.push([0xac]), "\ufffd");
});

Deno.test("push() shows broken bytes as soon as they are known to be", () => {
  using tokenizer = open();
  const detokenizer = new Detokenizer(tokenizer);
  assert.equal(detokenizer.push([0xe2]), "");
  assert.equal(detokenizer.push([97]), "\ufffda");
});

Deno.test("push() keeps a byte order mark", () => {
  using tokenizer = open();
  assert.equal(new Detokenizer(tokenizer).push([0xef, 0xbb, 0xbf, 97]), "\ufeffa");
});

Deno.test("special tokens are skipped only when asked to", () => {
  using tokenizer = open();
  assert.equal(new Detokenizer(tokenizer).push([258, 97]), "<s>a");
  assert.equal(new Detokenizer(tokenizer, { skipSpecialTokens: true }).push([258, 97]), "a");
});

for (const name of tokenizerNames) {
  Deno.test(needsShared(`${name}: all pieces together equal decode() of all ids`), async () => {
    const tokenizer = await openTokenizer(name);
    const ids = fc.array(fc.nat(tokenizer.vocabSize + 3), { maxLength: 60 });
    fc.assert(
      fc.property(fc.array(ids, { maxLength: 12 }), fc.boolean(), (steps, skipSpecialTokens) => {
        const detokenizer = new Detokenizer(tokenizer, { skipSpecialTokens });
        const pieces = steps.map((step) => detokenizer.push(step));
        const text = pieces.join("") + detokenizer.finish();
        assert.equal(text, tokenizer.decode(steps.flat(), { skipSpecialTokens }));
      }),
      { numRuns: 1000, seed: 1 },
    );
  });
}
