/**
 * Every line of the shared goldens, whose ids are Hugging Face `tokenizers`'.
 */
import { strict as assert } from "node:assert";
import { hasShared, needsShared, readShared } from "../shared.ts";
import { openTokenizer, tokenizerNames } from "./real_tokenizers.ts";

interface GoldenLine {
  text: string;
  text_utf16_escaped?: string;
  decoded_ok?: Record<string, boolean>;
  [tokenizer: string]: unknown;
}

const lines: GoldenLine[] = hasShared
  ? readShared("tokenizer/tokenizer-golden.jsonl").trimEnd().split("\n").map((line) =>
    JSON.parse(line)
  )
  : [];

/** The text to encode: lone surrogates are written as escapes, for JSON tools that refuse them. */
function textOf(line: GoldenLine): string {
  return line.text_utf16_escaped === undefined
    ? line.text
    : JSON.parse(`"${line.text_utf16_escaped}"`);
}

for (const name of tokenizerNames) {
  Deno.test(needsShared(`${name}: encode() gives the golden ids of every text`), async () => {
    const tokenizer = await openTokenizer(name);
    assert.equal(lines.length, 306);
    for (const line of lines) {
      assert.deepEqual(
        tokenizer.encode(textOf(line), { addSpecialTokens: false }),
        line[name],
        line.text,
      );
    }
  });

  Deno.test(
    needsShared(`${name}: decode() gives the text back exactly where the golden says so`),
    async () => {
      const tokenizer = await openTokenizer(name);
      const marked = lines.filter((line) => line.decoded_ok !== undefined);
      assert.equal(marked.length, 300);
      for (const line of marked) {
        const decoded = tokenizer.decode(line[name] as number[]);
        assert.equal(
          decoded === line.text,
          line.decoded_ok![name],
          JSON.stringify([line.text, decoded]),
        );
      }
    },
  );

  Deno.test(
    needsShared(`${name}: the golden has lone surrogates, and they become U+FFFD`),
    async () => {
      const tokenizer = await openTokenizer(name);
      const surrogates = lines.filter((line) => line.text_utf16_escaped !== undefined);
      assert.equal(surrogates.length, 6);
      for (const line of surrogates) {
        assert.equal(
          tokenizer.decode(tokenizer.encode(textOf(line), { addSpecialTokens: false })),
          line.text,
        );
      }
    },
  );
}
