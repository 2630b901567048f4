/**
 * Masks against brute force: of a finite language, every text is listed by JavaScript's own RegExp, and a
 * token is allowed exactly if text and token are the beginning of one.
 */
import { strict as assert } from "node:assert";
import { Constraint, loadVocabulary } from "../../src/constraints/constraint_module.ts";
import type { ResolvedStructuredOutputs } from "../../src/constraints/structured_outputs.ts";

const utf8 = (text: string) => new TextEncoder().encode(text);
const allowedIds = (mask: Uint32Array, count: number) =>
  Array.from({ length: count }, (_, id) => id).filter((id) => mask[id >>> 5]! >>> (id & 31) & 1);

/** All texts over an alphabet up to a length. */
function texts(alphabet: readonly string[], most: number): string[] {
  let last = [""];
  const all = [""];
  for (let length = 1; length <= most; length++) {
    last = last.flatMap((text) => alphabet.map((letter) => text + letter));
    all.push(...last);
  }
  return all;
}

/** Compares masks with the listed language, after every text that tokens can make. */
async function compare(
  outputs: ResolvedStructuredOutputs,
  language: readonly string[],
  pieces: readonly string[],
) {
  assert(language.length > 0);
  // The second token has no bytes, as special ones have not; the last two end a text.
  const tokens = ["a", "", ...pieces, "", ""].map(utf8);
  const ends = [tokens.length - 2, tokens.length - 1];
  const constraint = await Constraint.compile(await loadVocabulary(tokens, ends), outputs);
  const hex = (bytes: Iterable<number>) => String.fromCharCode(...bytes);
  const whole = new Set(language.map((text) => hex(utf8(text))));
  const beginnings = new Set<string>();
  for (const text of whole) {
    for (let n = 0; n <= text.length; n++) beginnings.add(text.slice(0, n));
  }
  let compared = 0;
  const seen = new Set<string>();
  const visit = (ids: readonly number[], text: string) => {
    if (seen.has(text)) return; // another way to spell it
    seen.add(text);
    const matcher = constraint.begin();
    for (const id of ids) matcher.take(id);
    const expected = tokens.flatMap((token, id) =>
      ends.includes(id) ? (whole.has(text) ? [id] : []) : (
        token.length > 0 && beginnings.has(text + hex(token)) ? [id] : []
      )
    );
    const got = allowedIds(matcher.allowed(), tokens.length);
    assert.deepEqual(got, expected, `${outputs.text} after ${JSON.stringify(text)}`);
    matcher.end();
    compared++;
    for (const id of expected) {
      if (!ends.includes(id)) visit([...ids, id], text + hex(tokens[id]!));
    }
  };
  visit([], "");
  assert(compared > 1);
}

const pieces = ["b", "c", "ab", "ba", "abc", "aa", "bb", "ca", "cab", "bcbc"];
const regexes = [
  "a|b|abc",
  "(ab|ba){1,3}c?",
  "a{2,5}",
  "[ab]{3}c|c[ab]{0,2}",
  "(a|aa|aaa){1,2}b",
  "^ab?c$",
  "[^a]{1,3}",
  "(abc){0,2}",
  ".{2}a",
];
for (const regex of regexes) {
  Deno.test(`masks of /${regex}/ are those of brute force`, async () => {
    const pattern = new RegExp(`^(?:${regex})$`, "s");
    const language = texts(["a", "b", "c"], 7).filter((text) => pattern.test(text));
    // [^a] and . know more letters than the alphabet; no token has them.
    await compare({ kind: "regex", text: regex }, language, pieces);
  });
}

Deno.test("masks of a list of texts are those of brute force", async () => {
  const language = ["a", "ab", "abc", "cab", "bb\n", '"c"', "\\"];
  const more = [...pieces, "\n", '"', "\\", 'c"'];
  await compare({ kind: "choice", text: JSON.stringify(language) }, language, more);
});

Deno.test("masks of a grammar are those of brute force", async () => {
  const balanced = (text: string): boolean =>
    text === "c" || (/^a.*b$/s.test(text) && balanced(text.slice(1, -1)));
  const language = texts(["a", "b", "c"], 7).filter(balanced);
  // As deep as the list goes; the grammar goes on, so only its first texts are compared.
  await compare(
    {
      kind: "grammar",
      text: 'start: s0\ns0: "a" s1 "b" | "c"\ns1: "a" s2 "b" | "c"\ns2: "a" s3 "b" | "c"\ns3: "c"',
    },
    language,
    pieces,
  );
});

Deno.test("masks of a schema are those of brute force", async () => {
  const letters = ["a", "b", '"', "[", "]", ",", "1"];
  const values = ['"a"', '"ab"', "1", "11"];
  const lists = ["[]", ...values.map((one) => `[${one}]`)];
  const two = values.flatMap((one) => values.map((other) => `[${one},${other}]`));
  const schema = { type: "array", items: { enum: ["a", "ab", 1, 11] }, maxItems: 2 };
  const words = [...letters, '["', '"]', '",', ',"', '"a"', "11", "a"];
  await compare({ kind: "json", text: JSON.stringify(schema) }, [...lists, ...two], words);
});

Deno.test("tokens may be pieces of characters", async () => {
  const tokens = [[0xc3], [0xa9], [0xc3, 0xa9], [0xa8], [0x65], [0xf0, 0x9f], [0x98, 0x80], []]
    .map((bytes) => Uint8Array.from(bytes));
  const image = await loadVocabulary(tokens, [7]);
  const constraint = await Constraint.compile(image, { kind: "regex", text: "é{1,2}😀" });
  const matcher = constraint.begin();
  const masks: number[][] = [];
  for (const id of [0, 1, 2, 5, 6]) {
    masks.push(allowedIds(matcher.allowed(), 8));
    matcher.take(id);
  }
  masks.push(allowedIds(matcher.allowed(), 8));
  assert.deepEqual(masks, [[0, 2], [1], [0, 2, 5], [5], [6], [7]]);
});

Deno.test("texts under one constraint do not know of each other", async () => {
  const image = await loadVocabulary(["a", "b", ""].map(utf8), [2]);
  const constraint = await Constraint.compile(image, { kind: "regex", text: "ab|ba" });
  const [one, other] = [constraint.begin(), constraint.begin()];
  one.take(0);
  other.take(1);
  assert.deepEqual(allowedIds(one.allowed(), 3), [1]);
  assert.deepEqual(allowedIds(other.allowed(), 3), [0]);
  one.end();
  assert.deepEqual(allowedIds(constraint.begin().allowed(), 3), [0, 1]);
  other.take(0);
  assert.deepEqual(allowedIds(other.allowed(), 3), [2]);
});
