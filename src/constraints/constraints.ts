/**
 * The constraints of a model's requests: one for all that ask for the same, kept for a while.
 * @module
 */
import { nextTask } from "../next_task.ts";
import { OverloadError, UnsupportedError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import {
  Constraint,
  type ConstraintSource,
  loadVocabulary,
  type Matcher,
  type VocabularyImage,
} from "./constraint_module.ts";

/** Different constraints in use at a time: each takes 29 to 64 MiB with a vocabulary of 100,000 tokens. */
const MOST = 32;
/** How many are kept when nobody uses them. */
const MOST_IDLE = 4;

/** Tokens that are read in a task. */
const TOKENS_TOGETHER = 8192;

interface Entry {
  readonly compiled: Promise<Constraint>;
  users: number;
}

/** A constraint that a request uses. */
export interface HeldConstraint {
  /** Begins a text. @returns Where it stands. @throws {InvalidArgumentError} If there is no memory left. */
  begin(): Matcher;
  /** Ends all texts. To be called once, when the request has ended. */
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
   * Gives out a constraint.
   *
   * @param source Which.
   * @returns It.
   * @throws {InvalidArgumentError} If it is malformed, asks for what can not be kept to, or is over a limit.
   * @throws {OverloadError} If too many different ones are in use.
   * @throws {UnsupportedError} If the model has no token that ends a text.
   */
  async hold(source: ConstraintSource): Promise<HeldConstraint> {
    const key = `${source.kind} ${source.text}`;
    const entry = this.#entries.get(key) ?? this.#add(key, source);
    this.#entries.delete(key);
    this.#entries.set(key, entry); // used last
    entry.users++;
    const forget = () => {
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
    };
    try {
      const constraint = await entry.compiled;
      const matchers: Matcher[] = [];
      const begin = () => {
        const matcher = constraint.begin();
        matchers.push(matcher);
        return matcher;
      };
      const release = () => {
        for (const matcher of matchers) matcher.end();
        entry.users--;
        if (constraint.broken) forget();
        for (const [idle] of this.#idle().slice(0, -MOST_IDLE)) this.#entries.delete(idle);
      };
      return { begin, release };
    } catch (error) {
      entry.users--;
      forget();
      throw error;
    }
  }

  #add(key: string, source: ConstraintSource): Entry {
    if (this.#entries.size - this.#idle().length >= MOST) {
      throw new OverloadError(
        "queue_full",
        `Cannot use structuredOutputs: ${MOST} different ones are in use; try again later.`,
      );
    }
    const entry = { compiled: this.#compile(source), users: 0 };
    this.#entries.set(key, entry);
    return entry;
  }

  /** Those that nobody uses, the one used longest ago first. */
  #idle(): [key: string, entry: Entry][] {
    return [...this.#entries].filter(([, { users }]) => users === 0);
  }

  async #compile(source: ConstraintSource): Promise<Constraint> {
    this.#image ??= this.#loadVocabulary();
    return await Constraint.compile(await this.#image, source);
  }

  async #loadVocabulary(): Promise<VocabularyImage> {
    if (this.#ends.length === 0) {
      throw new UnsupportedError(
        "Cannot constrain output: the model names no token that ends a text (eos_token_id in " +
          "generation_config.json); add it to the checkpoint and export again.",
      );
    }
    const controls = this.#tokenizer.controlIds(); // never text, whatever their bytes
    const tokens: Uint8Array[] = [];
    for (let id = 0; id < this.#vocabSize; id++) {
      if (id % TOKENS_TOGETHER === 0) await nextTask(); // requests run meanwhile
      tokens.push(controls.has(id) ? new Uint8Array() : this.#tokenizer.tokenBytes(id));
    }
    return await loadVocabulary(tokens, this.#ends);
  }
}
