/**
 * Ids to text while they are being generated.
 * @module
 */
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Turns ids into text as they come, whole code points only: a character whose bytes are spread over
 * several tokens appears with the last of them. All pieces together equal `decode` of all ids.
 *
 * @example
 * ```ts
 * import { Detokenizer } from "@hybridseek/hybridseek";
 * import { strict as assert } from "node:assert";
 * const byteTokens = { decodeBytes: (ids: Iterable<number>) => Uint8Array.from(ids) };
 * const detokenizer = new Detokenizer(byteTokens);
 * assert.equal(detokenizer.push([0xc3]), "");
 * assert.equal(detokenizer.push([0xa9]), "é");
 * ```
 */
export class Detokenizer {
  readonly #tokenizer: Pick<Tokenizer, "decodeBytes">;
  readonly #skipSpecialTokens: boolean;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  /**
   * Begins a text.
   *
   * @param tokenizer Gives the bytes of ids; it must not be freed before this is done with.
   * @param options `skipSpecialTokens`: whether special tokens yield no text. Default false.
   */
  constructor(
    tokenizer: Pick<Tokenizer, "decodeBytes">,
    options: { skipSpecialTokens?: boolean } = {},
  ) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = options.skipSpecialTokens ?? false;
  }

  /**
   * Takes the next ids.
   *
   * @param ids Ids in order; ids without a token yield no text.
   * @returns The text that is complete by now and was not returned before; may be empty.
   * @throws {InvalidArgumentError} If an id is negative or no integer.
   */
  push(ids: Iterable<number>): string {
    const bytes = this.#tokenizer.decodeBytes(ids, { skipSpecialTokens: this.#skipSpecialTokens });
    return this.#decoder.decode(bytes, { stream: true });
  }

  /**
   * Ends the text; a further `push` begins another.
   *
   * @returns U+FFFD for bytes that no code point completes, else an empty string.
   */
  finish(): string {
    return this.#decoder.decode();
  }
}
