/**
 * The text of one choice while its tokens come: whole code points only, up to a stop string.
 * @module
 */
import type { ResolvedSamplingParams } from "../sampling_params.ts";
import { Detokenizer } from "./detokenizer.ts";
import { StopStrings } from "./stop_strings.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { ToolCallDelta } from "./tool_call_text.ts";

/** What a choice grew by. */
export interface GrownText {
  /** Text. */
  text: string;
  /** The stop string that is complete, if one is. */
  stop?: string;
  /** Pieces of calls, where the choice may call tools. */
  toolCalls?: ToolCallDelta[];
}

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
   * @returns What grew.
   */
  push(tokenId: number): GrownText {
    const result = this.#stops.push(this.#detokenizer.push([tokenId]));
    this.text += result.text;
    return result;
  }

  /** Ends the text. @returns What was held back. */
  finish(): GrownText {
    const [last, held] = [this.#stops.push(this.#detokenizer.finish()), this.#stops.finish()];
    const text = last.text + held.text;
    this.text += text;
    return { text, stop: last.stop ?? held.stop };
  }
}
