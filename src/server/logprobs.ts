/**
 * Log-probabilities as /v1/completions has them: four lists of one length.
 * @module
 */
import type { TokenLogprob, TokenLogprobs } from "../outputs.ts";
import { Detokenizer } from "../text/detokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** The lists; position i of each is about token i of the text. */
export interface CompletionLogprobs {
  /** Tokens as text; bytes that are no whole characters are written `bytes:\xe4\xbd`. */
  tokens: string[];
  /** Log-probability of each; null for the first of a prompt. */
  token_logprobs: (number | null)[];
  /** The likeliest tokens and the one that stands there; null for the first of a prompt. */
  top_logprobs: (Record<string, number> | null)[];
  /** Where each begins, in characters from the text's begin. */
  text_offset: number[];
}

/** JSON has no infinity. @param logprob Any. @returns It, at least what vLLM writes instead. */
export function leastLogprob(logprob: number): number {
  return Math.max(logprob, -9999);
}

/** Writes the lists of one text, piece by piece. */
export class LogprobWriter {
  readonly #tokenizer: Tokenizer | undefined;
  readonly #detokenizer: Detokenizer | undefined;
  #offset = 0;

  /**
   * @param tokenizer The model's, if it has one.
   * @param skipSpecialTokens Whether these are no part of the text.
   */
  constructor(tokenizer: Tokenizer | undefined, skipSpecialTokens: boolean) {
    this.#tokenizer = tokenizer;
    this.#detokenizer = tokenizer && new Detokenizer(tokenizer, { skipSpecialTokens });
  }

  /**
   * The lists of the next tokens.
   *
   * @param tokenIds They.
   * @param logprobs Theirs; null where a token has none.
   * @returns The lists.
   */
  write(
    tokenIds: readonly number[],
    logprobs: readonly (TokenLogprobs | null)[],
  ): CompletionLogprobs {
    const lists: CompletionLogprobs = {
      tokens: [],
      token_logprobs: [],
      top_logprobs: [],
      text_offset: [],
    };
    for (const [i, tokenId] of tokenIds.entries()) {
      const token = logprobs[i] ?? undefined;
      lists.tokens.push(this.#name(tokenId));
      lists.token_logprobs.push(token ? leastLogprob(token.logprob) : null);
      lists.top_logprobs.push(token ? this.#top(token) : null);
      lists.text_offset.push(this.#offset);
      this.#offset += characters(this.#detokenizer?.push([tokenId]) ?? "");
    }
    return lists;
  }

  /** The token that stands there comes last: should another have its name, its number is the one kept. */
  #top(token: TokenLogprobs): Record<string, number> {
    return Object.fromEntries(
      [...token.top, token as TokenLogprob].map(({ tokenId, logprob }) => [
        this.#name(tokenId),
        leastLogprob(logprob),
      ]),
    );
  }

  #name(tokenId: number): string {
    const bytes = this.#tokenizer?.tokenBytes(tokenId) ?? new Uint8Array();
    if (bytes.length === 0) return `token_id:${tokenId}`;
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return "bytes:" +
        Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
    }
  }
}

/** Code points, as Python counts them. */
function characters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}
