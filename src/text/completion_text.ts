/**
 * The text of one choice while its tokens come: whole code points only, up to a stop string.
 * @module
 */
import type { ResolvedSamplingParams } from "../sampling_params.ts";
import { Detokenizer } from "./detokenizer.ts";
import { StopStrings } from "./stop_strings.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Turns tokens into text and looks for stop strings in it. */
export class CompletionText {
  /** The text so far, as far as it is sure to stay. */
  text = "";
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopStrings;

  /**
   * @param tokenizer The model's.
   * @param params What to leave out and where to stop.
   */
  constructor(tokenizer: Tokenizer, params: ResolvedSamplingParams) {
    this.#detokenizer = new Detokenizer(tokenizer, {
      skipSpecialTokens: params.skipSpecialTokens,
    });
    this.#stops = new StopStrings(params.stop, {
      includeStopString: params.includeStopStrInOutput,
    });
  }

  /**
   * Adds a token.
   *
   * @param tokenId It.
   * @returns What the text grew by, and the stop string if one is complete.
   */
  push(tokenId: number): { text: string; stop?: string } {
    const result = this.#stops.push(this.#detokenizer.push([tokenId]));
    this.text += result.text;
    return result;
  }

  /** Ends the text. @returns What was held back. */
  finish(): string {
    const text = this.#stops.push(this.#detokenizer.finish()).text + this.#stops.finish().text;
    this.text += text;
    return text;
  }
}
