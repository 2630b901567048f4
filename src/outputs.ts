/**
 * What a request returns, in vLLM's terms.
 * @module
 */
import type { FinishReason } from "./engine/generation.ts";
import type { ToolCallDelta } from "./text/tool_call_text.ts";
import type { ToolCall } from "./text/tool_format.ts";

/** A token and its log-probability. */
export interface TokenLogprob {
  /** The token's id. */
  tokenId: number;
  /** Its text; `""` for a part of a character, and without a tokenizer. */
  token: string;
  /** Natural logarithm of its probability by the model, before temperature and penalties. */
  logprob: number;
}

/** The log-probability of a token that was generated, or that stands in the prompt. */
export interface TokenLogprobs extends TokenLogprob {
  /** 1 for the likeliest token. */
  rank: number;
  /** The likeliest tokens, as many as were asked for. */
  top: TokenLogprob[];
}

/** One generated text. */
export interface CompletionOutput {
  /** Which of the request's choices, from 0. */
  index: number;
  /** The text; `""` without a tokenizer. */
  text: string;
  /** The calls of tools that it makes, where it was given tools; they are no part of the text. */
  toolCalls?: ToolCall[];
  /** Its tokens, the one that ended it included. */
  tokenIds: number[];
  /** Sum of the tokens' log-probabilities, if `logprobs` asked for them. */
  cumulativeLogprob?: number;
  /** For each token, if `logprobs` asked for them. */
  logprobs?: TokenLogprobs[];
  /** Why it ended: a stop token or string, `maxTokens` or the context, an abort, or it calls tools. */
  finishReason: FinishReason;
  /** The stop string, or the id of the token of `stopTokenIds`, that ended it. */
  stopReason?: string | number;
}

/** What a prompt led to. */
export interface RequestOutput {
  /** The prompt's text; absent if it was given as tokens. */
  prompt?: string;
  /** The prompt's tokens. */
  promptTokenIds: number[];
  /** How many of these were in the cache already and were not computed again. */
  cachedTokens: number;
  /** For each prompt token, null for the first, if `promptLogprobs` asked for them. */
  promptLogprobs?: (TokenLogprobs | null)[];
  /** The choices, in order. */
  outputs: CompletionOutput[];
  /** The seed that was given, or the one that was drawn: the same seed gives the same text. */
  seed: number | bigint;
}

/** A piece of a text that is being generated. */
export interface StreamEvent {
  /** Which of the request's choices, from 0. */
  index: number;
  /** What the text grew by; `""` where a character is not complete yet. */
  text: string;
  /** What its calls of tools grew by, where they did. */
  toolCalls?: ToolCallDelta[];
  /** The tokens that are new. */
  tokenIds: number[];
  /** For each new token, if `logprobs` asked for them. */
  logprobs?: TokenLogprobs[];
  /** Set in the choice's last event. */
  finishReason?: FinishReason;
  /** See {@linkcode CompletionOutput.stopReason}. */
  stopReason?: string | number;
}
