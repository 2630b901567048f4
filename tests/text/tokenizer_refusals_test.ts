/**
 * Each refusal of tokenizer.json and tokenizer_config.json, with the smallest file that meets it.
 */
import { strict as assert } from "node:assert";
import { InvalidFileError, UnsupportedError } from "../../src/errors.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import type { TokenizerConfig } from "../../src/text/tokenizer_config.ts";
import { addedToken, byteCharacters, type Json, tinyTokenizer } from "./tiny_tokenizer.ts";

/** What a test does to the tiny tokenizer.json. */
type Change = (json: Json) => void;

/** The stages of the pre-tokenizer, the closing ByteLevel included. */
const stages = (json: Json) => json.pre_tokenizer.pretokenizers;

function refuses(
  kind: typeof InvalidFileError | typeof UnsupportedError,
  cases: readonly (readonly [string, RegExp, Change])[],
) {
  for (const [what, message, change] of cases) {
    Deno.test(`fromJson() refuses ${what}`, () => {
      const json = tinyTokenizer();
      Tokenizer.fromJson(JSON.stringify(json)).free();
      change(json);
      assert.throws(() => Tokenizer.fromJson(JSON.stringify(json)), (error: Error) => {
        assert.ok(error instanceof kind, String(error));
        assert.match(error.message, message);
        return true;
      });
    });
  }
}

refuses(UnsupportedError, [
  ["truncation", /`truncation` is \{.*, supported is null/, (json) => {
    json.truncation = { max_length: 512, strategy: "LongestFirst", stride: 0, direction: "Right" };
  }],
  ["padding", /`padding` is/, (json) => {
    json.padding = { strategy: "BatchLongest" };
  }],
  ["a normalizer", /`normalizer` is \{"type":"NFC"\}/, (json) => {
    json.normalizer = { type: "NFC" };
  }],
  ["a sequence of normalizers", /`normalizer` is/, (json) => {
    json.normalizer = { type: "Sequence", normalizers: [{ type: "Lowercase" }] };
  }],
  ["no pre-tokenizer", /`pre_tokenizer` is null/, (json) => {
    json.pre_tokenizer = null;
  }],
  ["an unknown pre-tokenizer", /`pre_tokenizer` is .*Metaspace/, (json) => {
    json.pre_tokenizer = { type: "Metaspace" };
  }],
  ["an unknown pre-tokenizer in a sequence", /`pre_tokenizer.pretokenizers\[0\]` is/, (json) => {
    stages(json)[0] = { type: "Whitespace" };
  }],
  ["an empty sequence of pre-tokenizers", /`pre_tokenizer` is an empty Sequence/, (json) => {
    json.pre_tokenizer.pretokenizers = [];
  }],
  ["a sequence without ByteLevel", /`pre_tokenizer.pretokenizers\[0\]` is/, (json) => {
    stages(json).pop();
  }],
  ["ByteLevel before another split", /`pre_tokenizer.pretokenizers\[1\]` is/, (json) => {
    stages(json).reverse();
  }],
  ["ByteLevel with a prefix space", /add_prefix_space and use_regex false/, (json) => {
    stages(json)[1].add_prefix_space = true;
  }],
  ["ByteLevel with its own regex", /add_prefix_space and use_regex false/, (json) => {
    stages(json)[1].use_regex = true;
  }],
  ["ByteLevel whose use_regex is left to its default", /use_regex false/, (json) => {
    delete stages(json)[1].use_regex;
  }],
  ["a split with another behaviour", /`pre_tokenizer.pretokenizers\[0\]` is/, (json) => {
    stages(json)[0].behavior = "Removed";
  }],
  ["an inverted split", /`pre_tokenizer.pretokenizers\[0\]` is/, (json) => {
    stages(json)[0].invert = true;
  }],
  ["a split at a string", /`pre_tokenizer.pretokenizers\[0\].pattern.Regex` is/, (json) => {
    stages(json)[0].pattern = { String: "a" };
  }],
  ["an unknown regex, by its text", /pattern.Regex` is \[\^\\s\]\+,/, (json) => {
    stages(json)[0].pattern.Regex = "[^\\s]+";
  }],
  ["very many splits", /`pre_tokenizer` is a Sequence of 10001, .* up to 64 splits/, (json) => {
    const split = stages(json)[0];
    stages(json).unshift(...Array.from({ length: 9_999 }, () => split));
  }],
  ["very many post-processors", /`post_processor` is a Sequence of 10000/, (json) => {
    const processors = Array.from({ length: 10_000 }, () => ({ type: "ByteLevel" }));
    json.post_processor = { type: "Sequence", processors };
  }],
  ["digits that are not individual", /`pre_tokenizer.pretokenizers\[0\]` is/, (json) => {
    stages(json)[0] = { type: "Digits", individual_digits: false };
  }],
  ["another post-processor", /`post_processor` is .*BertProcessing/, (json) => {
    json.post_processor = { type: "BertProcessing", sep: ["</s>", 1], cls: ["<s>", 0] };
  }],
  ["another post-processor in a sequence", /`post_processor.processors\[1\]` is/, (json) => {
    const processors = [{ type: "ByteLevel" }, { type: "RobertaProcessing" }];
    json.post_processor = { type: "Sequence", processors };
  }],
  ["a template without the text", /`post_processor.single` is/, (json) => {
    json.post_processor = { type: "TemplateProcessing", single: [], special_tokens: {} };
  }],
  ["a template with the text twice", /`post_processor.single` is/, (json) => {
    const text = { Sequence: { id: "A", type_id: 0 } };
    json.post_processor = { type: "TemplateProcessing", single: [text, text], special_tokens: {} };
  }],
  ["no decoder", /`decoder` is null/, (json) => {
    json.decoder = null;
  }],
  ["another decoder", /`decoder` is \{"type":"Metaspace"\}/, (json) => {
    json.decoder = { type: "Metaspace" };
  }],
  ["another kind of model", /`model.type` is "Unigram"/, (json) => {
    json.model.type = "Unigram";
  }],
  ["dropout", /`model.dropout` is 0.1/, (json) => {
    json.model.dropout = 0.1;
  }],
  ["byte fallback", /`model.byte_fallback` is true/, (json) => {
    json.model.byte_fallback = true;
  }],
  ["a prefix for continuing subwords", /`model.continuing_subword_prefix` is "##"/, (json) => {
    json.model.continuing_subword_prefix = "##";
  }],
  ["a suffix at the end of words", /`model.end_of_word_suffix` is "<\/w>"/, (json) => {
    json.model.end_of_word_suffix = "</w>";
  }],
]);

refuses(InvalidFileError, [
  ["a model without a vocabulary", /missing field `vocab`/, (json) => {
    delete json.model.vocab;
  }],
  ["a model without merges", /missing field `merges`/, (json) => {
    delete json.model.merges;
  }],
  ["a file without a model", /missing field `model`/, (json) => {
    delete json.model;
  }],
  ["a negative id", /invalid value: integer `-1`, expected u32/, (json) => {
    json.model.vocab.ab = -1;
  }],
  ["an id that is no integer", /invalid type: floating point `1.5`, expected u32/, (json) => {
    json.model.vocab.ab = 1.5;
  }],
  ["an id out of range", /258 tokens gives "ab" id 4294967295, which is out of range/, (json) => {
    json.model.vocab.ab = 4294967295;
  }],
  ["an id given twice", /gives id 257 to both "(abab|ab)" and "(ab|abab)"/, (json) => {
    json.model.vocab.ab = 257;
  }],
  ["a vocabulary without a byte", /no token "Ā" for byte 0x00/, (json) => {
    json.model.vocab.zz = json.model.vocab[byteCharacters[0]!];
    delete json.model.vocab[byteCharacters[0]!];
  }],
  ["a merge of an unknown token", /merge 1 \("ab", "yz"\) needs "yz"/, (json) => {
    json.model.merges[1] = "ab yz";
  }],
  ["a merge into an unknown token", /merge 0 \("b", "a"\) needs "ba"/, (json) => {
    json.model.merges[0] = ["b", "a"];
  }],
  ["a merge without a space", /merge "ab" is not two tokens/, (json) => {
    json.model.merges[0] = "ab";
  }],
  ["a merge with two spaces", /merge "a b c" is not two tokens/, (json) => {
    json.model.merges[0] = "a b c";
  }],
  ["a merge of three tokens", /invalid length 3, expected a merge/, (json) => {
    json.model.merges[0] = ["a", "b", "c"];
  }],
  ["a merge of one token", /invalid length 1, expected a merge/, (json) => {
    json.model.merges[0] = ["a"];
  }],
  ["a merge that is a number", /invalid type: integer `7`, expected a merge/, (json) => {
    json.model.merges[0] = 7;
  }],
  ["an added token whose id another has", /"<y>" has id 258, but its place .* is 261/, (json) => {
    json.added_tokens.push(addedToken(258, "<y>"));
  }],
  ["an added token beyond the next id", /"<y>" has id 9999, but its place .* is 261/, (json) => {
    json.added_tokens.push(addedToken(9999, "<y>"));
  }],
  ["an added token whose text has another id", /"ab" has id 261, but .* is 256/, (json) => {
    json.added_tokens.push(addedToken(261, "ab"));
  }],
  ["an added token listed twice with other ids", /"<x>" has id 261, but .* is 260/, (json) => {
    json.added_tokens.push(addedToken(261, "<x>"));
  }],
  ["an added token without text", /added token "" is 0 bytes long/, (json) => {
    json.added_tokens.push(addedToken(261, ""));
  }],
  ["an added token of great length", /is 1025 bytes long, not 1 to 1024/, (json) => {
    json.added_tokens.push(addedToken(261, "a".repeat(1025)));
  }],
  ["an added token that lacks a flag", /missing field `lstrip`/, (json) => {
    delete json.added_tokens[0].lstrip;
  }],
  ["a template that is no list", /`post_processor.single` is no list/, (json) => {
    json.post_processor = { type: "TemplateProcessing", single: "$A" };
  }],
  ["a template with a token it does not define", /has "<s>", for which special_tokens/, (json) => {
    const single = [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A" } }];
    json.post_processor = { type: "TemplateProcessing", single, special_tokens: {} };
  }],
  ["a template with an id that no token has", /post_processor adds id 999/, (json) => {
    const single = [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A" } }];
    const special_tokens = { "<s>": { id: "<s>", ids: [999], tokens: ["<s>"] } };
    json.post_processor = { type: "TemplateProcessing", single, special_tokens };
  }],
]);

Deno.test("fromJson() refuses text that is no JSON and says where it breaks", () => {
  const whole = JSON.stringify(tinyTokenizer());
  const broken = ["", "null", "[]", "7", "{}", "\ufeff" + whole, whole.slice(0, -1), whole + "}"];
  for (const text of broken) {
    assert.throws(
      () => Tokenizer.fromJson(text),
      {
        name: "InvalidFileError",
        message: /^Cannot read tokenizer.json: .+ at line 1 column \d+; get the file anew .+\.$/,
      },
      text.slice(0, 40),
    );
  }
});

Deno.test("fromJson() refuses every truncation of a file without a trap", () => {
  const whole = JSON.stringify(tinyTokenizer());
  for (let length = 0; length < whole.length; length += 7) {
    assert.throws(() => Tokenizer.fromJson(whole.slice(0, length)), InvalidFileError);
  }
});

Deno.test("fromJson() refuses a token that is listed twice", () => {
  const whole = JSON.stringify(tinyTokenizer());
  const twice = whole.replace('"abab":257', '"abab":257,"ab":258');
  assert.notEqual(twice, whole);
  assert.throws(() => Tokenizer.fromJson(twice), { message: /lists "ab" twice, as 256 and 258/ });
});

Deno.test("fromJson() refuses nesting that would exhaust the stack", () => {
  const deep = `{"normalizer":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
  assert.throws(() => Tokenizer.fromJson(deep), { message: /recursion limit exceeded/ });
});

Deno.test("fromJson() reads a class of very many overlapping ranges without delay", () => {
  const json = tinyTokenizer();
  stages(json)[0].pattern.Regex = `[${"\u0001-\u{10ffff}".repeat(100_000)}]`;
  using tokenizer = Tokenizer.fromJson(JSON.stringify(json));
  assert.deepEqual(tokenizer.encode("ab"), [97, 98]);
});

Deno.test("fromJson() shows no more of a file than fits a message", () => {
  const json = tinyTokenizer();
  json.model.merges[0] = "a".repeat(1_000_000);
  assert.throws(() => Tokenizer.fromJson(JSON.stringify(json)), (error: Error) => {
    assert.ok(error.message.length < 500);
    return true;
  });
});

Deno.test("fromJson() takes or refuses files with one character changed, and never traps", () => {
  const whole = JSON.stringify(tinyTokenizer());
  const odd = ['"', "{", "]", ",", "0", "\\", "-", "é", "\u0000", "9"];
  let state = 1;
  for (let round = 0; round < 3000; round++) {
    state = state * 48271 % 0x7fffffff;
    const at = state % whole.length;
    const text = whole.slice(0, at) + odd[state % odd.length] + whole.slice(at + 1);
    try {
      Tokenizer.fromJson(text).free();
    } catch (error) {
      assert.ok(
        error instanceof InvalidFileError || error instanceof UnsupportedError,
        String(error),
      );
    }
  }
});

Deno.test("fromJson() refuses a tokenizer_config.json that is malformed or of another model", () => {
  const json = JSON.stringify(tinyTokenizer());
  const cases: [unknown, RegExp][] = [
    [null, /it is no JSON object/],
    [[], /it is no JSON object/],
    ["<bos>", /it is no JSON object/],
    [{ bos_token: 7 }, /`bos_token` is neither a string nor/],
    [{ bos_token: { content: 7 } }, /`bos_token` is neither a string nor/],
    [{ bos_token: "<bos>" }, /its bos_token "<bos>" is no token of the other/],
    [{ add_bos_token: true }, /`add_bos_token` is true, but the file names no `bos_token`/],
    [{ add_eos_token: "yes" }, /`add_eos_token` is neither true nor false/],
    [{ chat_template: 7 }, /`chat_template` is neither a string nor a list/],
    [{ chat_template: ["x"] }, /`chat_template` is a list with an entry that is no object/],
    [{ chat_template: [{ name: "x" }] }, /lacks `name` or `template`/],
    [{ added_tokens_decoder: [] }, /`added_tokens_decoder` is no object/],
    [{ added_tokens_decoder: { x: { content: "<s>" } } }, /no map from ids to tokens \(entry x\)/],
    [{ added_tokens_decoder: { 259: { content: "<s>" } } }, /it gives "<s>" id 259, the other/],
  ];
  for (const [config, message] of cases) {
    const expected = { name: "InvalidFileError", file: "tokenizer_config.json", message };
    assert.throws(() => Tokenizer.fromJson(json, config as TokenizerConfig), expected);
  }
  const config = { clean_up_tokenization_spaces: true };
  assert.throws(() => Tokenizer.fromJson(json, config), UnsupportedError);
});
