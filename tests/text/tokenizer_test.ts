import { strict as assert } from "node:assert";
import { BackendError, InvalidArgumentError } from "../../src/errors.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import type { TokenizerConfig } from "../../src/text/tokenizer_config.ts";
import { needsShared } from "../shared.ts";
import { openTokenizer } from "./real_tokenizers.ts";
import { addedToken, type Json, tinyTokenizer } from "./tiny_tokenizer.ts";

const BOS = 258;
const EOS = 259;
const names = { bos_token: "<s>", eos_token: { content: "</s>", lstrip: false } };

function open(config: TokenizerConfig = {}, change: (json: Json) => void = () => {}): Tokenizer {
  const json = tinyTokenizer();
  change(json);
  return Tokenizer.fromJson(JSON.stringify(json), config);
}

/** The post-processor of a tokenizer.json that puts `<s>` in front. */
function withTemplate(json: Json) {
  const template = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: { "<s>": { id: "<s>", ids: [BOS], tokens: ["<s>"] } },
  };
  json.post_processor = { type: "Sequence", processors: [{ type: "ByteLevel" }, template] };
}

Deno.test("encode() puts BOS in front once, whichever file asks for it", () => {
  const both = { ...names, add_bos_token: true };
  const cases: [string, Tokenizer, number[]][] = [
    ["neither", open(names), [256]],
    ["the config", open(both), [BOS, 256]],
    ["the template", open(names, withTemplate), [BOS, 256]],
    ["the template, no config", open({}, withTemplate), [BOS, 256]],
    ["both", open(both, withTemplate), [BOS, 256]],
    ["the config says no", open({ ...names, add_bos_token: false }, withTemplate), [256]],
    ["the config names only EOS", open({ ...names, add_eos_token: true }, withTemplate), [
      256,
      EOS,
    ]],
    ["both ends", open({ ...both, add_eos_token: true }), [BOS, 256, EOS]],
  ];
  for (const [what, tokenizer, ids] of cases) {
    assert.deepEqual(tokenizer.encode("ab"), ids, what);
    assert.deepEqual(tokenizer.encode("ab", { addSpecialTokens: false }), [256], what);
    tokenizer.free();
  }
});

Deno.test("encode() does not repeat a BOS or EOS that the text has already", () => {
  using tokenizer = open({ ...names, add_bos_token: true, add_eos_token: true });
  assert.deepEqual(tokenizer.encode("<s>ab"), [BOS, 256, EOS]);
  assert.deepEqual(tokenizer.encode("ab</s>"), [BOS, 256, EOS]);
  assert.deepEqual(tokenizer.encode("<s>"), [BOS, EOS]);
  assert.deepEqual(tokenizer.encode(""), [BOS, EOS]);
  assert.deepEqual(tokenizer.encode("ab<s>"), [BOS, 256, BOS, EOS]);
  using templated = open({}, withTemplate);
  assert.deepEqual(templated.encode("<s>ab"), [BOS, 256]);
});

Deno.test("encode() without parseSpecialTokens gives text no way to forge a special token", () => {
  using tokenizer = open({ ...names, add_bos_token: true });
  const plain = tokenizer.encode("<s>ab</s>", { parseSpecialTokens: false });
  assert.equal(plain[0], BOS);
  assert.ok(plain.slice(1).every((id) => !tokenizer.isSpecial(id)));
  assert.equal(tokenizer.decode(plain, { skipSpecialTokens: true }), "<s>ab</s>");
  // Added tokens that are not special are still found.
  assert.deepEqual(tokenizer.encode("<x>", { parseSpecialTokens: false }), [BOS, 260]);
});

Deno.test("merges may be strings or pairs, and ignore_merges is honoured", () => {
  using strings = open();
  using pairs = open({}, (json) => {
    json.model.merges = [["a", "b"], ["ab", "ab"]];
  });
  for (const text of ["abab", "aabbab", "b"]) {
    assert.deepEqual(strings.encode(text), pairs.encode(text));
  }
  const unmerged = (json: Json) => {
    json.model.merges = ["a b"];
  };
  using merging = open({}, unmerged);
  assert.deepEqual(merging.encode("abab"), [256, 256]);
  using ignoring = open({}, (json) => {
    unmerged(json);
    json.model.ignore_merges = true;
  });
  assert.deepEqual(ignoring.encode("abab"), [257]);
  assert.deepEqual(ignoring.encode("ababab"), [256, 256, 256]);
});

Deno.test("decode() skips special tokens when asked to, and ids beyond the vocabulary always", () => {
  using tokenizer = open();
  const ids = [BOS, 256, 260, 261, 2 ** 32, 2 ** 40, EOS];
  assert.equal(tokenizer.decode(ids), "<s>ab<x></s>");
  assert.equal(tokenizer.decode(ids, { skipSpecialTokens: true }), "ab<x>");
  assert.equal(tokenizer.decode([]), "");
  assert.equal(tokenizer.decode(new Set([97, 98])), tokenizer.decode([97, 98]));
});

Deno.test("decode() keeps a byte order mark", () => {
  using tokenizer = open();
  assert.equal(tokenizer.decode(tokenizer.encode("\ufeffab")), "\ufeffab");
});

Deno.test("ids that are negative or no integers are refused", () => {
  using tokenizer = open();
  for (const id of [-1, 0.5, NaN, Infinity]) {
    assert.throws(() => tokenizer.decode([97, id]), InvalidArgumentError);
    assert.throws(() => tokenizer.tokenBytes(id), InvalidArgumentError);
    assert.throws(() => tokenizer.tokenOf(id), InvalidArgumentError);
    assert.throws(() => tokenizer.isSpecial(id), InvalidArgumentError);
  }
});

Deno.test("tokens are looked up by text and by id", () => {
  using tokenizer = open(names);
  assert.equal(tokenizer.vocabSize, 261);
  assert.equal(tokenizer.bosToken, "<s>");
  assert.equal(tokenizer.bosTokenId, BOS);
  assert.equal(tokenizer.eosToken, "</s>");
  assert.equal(tokenizer.eosTokenId, EOS);
  assert.equal(tokenizer.idOf("abab"), 257);
  assert.equal(tokenizer.idOf("Ġ"), 32);
  assert.equal(tokenizer.idOf("absent"), undefined);
  assert.equal(tokenizer.tokenOf(32), "Ġ");
  assert.equal(tokenizer.tokenOf(261), undefined);
  assert.deepEqual(tokenizer.tokenBytes(0xc3), Uint8Array.of(0xc3));
  assert.deepEqual(tokenizer.tokenBytes(261), new Uint8Array());
  assert.deepEqual([BOS, 260, 261].map((id) => tokenizer.isSpecial(id)), [true, false, false]);
});

Deno.test("a token outside the byte alphabet decodes to its own text", () => {
  using tokenizer = open({}, (json) => {
    json.added_tokens.push(addedToken(261, "<｜x｜>"), addedToken(262, "øþ"));
  });
  assert.equal(tokenizer.decode([261]), "<｜x｜>");
  // Its characters are in the alphabet: it stands for the bytes 0xf8 0xfe, which are no UTF-8.
  assert.equal(tokenizer.decode([262]), "\ufffd\ufffd");
});

Deno.test("a freed tokenizer says so", () => {
  const tokenizer = open();
  tokenizer.free();
  tokenizer.free();
  const closed = { name: "BackendError", code: "closed" };
  assert.throws(() => tokenizer.encode("a"), closed);
  assert.throws(() => tokenizer.decode([1]), closed);
  assert.throws(() => tokenizer.idOf("a"), BackendError);
});

/** Work per byte of a text, by a tokenizer that has done nothing before. */
function workPerByte(tokenizer: Tokenizer, text: string) {
  const before = tokenizer.work;
  tokenizer.encode(text);
  const { merges, queueOperations } = tokenizer.work;
  const bytes = new TextEncoder().encode(text).length;
  return {
    merges: (merges - before.merges) / bytes,
    queueOperations: (queueOperations - before.queueOperations) / bytes,
  };
}

/** A text of random code points from a range, U+FFFD in the place of surrogates. */
function randomText(length: number, [first, last]: readonly [number, number]): string {
  let state = 1;
  return Array.from({ length }, () => {
    state = state * 48271 % 0x7fffffff;
    const c = first + state % (last - first + 1);
    return String.fromCodePoint(c >= 0xd800 && c < 0xe000 ? 0xfffd : c);
  }).join("");
}

for (const name of ["deepseek-llm", "deepseek-v3"] as const) {
  Deno.test(needsShared(`${name}: merging costs linear time on hostile text`), async () => {
    const tokenizer = await openTokenizer(name);
    const texts: [string, (bytes: number) => string][] = [
      ["one letter", (bytes) => "a".repeat(bytes)],
      ["one space", (bytes) => " ".repeat(bytes)],
      ["one ideograph", (bytes) => "的".repeat(bytes / 3)],
      ["random letters", (bytes) => randomText(bytes, [97, 122])],
      ["random bytes as code points", (bytes) => randomText(bytes, [0, 255])],
      ["random code points", (bytes) => randomText(bytes / 4, [0, 0x10ffff])],
    ];
    for (const [what, make] of texts) {
      const short = workPerByte(tokenizer, make(10_000));
      const long = workPerByte(tokenizer, make(1_000_000));
      const report = `${what}: ${JSON.stringify({ short, long })}`;
      assert.ok(long.merges <= 1, report);
      assert.ok(long.queueOperations <= 1.5 * short.queueOperations + 1, report);
    }
  });
}
