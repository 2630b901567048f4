/**
 * A request on its way through the engine: tokens become text, and both become the caller's result.
 * @module
 */
import { CallConstraint, holdCalls } from "./constraints/call_constraint.ts";
import type { Matcher } from "./constraints/constraint_module.ts";
import type { Constraints, HeldConstraint } from "./constraints/constraints.ts";
import type { Engine } from "./engine/engine.ts";
import type { RequestOptions } from "./engine/engine_options.ts";
import type { GeneratedChoice } from "./engine/generation.ts";
import type { CompletionOutput, RequestOutput, StreamEvent, TokenLogprobs } from "./outputs.ts";
import type { ResolvedSamplingParams } from "./sampling_params.ts";
import type { SampledToken, TokenLogprobs as SampledLogprobs } from "./sampling/sampler.ts";
import { CompletionText, type GrownText } from "./text/completion_text.ts";
import type { Tokenizer } from "./text/tokenizer.ts";
import { ToolCallText } from "./text/tool_call_text.ts";
import type { ToolCall, ToolsInUse } from "./text/tool_format.ts";

/** Told of every token and of every end. */
export type CompletionListener = (event: StreamEvent) => void;

/** What is to be completed. */
export interface CompletionOptions {
  /** The prompt's text, where it was given as text. */
  prompt: string | undefined;
  /** The prompt. */
  promptTokenIds: number[];
  /** How. */
  params: ResolvedSamplingParams;
  /** Tokens that end a text. */
  eosTokenIds: readonly number[];
  /** Makes text; without one there is none. */
  tokenizer: Tokenizer | undefined;
  /** Where `params.structuredOutputs` and strict tools, if there are any, are compiled. */
  constraints: Constraints | undefined;
  /** How tools are called, where there are any. */
  tools: ToolsInUse | undefined;
  /** Told of every token and of every end. */
  listener: CompletionListener | undefined;
}

/** One request. */
export class Completion {
  readonly #options: CompletionOptions;
  readonly #texts: (CompletionText | ToolCallText | undefined)[];
  /** Where constrained texts stand, one for each choice. */
  #constrained: (Matcher | CallConstraint)[] = [];

  /** @param options What is to be completed. */
  constructor(options: CompletionOptions) {
    const { params, tokenizer, tools } = options;
    const text = (tokenizer: Tokenizer) =>
      tools ? new ToolCallText(tokenizer, params, tools) : new CompletionText(tokenizer, params);
    this.#options = options;
    this.#texts = Array.from({ length: params.n }, () => tokenizer && text(tokenizer));
  }

  /**
   * Runs it.
   *
   * @param engine Where.
   * @param options How it is to be treated.
   * @returns The result. Throws as {@linkcode Engine.generate} and {@linkcode Constraints.hold} do.
   */
  async run(engine: Engine, options: RequestOptions): Promise<RequestOutput> {
    const held = await this.#hold();
    if (!held) return await this.#run(engine, options);
    try {
      const { params: { structuredOutputs, n }, eosTokenIds, tools } = this.#options;
      this.#constrained = Array.from(
        { length: n },
        () =>
          structuredOutputs
            ? held.begin()
            : new CallConstraint(held, tools!.format, eosTokenIds, tools!.begun),
      );
      return await this.#run(engine, options);
    } finally {
      held.release();
    }
  }

  async #hold(): Promise<HeldConstraint | undefined> {
    const { params: { structuredOutputs }, constraints, tools } = this.#options;
    if (structuredOutputs) return await constraints!.hold(structuredOutputs);
    return tools?.strict && await holdCalls(constraints!, tools.strict);
  }

  async #run(engine: Engine, options: RequestOptions): Promise<RequestOutput> {
    const { prompt, promptTokenIds, params, eosTokenIds, listener } = this.#options;
    const { choices, promptLogprobs, cachedTokens } = await engine.generate({
      promptTokenIds,
      params,
      eosTokenIds,
      ...options,
      allowedTokens: (choice) => this.#constrained[choice]?.allowed(),
      onToken: (choice, token, ends) => this.#takeToken(choice, token, ends),
      onFinish: (choice) => {
        const rest = this.#texts[choice.index]?.finish(choice.finishReason === "stop");
        listener?.({
          index: choice.index,
          ...piecesOf(rest),
          tokenIds: [],
          ...this.#ending(choice),
        });
      },
    });
    const seed = BigInt.asIntN(54, params.seed) === params.seed ? Number(params.seed) : params.seed;
    return {
      ...(prompt !== undefined && { prompt }),
      promptTokenIds,
      cachedTokens,
      ...(promptLogprobs && {
        promptLogprobs: promptLogprobs.map((token) => token && this.#named(token)),
      }),
      outputs: choices.map((choice) => this.#output(choice)),
      seed,
    };
  }

  #takeToken(choice: number, token: SampledToken, ends: boolean): string | undefined {
    const { params, listener } = this.#options;
    if (!ends) this.#constrained[choice]?.take(token.tokenId);
    // A token that ends the text is no part of it, as in vLLM.
    const silent = ends && !params.includeStopStrInOutput;
    const grown = silent ? undefined : this.#texts[choice]?.push(token.tokenId);
    listener?.({
      index: choice,
      ...piecesOf(grown),
      tokenIds: [token.tokenId],
      ...(token.logprobs && { logprobs: [this.#named(token.logprobs)] }),
    });
    return grown?.stop;
  }

  #output(choice: GeneratedChoice): CompletionOutput {
    const { index, tokens } = choice;
    return {
      index,
      text: this.#texts[index]?.text ?? "",
      ...(this.#calls(index).length > 0 && { toolCalls: [...this.#calls(index)] }),
      tokenIds: tokens.map(({ tokenId }) => tokenId),
      ...(this.#options.params.logprobs !== undefined && {
        cumulativeLogprob: tokens.reduce((sum, { logprobs }) => sum + logprobs!.logprob, 0),
        logprobs: tokens.map(({ logprobs }) => this.#named(logprobs!)),
      }),
      ...this.#ending(choice),
    };
  }

  #ending({ index, finishReason, stopReason }: GeneratedChoice): Ending {
    const ended = finishReason === "stop" &&
      (stopReason === undefined || stopReason === this.#options.tools?.format.callEnd);
    if (ended && this.#calls(index).length > 0) return { finishReason: "tool_calls" };
    return { finishReason: finishReason!, ...(stopReason !== undefined && { stopReason }) };
  }

  #calls(index: number): readonly ToolCall[] {
    const text = this.#texts[index];
    return text instanceof ToolCallText ? text.toolCalls : [];
  }

  /** The same with the tokens' texts. */
  #named({ tokenId, logprob, rank, top }: SampledLogprobs): TokenLogprobs {
    const named = (tokenId: number, logprob: number) => ({
      tokenId,
      token: this.#options.tokenizer?.decode([tokenId]) ?? "",
      logprob,
    });
    return {
      ...named(tokenId, logprob),
      rank,
      top: top.map(({ tokenId, logprob }) => named(tokenId, logprob)),
    };
  }
}

type Ending = Pick<CompletionOutput, "finishReason" | "stopReason">;

/** What an event says of a text that grew. */
function piecesOf({ text, toolCalls = [] }: GrownText = { text: "" }) {
  return { text, ...(toolCalls.length > 0 && { toolCalls }) };
}
