/**
 * tokenizer_config.json: which special tokens there are, when they are added, and the chat template.
 * @module
 */
import { InvalidFileError, UnsupportedError } from "../errors.ts";

/** The parsed tokenizer_config.json; of any shape, fields are checked when read. */
export type TokenizerConfig = { readonly [field: string]: unknown };

/** What this library takes from a tokenizer_config.json. */
export interface TokenizerSettings {
  /** Text of the token that begins a document. */
  bosToken: string | undefined;
  /** Text of the token that ends a document. */
  eosToken: string | undefined;
  /**
   * Whether these two are put around every text; `undefined` where the file names neither
   * `add_bos_token` nor `add_eos_token` and so leaves it to tokenizer.json's post-processor.
   */
  added: { bos: boolean; eos: boolean } | undefined;
  /** Chat templates by name; a lone one is named `default`. */
  chatTemplates: ReadonlyMap<string, string>;
  /** Tokens by id that the file expects in tokenizer.json. */
  addedTokens: ReadonlyMap<number, string>;
}

const FILE = "tokenizer_config.json";

/**
 * Reads the fields that change what a tokenizer does.
 *
 * @param config The parsed tokenizer_config.json.
 * @returns The fields, checked.
 * @throws {InvalidFileError} If a field is of the wrong type.
 * @throws {UnsupportedError} If the file asks for spaces to be cleaned up when decoding.
 */
export function readTokenizerConfig(config: TokenizerConfig): TokenizerSettings {
  if (!isObject(config)) {
    throw new InvalidFileError(
      FILE,
      `Cannot read ${FILE}: it is no JSON object; get the file anew.`,
    );
  }
  if (config.clean_up_tokenization_spaces === true) {
    throw new UnsupportedError(
      `Cannot reproduce ${FILE}: \`clean_up_tokenization_spaces\` is true, but decoding here ` +
        "returns the text as it was; set it to false.",
    );
  }
  const bosToken = readToken(config, "bos_token");
  const eosToken = readToken(config, "eos_token");
  const bos = readFlag(config, "add_bos_token");
  const eos = readFlag(config, "add_eos_token");
  for (const [flag, field, token] of [[bos, "bos", bosToken], [eos, "eos", eosToken]] as const) {
    if (flag && token === undefined) {
      throw invalid(`add_${field}_token`, `true, but the file names no \`${field}_token\``);
    }
  }
  return {
    bosToken,
    eosToken,
    added: bos === undefined && eos === undefined
      ? undefined
      : { bos: bos ?? false, eos: eos ?? false },
    chatTemplates: readChatTemplates(config.chat_template),
    addedTokens: readAddedTokens(config.added_tokens_decoder),
  };
}

function invalid(field: string, what: string): InvalidFileError {
  return new InvalidFileError(
    FILE,
    `Cannot read ${FILE}: \`${field}\` is ${what}; correct the field, or get the file anew.`,
  );
}

function isObject(value: unknown): value is { [field: string]: unknown } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A token is a string or an object with `content`; null and absent mean none. */
function readToken(config: TokenizerConfig, field: string): string | undefined {
  const value = config[field];
  if (value === undefined || value === null) return undefined;
  const content = isObject(value) ? value.content : value;
  if (typeof content !== "string") {
    throw invalid(field, "neither a string nor an object with `content`");
  }
  return content;
}

function readFlag(config: TokenizerConfig, field: string): boolean | undefined {
  const value = config[field];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "boolean") throw invalid(field, "neither true nor false");
  return value;
}

/** A template, or a list of `{ name, template }`. */
function readChatTemplates(value: unknown): Map<string, string> {
  if (value === undefined || value === null) return new Map();
  if (typeof value === "string") return new Map([["default", value]]);
  if (!Array.isArray(value)) {
    throw invalid("chat_template", "neither a string nor a list of templates");
  }
  return new Map(value.map((entry: unknown) => {
    if (!isObject(entry)) throw invalid("chat_template", "a list with an entry that is no object");
    const { name, template } = entry;
    if (typeof name !== "string" || typeof template !== "string") {
      throw invalid("chat_template", "a list with an entry that lacks `name` or `template`");
    }
    return [name, template];
  }));
}

function readAddedTokens(value: unknown): Map<number, string> {
  const tokens = new Map<number, string>();
  if (value === undefined || value === null) return tokens;
  if (!isObject(value)) throw invalid("added_tokens_decoder", "no object");
  for (const [id, token] of Object.entries(value)) {
    if (!/^\d{1,10}$/.test(id) || !isObject(token) || typeof token.content !== "string") {
      throw invalid("added_tokens_decoder", `no map from ids to tokens (entry ${id.slice(0, 40)})`);
    }
    tokens.set(Number(id), token.content);
  }
  return tokens;
}
