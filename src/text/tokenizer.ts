/**
 * Text to ids and back, exactly as Hugging Face `tokenizers` does it for the DeepSeek family.
 * @module
 */
import {
  BackendError,
  InvalidArgumentError,
  InvalidFileError,
  UnsupportedError,
} from "../errors.ts";
import type { ChatMessage } from "./chat_message.ts";
import { ChatTemplate, type RenderedDialogue } from "./chat_template.ts";
import { ControlTokens } from "./control_tokens.ts";
import {
  type NativeTokenizer,
  openNativeTokenizer,
  utf8,
  withinMemory,
} from "./native_tokenizer.ts";
import { readTokenizerConfig, type TokenizerConfig } from "./tokenizer_config.ts";

/** How a text becomes ids. */
export interface EncodeOptions {
  /** Whether BOS and EOS go around the ids, as the model's files say. Default true. */
  addSpecialTokens?: boolean;
  /**
   * Whether text equal to a special token becomes that token. Default true; pass false for text
   * that users wrote, which then can not forge one.
   */
  parseSpecialTokens?: boolean;
}

/** How ids become text. */
export interface DecodeOptions {
  /** Whether special tokens yield nothing. Default false. */
  skipSpecialTokens?: boolean;
}

/** How a dialogue becomes text. */
export interface ChatTemplateOptions {
  /** Whether to end with what makes the model answer. Default false. */
  addGenerationPrompt?: boolean;
  /** Whether to end within the last message, for the model to go on with it. Default false. */
  continueFinalMessage?: boolean;
  /** Functions that the model may call, as JSON schemas. */
  tools?: readonly unknown[];
  /** A template to use instead of the model's. */
  chatTemplate?: string;
  /** Further variables of the template, of `CHAT_TEMPLATE_VARIABLES` only. */
  variables?: { readonly [name: string]: unknown };
}

/** What merging has cost a tokenizer so far; grows at most linearly with the text. */
export interface TokenizerWork {
  /** Pairs of symbols that became one. */
  merges: number;
  /** Pairs looked at to find the next one to merge. */
  queueOperations: number;
}

/** The family's tokens around a gap: before the prefix, between prefix and suffix, behind the suffix. */
const FIM_TOKENS = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];
/** Templates kept compiled, beside the model's own. */
const MOST_TEMPLATES = 16;
/** An id that no tokenizer has: stands for all ids beyond 32 bits. */
const NO_TOKEN = 0xffff_ffff;

/**
 * A model's tokenizer.
 *
 * BOS is put in front exactly once: by the flags of tokenizer_config.json where it has any, else by
 * tokenizer.json's post-processor, and not where the text begins with it already, as a rendered chat
 * template does. The same holds for EOS at the end.
 *
 * @example
 * ```ts
 * import { Tokenizer } from "@hybridseek/hybridseek";
 * import { strict as assert } from "node:assert";
 * // A model's tokenizer.json looks like this one: a token per byte, here and one merge.
 * const bytes = Array.from({ length: 256 }, (_, byte) => byte);
 * const printable = bytes.filter((b) => (b > 32 && b < 127) || (b > 160 && b !== 173));
 * const others = bytes.filter((b) => !printable.includes(b)).map((_, index) => 256 + index);
 * const tokens = [...printable, ...others].map((c) => String.fromCharCode(c)).concat("hi");
 * const json = JSON.stringify({
 *   pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
 *   decoder: { type: "ByteLevel" },
 *   model: {
 *     type: "BPE",
 *     vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
 *     merges: [["h", "i"]],
 *   },
 * });
 * using tokenizer = Tokenizer.fromJson(json);
 * assert.deepEqual(tokenizer.encode("hi!"), [256, 0]);
 * assert.equal(tokenizer.decode([256, 0]), "hi!");
 * ```
 */
export class Tokenizer {
  /** Number of tokens, the added ones included; ids are below it. */
  readonly vocabSize: number;
  /** Text of the token that begins a document; `undefined` without a tokenizer_config.json. */
  readonly bosToken: string | undefined;
  /** Text of the token that ends a document; `undefined` without a tokenizer_config.json. */
  readonly eosToken: string | undefined;
  /** Id of {@linkcode bosToken}. */
  readonly bosTokenId: number | undefined;
  /** Id of {@linkcode eosToken}. */
  readonly eosTokenId: number | undefined;

  #native: NativeTokenizer | undefined;
  /** Ids to put around those of a text. */
  readonly #prefix: readonly number[];
  readonly #suffix: readonly number[];
  /** Sources of the model's templates, by name. */
  readonly #chatTemplates: ReadonlyMap<string, string>;
  readonly #controls: ControlTokens;
  /** Compiled templates by source. */
  readonly #compiled = new Map<string, ChatTemplate>();

  private constructor(native: NativeTokenizer, config: TokenizerConfig, json: string) {
    const settings = readTokenizerConfig(config);
    this.#native = native;
    this.vocabSize = native.vocabularySize;
    this.bosToken = settings.bosToken;
    this.eosToken = settings.eosToken;
    this.bosTokenId = this.#idOfConfigured("bos_token", settings.bosToken);
    this.eosTokenId = this.#idOfConfigured("eos_token", settings.eosToken);
    for (const [id, content] of settings.addedTokens) {
      if (this.tokenOf(id) !== content) {
        throw disagreeing(`it gives ${JSON.stringify(content)} id ${id}, the other does not`);
      }
    }
    const { added } = settings;
    this.#prefix = added ? idsWhere(added.bos, this.bosTokenId) : Array.from(native.prefix);
    this.#suffix = added ? idsWhere(added.eos, this.eosTokenId) : Array.from(native.suffix);
    this.#chatTemplates = settings.chatTemplates;
    this.#controls = new ControlTokens(json);
  }

  /**
   * Reads a model's tokenizer files.
   *
   * @param json The text of tokenizer.json: byte-level BPE with the pre-tokenizers of the DeepSeek
   *   generations.
   * @param config The parsed tokenizer_config.json; without it there is no BOS, EOS or template.
   * @returns The tokenizer; the caller owns its memory, see {@linkcode free}.
   * @throws {InvalidFileError} If a file is broken, or the two contradict each other.
   * @throws {UnsupportedError} If a field would change results and is not supported.
   * @throws {CapacityError} If the WebAssembly memory can not grow far enough.
   */
  static fromJson(json: string, config: TokenizerConfig = {}): Tokenizer {
    const native = openNativeTokenizer(json);
    try {
      return new Tokenizer(native, config, json);
    } catch (error) {
      native.free();
      throw error;
    }
  }

  /** The model's chat template, the one named `default` where there are several. */
  get chatTemplate(): string | undefined {
    return this.#chatTemplates.get("default");
  }

  /** What merging has cost so far. */
  get work(): TokenizerWork {
    const { merges, queueOperations } = this.#open("measure work");
    return { merges, queueOperations };
  }

  /**
   * Encodes a text.
   *
   * @param text Any string; a lone surrogate becomes U+FFFD.
   * @param options See {@linkcode EncodeOptions}.
   * @returns The ids, owned by the caller.
   * @throws {BackendError} If the tokenizer was freed.
   * @throws {CapacityError} If the WebAssembly memory can not grow far enough.
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const native = this.#open("encode text");
    const { addSpecialTokens = true, parseSpecialTokens = true } = options;
    const ids = withinMemory("encode text", () => native.encode(utf8(text), parseSpecialTokens));
    if (!addSpecialTokens) return joined([], ids, []);
    const [first, last] = [ids.at(0), ids.at(-1)];
    const prefix = this.#prefix.filter((id) => id !== first);
    const suffix = this.#suffix.filter((id) => id !== last);
    return joined(prefix, ids, suffix);
  }

  /**
   * Decodes ids.
   *
   * @param ids Ids in order; ids beyond the vocabulary yield nothing.
   * @param options See {@linkcode DecodeOptions}.
   * @returns The text; bytes that form no code point become U+FFFD.
   * @throws {InvalidArgumentError} If an id is negative or no integer.
   * @throws {BackendError} If the tokenizer was freed.
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.decodeBytes(ids, options));
  }

  /**
   * The bytes of ids, which need not form whole code points: what `decode` reads as UTF-8.
   *
   * @param ids Ids in order; ids beyond the vocabulary yield nothing.
   * @param options See {@linkcode DecodeOptions}.
   * @returns The bytes, owned by the caller.
   * @throws {InvalidArgumentError} If an id is negative or no integer.
   * @throws {BackendError} If the tokenizer was freed.
   */
  decodeBytes(ids: Iterable<number>, options: DecodeOptions = {}): Uint8Array {
    const native = this.#open("decode ids");
    const checked = Uint32Array.from(ids, checkedId);
    return withinMemory(
      "decode ids",
      () => native.bytes(checked, options.skipSpecialTokens ?? false),
    );
  }

  /**
   * Renders a dialogue with a chat template and encodes it. Tokens that steer the model (special ones,
   * and added ones in angle brackets) count where the template wrote them; in what the messages' writers
   * wrote they are text.
   *
   * @param messages The dialogue, in order.
   * @param options See {@linkcode ChatTemplateOptions}; with `tokenize: false` the text is returned.
   * @returns The ids; BOS only where the template wrote it.
   * @throws {InvalidArgumentError} If there is no template, a message is malformed, or the template
   *   refuses the messages.
   * @throws {InvalidFileError} If the model's template can not be compiled.
   */
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options?: ChatTemplateOptions & { tokenize?: true },
  ): number[];
  /**
   * Renders a dialogue with a chat template.
   *
   * @param messages The dialogue, in order.
   * @param options See {@linkcode ChatTemplateOptions}.
   * @returns The text, special tokens as the template wrote them.
   * @throws {InvalidArgumentError} If there is no template, a message is malformed, or the template
   *   refuses the messages.
   * @throws {InvalidFileError} If the model's template can not be compiled.
   */
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions & { tokenize: false },
  ): string;
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions & { tokenize?: boolean } = {},
  ): number[] | string {
    const { chatTemplate, tokenize = true, ...rest } = options;
    const template = this.#template(chatTemplate, rest.tools !== undefined);
    const input = { ...rest, bosToken: this.bosToken ?? "", eosToken: this.eosToken ?? "" };
    if (!tokenize) return template.render(messages, input);
    return this.#encodeDialogue(template.renderMasked(messages, input, this.#controls.edges));
  }

  /**
   * Encodes the surroundings of a gap, for a model that was trained to fill one in.
   *
   * @param prefix Text before the gap.
   * @param suffix Text behind it.
   * @returns The ids, BOS first where the model's files say so: prefix, gap and suffix between the model's
   *   tokens for them. Tokens that steer the model are text in both.
   * @throws {UnsupportedError} If the model has no such tokens.
   */
  encodeFim(prefix: string, suffix: string): number[] {
    const [begin, hole, end] = FIM_TOKENS.map((token) => {
      const id = this.idOf(token);
      if (id !== undefined) return id;
      throw new UnsupportedError(
        `Cannot fill in a gap: the model has no token ${token}, so it was not trained to; give a prompt.`,
      );
    }) as [number, number, number];
    const [before, behind] = [prefix, suffix].map((text) => this.#encodeWritten(text));
    return [...this.#prefix, begin].concat(before!, hole, behind!, end);
  }

  #encodeDialogue({ text, masked, written }: RenderedDialogue): number[] {
    if (written.length === 0) return this.encode(text, { addSpecialTokens: false });
    // Where it can not be told who wrote a character, a token that somebody wrote counts nowhere.
    const own = this.#controls.find(
      text,
      ({ begin, end, token }) =>
        masked !== undefined
          ? masked[begin] === text[begin] && masked[end - 1] === text[end - 1]
          : written.every((string) => !string.includes(token)),
    );
    let ids: number[] = [];
    let from = 0;
    for (const { begin, end, token } of own) {
      ids = ids.concat(this.#encodeWritten(text.slice(from, begin)), this.idOf(token)!);
      from = end;
    }
    return ids.concat(this.#encodeWritten(text.slice(from)));
  }

  /** Encodes text in which no token steers the model. */
  #encodeWritten(text: string): number[] {
    const options = { addSpecialTokens: false, parseSpecialTokens: false };
    return this.#controls.cut(text).flatMap((piece) => this.encode(piece, options));
  }

  /**
   * The id of a token.
   *
   * @param token Its text as written in tokenizer.json, where a space is `Ġ`.
   * @returns The id, or `undefined` if there is no such token.
   */
  idOf(token: string): number | undefined {
    return this.#open("look up a token").idOf(token);
  }

  /**
   * The token of an id.
   *
   * @param id Any id.
   * @returns Its text as written in tokenizer.json, or `undefined` beyond the vocabulary.
   * @throws {InvalidArgumentError} If the id is negative or no integer.
   */
  tokenOf(id: number): string | undefined {
    return this.#open("look up an id").token(checkedId(id));
  }

  /**
   * The bytes that an id stands for, which need not form whole code points.
   *
   * @param id Any id.
   * @returns The bytes, owned by the caller; empty beyond the vocabulary.
   * @throws {InvalidArgumentError} If the id is negative or no integer.
   */
  tokenBytes(id: number): Uint8Array {
    return this.decodeBytes([id]);
  }

  /**
   * The tokens that steer a model: special ones, and added ones in angle brackets.
   *
   * @returns Their ids, owned by the caller.
   */
  controlIds(): Set<number> {
    return new Set(this.#controls.contents.map((token) => this.idOf(token)!));
  }

  /**
   * Whether an id is a special token, which `skipSpecialTokens` leaves out.
   *
   * @param id Any id.
   * @returns False beyond the vocabulary.
   * @throws {InvalidArgumentError} If the id is negative or no integer.
   */
  isSpecial(id: number): boolean {
    return this.#open("look up an id").isSpecial(checkedId(id));
  }

  /** Gives the memory back; every later call but this throws. */
  free(): void {
    this.#native?.free();
    this.#native = undefined;
  }

  /** The same as {@linkcode free}, for `using`. */
  [Symbol.dispose](): void {
    this.free();
  }

  #open(action: string): NativeTokenizer {
    if (this.#native) return this.#native;
    throw new BackendError("closed", `Cannot ${action}: the tokenizer was freed, load it again.`);
  }

  #idOfConfigured(field: string, token: string | undefined): number | undefined {
    if (token === undefined) return undefined;
    const id = this.idOf(token);
    if (id === undefined) {
      throw disagreeing(`its ${field} ${JSON.stringify(token)} is no token of the other`);
    }
    return id;
  }

  #template(source: string | undefined, withTools: boolean): ChatTemplate {
    const own = (withTools ? this.#chatTemplates.get("tool_use") : undefined) ?? this.chatTemplate;
    const text = source ?? own;
    if (text === undefined) {
      throw new InvalidArgumentError(
        "chatTemplate",
        "Cannot render chat template: the model has none, pass `chatTemplate`.",
      );
    }
    let template = this.#compiled.get(text);
    if (!template) {
      template = new ChatTemplate(text, source === undefined ? "tokenizer_config.json" : undefined);
      if (this.#compiled.size >= MOST_TEMPLATES) this.#compiled.clear();
      this.#compiled.set(text, template);
    }
    return template;
  }
}

function disagreeing(what: string): InvalidFileError {
  return new InvalidFileError(
    "tokenizer_config.json",
    `Cannot use tokenizer_config.json with this tokenizer.json: ${what}; take both from one model.`,
  );
}

function idsWhere(wanted: boolean, id: number | undefined): number[] {
  return wanted && id !== undefined ? [id] : [];
}

/** One array of three; by index, as iterating typed arrays would take longer than encoding. */
function joined(prefix: readonly number[], ids: Uint32Array, suffix: readonly number[]): number[] {
  const all = new Array<number>(prefix.length + ids.length + suffix.length);
  let at = 0;
  for (const id of prefix) all[at++] = id;
  for (let i = 0; i < ids.length; i++) all[at++] = ids[i]!;
  for (const id of suffix) all[at++] = id;
  return all;
}

function checkedId(id: number): number {
  if (!Number.isInteger(id) || id < 0) {
    throw new InvalidArgumentError(
      "ids",
      `Cannot decode ids: ${id} is no id, ids are integers from 0.`,
    );
  }
  return Math.min(id, NO_TOKEN);
}
