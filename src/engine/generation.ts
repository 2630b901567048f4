/**
 * One request to generate, from its prompt to its finished choices.
 * @module
 */
import type { ResolvedSamplingParams } from "../sampling_params.ts";
import type { SampledToken, Sampler, TokenLogprobs } from "../sampling/sampler.ts";
import { type RequestOptions, termsOf } from "./engine_options.ts";
import { lookUp, type PromptLookup } from "./prompt_lookup.ts";
import type { RequestTerms, ScheduledRequest, Sequence } from "./sequence.ts";

/** Why a choice ended: a stop token or string, a limit, or the caller; by a stop token after calls of tools. */
export type FinishReason = "stop" | "length" | "abort" | "tool_calls";

/** What is to be generated. */
export interface GenerationOptions extends RequestOptions {
  /** The prompt, at least one token. */
  promptTokenIds: readonly number[];
  /** How. */
  params: ResolvedSamplingParams;
  /** Tokens that end a choice unless `ignoreEos` says otherwise. */
  eosTokenIds: readonly number[];
  /**
   * Told of every token.
   * @param choice Which choice it belongs to.
   * @param token The token.
   * @param ends Whether it is a stop token.
   * @returns The stop string that it completed, if any: the choice ends.
   */
  onToken?(choice: number, token: SampledToken, ends: boolean): string | undefined;
  /** Told of every choice that ended. @param choice It. */
  onFinish?(choice: GeneratedChoice): void;
  /**
   * Says which tokens may come next, before each is drawn. Where it leaves only tokens that end the choice,
   * `minTokens` gives way.
   * @param choice Which choice is extended; `onToken` was told of all its tokens.
   * @returns A bit for each token, see {@linkcode SamplingRequest.allowed}; `undefined`: all.
   */
  allowedTokens?(choice: number): Uint32Array | undefined;
}

/** A choice, finished or growing. */
export interface GeneratedChoice {
  /** Which one, from 0. */
  index: number;
  /** Its tokens, with their log-probabilities. */
  tokens: SampledToken[];
  /** Why it ended; `undefined` while it grows. */
  finishReason: FinishReason | undefined;
  /** The stop string or the id of the stop token (of those asked for) that ended it. */
  stopReason: string | number | undefined;
}

/** What a request generated. */
export interface Generated {
  /** Its choices in order. */
  choices: GeneratedChoice[];
  /** For each prompt token, null for the first; `undefined` unless asked for. */
  promptLogprobs: (TokenLogprobs | null)[] | undefined;
  /** Prompt tokens that were in the cache already. */
  cachedTokens: number;
}

/** A request that generates. */
export class Generation implements ScheduledRequest {
  /** See {@linkcode ScheduledRequest}. */
  readonly promptTokenIds: readonly number[];
  /** See {@linkcode ScheduledRequest}. */
  readonly maxNewTokens: number;
  /** See {@linkcode ScheduledRequest}. */
  readonly choices: number;
  /** See {@linkcode ScheduledRequest}. */
  readonly terms: RequestTerms;
  /** What has been generated so far. */
  readonly result: Generated;
  readonly #options: GenerationOptions;
  readonly #contextLength: number;
  readonly #lookup: PromptLookup | undefined;
  readonly #eos: ReadonlySet<number>;
  readonly #stop: ReadonlySet<number>;

  /**
   * @param options What is to be generated.
   * @param contextLength Most tokens of a sequence.
   * @param lookup How tokens are guessed, if they are.
   */
  constructor(options: GenerationOptions, contextLength: number, lookup?: PromptLookup) {
    const { params, promptTokenIds } = options;
    this.terms = termsOf(options, performance.now());
    this.promptTokenIds = promptTokenIds;
    this.maxNewTokens = params.maxTokens;
    this.choices = params.n;
    this.#options = options;
    this.#contextLength = contextLength;
    this.#lookup = lookup;
    this.#eos = new Set(params.ignoreEos ? [] : options.eosTokenIds);
    this.#stop = new Set(params.stopTokenIds);
    this.result = {
      choices: Array.from({ length: params.n }, (_, index) => ({
        index,
        tokens: [],
        finishReason: undefined,
        stopReason: undefined,
      })),
      promptLogprobs: params.promptLogprobs === undefined
        ? undefined
        : promptTokenIds.map(() => null),
      cachedTokens: 0,
    };
  }

  /** Whether all choices have ended. */
  get finished(): boolean {
    return this.result.choices.every(({ finishReason }) => finishReason !== undefined);
  }

  /** Prompt log-probabilities need the logits before each prompt token but the first. */
  wantsLogits(position: number): boolean {
    return this.result.promptLogprobs !== undefined && position < this.promptTokenIds.length - 1;
  }

  /** See {@linkcode ScheduledRequest}. */
  draft(tokenIds: readonly number[], most: number): readonly number[] {
    return this.#lookup ? lookUp(tokenIds, most, this.#lookup) : [];
  }

  /**
   * Takes the logits after a prompt token.
   *
   * @param sampler Computes the log-probabilities.
   * @param position Of the token.
   * @param logits [vocab].
   */
  takePromptLogits(sampler: Sampler, position: number, logits: Float32Array): void {
    const next = this.promptTokenIds[position + 1]!;
    const count = this.#options.params.promptLogprobs!;
    this.result.promptLogprobs![position + 1] = sampler.logprobsOf(logits, next, count);
  }

  /**
   * Extends a sequence by a token.
   *
   * @param sampler Draws it.
   * @param sequence One of this request's.
   * @param logits [vocab] after its last token.
   * @returns Whether the sequence goes on.
   */
  extend(sampler: Sampler, sequence: Sequence<Generation>, logits: Float32Array): boolean {
    const { params } = this.#options;
    const choice = this.result.choices[sequence.choice]!;
    const allowed = this.#options.allowedTokens?.(sequence.choice);
    const ending = choice.tokens.length < params.minTokens ? [...this.#eos, ...this.#stop] : [];
    const token = sampler.sample(logits, {
      params,
      history: sequence.tokenIds,
      promptLength: this.promptTokenIds.length,
      allowed,
      banned: allowed && ending.length > 0 && allowsOnly(allowed, ending) ? [] : ending,
      choiceIndex: sequence.choice,
      position: sequence.tokenIds.length,
    });
    sequence.tokenIds.push(token.tokenId);
    choice.tokens.push(token);
    const [isEos, isStop] = [this.#eos.has(token.tokenId), this.#stop.has(token.tokenId)];
    const stopString = this.#options.onToken?.(sequence.choice, token, isEos || isStop);
    if (choice.finishReason !== undefined) return false; // whoever was told has ended it
    if (isEos) {
      choice.finishReason = "stop";
    } else if (isStop || stopString !== undefined) {
      choice.finishReason = "stop";
      choice.stopReason = stopString ?? token.tokenId;
    } else if (
      choice.tokens.length >= params.maxTokens || sequence.tokenIds.length >= this.#contextLength
    ) {
      choice.finishReason = "length";
    }
    if (choice.finishReason === undefined) return true;
    this.#options.onFinish?.(choice);
    return false;
  }

  /** Ends all choices that have not ended. */
  abort(): void {
    for (const choice of this.result.choices) {
      if (choice.finishReason !== undefined) continue;
      choice.finishReason = "abort";
      this.#options.onFinish?.(choice);
    }
  }
}

/** Whether a mask allows no tokens but these. */
function allowsOnly(allowed: Uint32Array, tokenIds: readonly number[]): boolean {
  const others = allowed.slice();
  for (const id of tokenIds) others[id >>> 5]! &= ~(1 << (id & 31));
  return others.every((word) => word === 0);
}
