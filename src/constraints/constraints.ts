/**
 * The constraints of a model's requests: one for all that ask for the same, kept for a while.
 * @module
 */
import { OverloadError, UnsupportedError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import {
  Constraint,
  loadVocabulary,
  type Matcher,
  type VocabularyImage,
} from "./constraint_module.ts";
import type { ResolvedStructuredOutputs } from "./structured_outputs.ts";

/** Constraints at a time, in use or kept: each takes 10 to 64 MiB with a vocabulary of 100,000 tokens. */
const MOST = 32;

interface Entry {
  readonly compiled: Promise<Constraint>;
  users: number;
}

/** Where a request's texts stand under its constraint. */
export interface ConstrainedTexts {
  /** One for each choice. */
  readonly matchers: readonly Matcher[];
  /** To be called once, when the request has ended. */
  release(): void;
}

/** The constraints of a model. */
export class Constraints {
  readonly #tokenizer: Tokenizer;
  readonly #vocabSize: number;
  readonly #ends: readonly number[];
  #image: Promise<VocabularyImage> | undefined;
  /** The one used longest ago first. */
  readonly #entries = new Map<string, Entry>();

  /**
   * @param tokenizer The model's; read when the first constraint comes.
   * @param vocabSize Columns of the logits.
   * @param eosTokenIds Tokens that end a text.
   */
  constructor(tokenizer: Tokenizer, vocabSize: number, eosTokenIds: readonly number[]) {
    this.#tokenizer = tokenizer;
    this.#vocabSize = vocabSize;
    this.#ends = eosTokenIds.filter((id) => id < vocabSize);
  }

  /**
   * Begins texts under a constraint.
   *
   * @param outputs The constraint.
   * @param count How many texts.
   * @returns Where they stand.
   * @throws {InvalidArgumentError} If it is malformed, asks for what can not be kept to, or is over a limit.
   * @throws {OverloadError} If too many different ones are in use.
   * @throws {UnsupportedError} If the model has no token that ends a text.
   */
  async begin(outputs: ResolvedStructuredOutputs, count: number): Promise<ConstrainedTexts> {
    const key = `${outputs.kind} ${outputs.text}`;
    const entry = this.#entries.get(key) ?? this.#add(key, outputs);
    this.#entries.delete(key);
    this.#entries.set(key, entry); // used last
    entry.users++;
    const forget = () => {
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
    };
    try {
      const constraint = await entry.compiled;
      const matchers = Array.from({ length: count }, () => constraint.begin());
      const release = () => {
        for (const matcher of matchers) matcher.end();
        entry.users--;
        if (constraint.broken) forget();
      };
      return { matchers, release };
    } catch (error) {
      entry.users--;
      forget();
      throw error;
    }
  }

  #add(key: string, outputs: ResolvedStructuredOutputs): Entry {
    if (this.#entries.size >= MOST) {
      const idle = [...this.#entries].find(([, { users }]) => users === 0);
      if (!idle) {
        throw new OverloadError(
          "queue_full",
          `Cannot use structuredOutputs: ${MOST} different ones are in use; try again later.`,
        );
      }
      this.#entries.delete(idle[0]);
    }
    const entry = { compiled: this.#compile(outputs), users: 0 };
    this.#entries.set(key, entry);
    return entry;
  }

  async #compile(outputs: ResolvedStructuredOutputs): Promise<Constraint> {
    this.#image ??= this.#loadVocabulary();
    return await Constraint.compile(await this.#image, outputs);
  }

  async #loadVocabulary(): Promise<VocabularyImage> {
    if (this.#ends.length === 0) {
      throw new UnsupportedError(
        "Cannot constrain output: the model names no token that ends a text (eos_token_id in " +
          "generation_config.json); add it to the checkpoint and export again.",
      );
    }
    const controls = this.#tokenizer.controlIds(); // never text, whatever their bytes
    const tokens = Array.from(
      { length: this.#vocabSize },
      (_, id) => controls.has(id) ? new Uint8Array() : this.#tokenizer.tokenBytes(id),
    );
    return await loadVocabulary(tokens, this.#ends);
  }
}
