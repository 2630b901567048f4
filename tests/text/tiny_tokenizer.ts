/**
 * The smallest tokenizer.json that is accepted, for tests to break or extend field by field.
 * @module
 */

/** A JSON value whose fields tests may change. */
// deno-lint-ignore no-explicit-any
export type Json = any;

/** GPT-2's alphabet: the character of each byte. */
export const byteCharacters: readonly string[] = (() => {
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const printable = (b: number) => (b > 32 && b < 127) || (b > 160 && b !== 173);
  let next = 256;
  return bytes.map((b) => String.fromCharCode(printable(b) ? b : next++));
})();

/**
 * A parsed tokenizer.json: ids 0 to 255 are the bytes, 256 is "ab" and 257 is "abab"; added are 258
 * `<s>`, 259 `</s>` (special) and 260 `<x>` (not special).
 */
export function tinyTokenizer(): Json {
  const tokens = [...byteCharacters, "ab", "abab"];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [addedToken(258, "<s>"), addedToken(259, "</s>"), {
      ...addedToken(260, "<x>"),
      special: false,
    }],
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: "[\n]" }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: ["a b", "ab ab"],
    },
  };
}

/** An entry of `added_tokens`: special, not normalized. */
export function addedToken(id: number, content: string): Json {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  };
}
