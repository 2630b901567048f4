/**
 * The API: open a model, generate, stream, chat, score.
 * @module
 */
import type { BackendInfo, ExpertStats } from "./backend/backend.ts";
import { Completion, type CompletionListener } from "./completion.ts";
import { Engine } from "./engine/engine.ts";
import { InvalidArgumentError, UnsupportedError } from "./errors.ts";
import type { GenerationConfig } from "./generation_config.ts";
import type { ModelSpec } from "./model_spec.ts";
import { type OpenedModel, openModel, type OpenOptions } from "./open_model.ts";
import type { RequestOutput, StreamEvent } from "./outputs.ts";
import {
  checkAgainstVocabulary,
  resolveSamplingParams,
  type SamplingParams,
} from "./sampling_params.ts";
import { Sampler } from "./sampling/sampler.ts";
import type { ChatMessage } from "./text/chat_message.ts";
import type { Tokenizer } from "./text/tokenizer.ts";

/** A prompt: text, tokens, or a conversation that the model's chat template turns into text. */
export type Prompt =
  | string
  | { readonly promptTokenIds: readonly number[] }
  | { readonly messages: readonly ChatMessage[] };

/** Options of a call. */
export interface CallOptions {
  /** Stops the call within one step of the model; it throws the signal's reason. */
  signal?: AbortSignal;
}

/** What {@linkcode LLM.forward} computes. */
export interface ForwardOutput {
  /** Row after row. */
  logits: Float32Array;
  /** Rows and columns of `logits`. */
  shape: [rows: number, vocab: number];
}

/**
 * A model, ready to run.
 *
 * @example
 * ```ts
 * import { LLM } from "@hybridseek/hybridseek";
 * import assert from "node:assert/strict";
 *
 * await using llm = await LLM.open(); // the model that comes with the library
 * const params = { temperature: 0, maxTokens: 8 };
 * const [result] = await llm.generate("Once upon a time there was", params);
 * assert.match(result!.outputs[0]!.text, /^ a /);
 * ```
 */
export class LLM {
  /** What was chosen when the model was opened. */
  readonly info: BackendInfo;
  /** What the graph says of the model. */
  readonly spec: ModelSpec;
  /** Most tokens of a sequence, prompt and output together. */
  readonly contextLength: number;
  readonly #engine: Engine;
  readonly #tokenizer: Tokenizer | undefined;
  readonly #config: GenerationConfig;

  private constructor({ spec, backend, tokenizer, config }: OpenedModel) {
    this.info = backend.info;
    this.spec = spec;
    this.contextLength = backend.limits.contextLength;
    this.#tokenizer = tokenizer;
    this.#config = config;
    this.#engine = new Engine(backend, new Sampler(spec.vocabSize), spec.vocabSize);
  }

  /**
   * Opens a package, the folder that `hybridseek export` writes.
   *
   * @param location Its path or address; the model that comes with the library by default.
   * @param options Backend and sizes.
   * @returns The model; close it when it is no longer needed.
   * @throws {InvalidFileError} If a file is missing, malformed or damaged.
   * @throws {InvalidArgumentError} If an option is out of range.
   * @throws {UnsupportedError} If the backend can not run the graph, or is not installed.
   * @throws {CapacityError} If it does not fit the memory.
   */
  static async open(location?: string | URL, options: OpenOptions = {}): Promise<LLM> {
    return new LLM(await openModel(location, options));
  }

  /** The model's own sampling parameters, which take the place of those that a call leaves out. */
  get defaults(): Readonly<SamplingParams> {
    return this.#config.defaults;
  }

  /** How often experts had to be read; `undefined` where all weights are in memory. */
  get expertStats(): ExpertStats | undefined {
    return this.#engine.expertStats;
  }

  /**
   * The model's tokenizer.
   *
   * @throws {UnsupportedError} If the package has none.
   */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer) return this.#tokenizer;
    throw new UnsupportedError(
      "Cannot turn text into tokens: the package has no tokenizer.json; give prompts as " +
        "{ promptTokenIds }.",
    );
  }

  /**
   * Generates texts. All prompts run together, each as if it were alone.
   *
   * @param prompts One prompt or a list.
   * @param params How to sample, for all prompts or one for each; the model's own defaults for what is
   *   left out.
   * @param options Abort.
   * @returns One result per prompt, in order.
   * @throws {InvalidArgumentError} If a prompt or parameter is out of range.
   * @throws {CapacityError} If a prompt is longer than the context, or does not fit the cache.
   * @throws {BackendError} If the model failed or has been closed.
   */
  async generate(
    prompts: Prompt | readonly Prompt[],
    params?: SamplingParams | readonly SamplingParams[],
    options: CallOptions = {},
  ): Promise<RequestOutput[]> {
    const list = isPromptList(prompts) ? prompts : [prompts];
    if (isList(params) && params.length !== list.length) {
      throw new InvalidArgumentError(
        "params",
        `Cannot generate: ${params.length} sets of parameters for ${list.length} prompts; give one for ` +
          "each, or one for all.",
      );
    }
    const completions = list.map((prompt, i) =>
      this.#completion(prompt, isList(params) ? params[i] : params)
    );
    const controller = new AbortController();
    const signal = options.signal
      ? AbortSignal.any([options.signal, controller.signal])
      : controller.signal;
    const runs = completions.map((completion) => completion.run(this.#engine, signal));
    try {
      return await Promise.all(runs);
    } catch (error) {
      controller.abort(error); // one failed: the others' results would have nobody to go to
      await Promise.allSettled(runs);
      throw error;
    }
  }

  /**
   * Generates a text piece by piece. Leaving the loop stops it.
   *
   * @param prompt The prompt.
   * @param params How to sample; the model's own defaults for what is left out.
   * @param options Abort.
   * @returns An event for each token and choice; a choice's last one has a finish reason. Throws as
   *   {@linkcode generate} does, when the first event is asked for.
   */
  async *stream(
    prompt: Prompt,
    params?: SamplingParams,
    options: CallOptions = {},
  ): AsyncGenerator<StreamEvent, RequestOutput, undefined> {
    const events: StreamEvent[] = [];
    let wake = () => {};
    const listener: CompletionListener = (event) => {
      events.push(event);
      wake();
    };
    const completion = this.#completion(prompt, params, listener);
    const controller = new AbortController();
    const signal = options.signal
      ? AbortSignal.any([options.signal, controller.signal])
      : controller.signal;
    let running = true;
    const run = completion.run(this.#engine, signal).finally(() => {
      running = false;
      wake();
    });
    run.catch(() => {}); // reported below
    try {
      while (running || events.length > 0) {
        const event = events.shift();
        if (event) yield event;
        else await new Promise<void>((resolve) => wake = resolve);
      }
      return await run;
    } finally {
      controller.abort();
      await run.catch(() => {});
    }
  }

  /**
   * Answers conversations, by the model's chat template.
   *
   * @param conversations One conversation, a list of messages, or a list of conversations.
   * @param params See {@linkcode generate}.
   * @param options Abort.
   * @returns One result per conversation, in order.
   * @throws {UnsupportedError} If the package has no tokenizer or no chat template.
   * @throws Otherwise as {@linkcode generate} does.
   */
  async chat(
    conversations: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
    params?: SamplingParams | readonly SamplingParams[],
    options: CallOptions = {},
  ): Promise<RequestOutput[]> {
    if (!Array.isArray(conversations)) {
      throw new InvalidArgumentError(
        "conversations",
        "Cannot chat: the conversations must be a list of messages, or a list of such lists.",
      );
    }
    const list = isConversationList(conversations) ? conversations : [conversations];
    return await this.generate(list.map((messages) => ({ messages })), params, options);
  }

  /**
   * Computes logits, for evaluation: row i holds the scores of the token that follows position i.
   *
   * @param tokenIds The tokens, 1 to the context's length.
   * @param options `rows`: the positions wanted, each once, in any order, all by default; abort.
   * @returns [rows, vocab] in the order of `rows`, owned by the caller.
   * @throws {InvalidArgumentError} If an id or a position is out of range.
   * @throws {CapacityError} If there are more tokens than the context holds.
   */
  async forward(
    tokenIds: readonly number[],
    options: CallOptions & { rows?: readonly number[] } = {},
  ): Promise<ForwardOutput> {
    const ids = this.#checkTokenIds("tokenIds", tokenIds);
    const rows = options.rows ?? ids.map((_, position) => position);
    const seen = new Set<number>();
    for (const row of rows) {
      if (!Number.isInteger(row) || row < 0 || row >= ids.length || seen.has(row)) {
        throw new InvalidArgumentError(
          "rows",
          `Cannot compute logits: row ${row} of ${ids.length} tokens; rows are whole numbers from 0 to ` +
            `${ids.length - 1}, each once.`,
        );
      }
      seen.add(row);
    }
    const logits = await this.#engine.score(ids, rows, options.signal);
    return { logits, shape: [rows.length, this.spec.vocabSize] };
  }

  /** Ends what is running and frees the memory. */
  async close(): Promise<void> {
    await this.#engine.close();
    this.#tokenizer?.free();
  }

  /** Closes the model at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Closes the model at the end of a `using` block. */
  [Symbol.dispose](): void {
    void this.close();
  }

  #completion(prompt: Prompt, params: SamplingParams | undefined, listener?: CompletionListener) {
    const resolved = resolveSamplingParams(params, this.#config.defaults);
    checkAgainstVocabulary(resolved, this.spec.vocabSize);
    if (resolved.stop.length > 0) void this.tokenizer; // throws where there is none
    const { text, tokenIds } = this.#encode(prompt);
    return new Completion({
      prompt: text,
      promptTokenIds: tokenIds,
      params: resolved,
      eosTokenIds: this.#config.eosTokenIds,
      tokenizer: resolved.detokenize ? this.#tokenizer : undefined,
      listener,
    });
  }

  #encode(prompt: Prompt): { text?: string; tokenIds: number[] } {
    if (typeof prompt === "string") {
      const tokenIds = this.tokenizer.encode(prompt);
      return { text: prompt, tokenIds: this.#checkTokenIds("prompt", tokenIds) };
    }
    if (typeof prompt === "object" && prompt !== null) {
      if ("promptTokenIds" in prompt) {
        return { tokenIds: this.#checkTokenIds("promptTokenIds", prompt.promptTokenIds) };
      }
      if ("messages" in prompt) {
        const { tokenizer } = this;
        const options = { addGenerationPrompt: true };
        const text = tokenizer.applyChatTemplate(prompt.messages, { ...options, tokenize: false });
        return { text, tokenIds: tokenizer.applyChatTemplate(prompt.messages, options) };
      }
    }
    throw new InvalidArgumentError(
      "prompt",
      "Cannot use the prompt: it must be a text, { promptTokenIds } or { messages }.",
    );
  }

  #checkTokenIds(field: string, tokenIds: readonly number[]): number[] {
    if (!Array.isArray(tokenIds) || tokenIds.length === 0) {
      throw new InvalidArgumentError(
        field,
        `Cannot run ${field}: there must be at least one token, as a list of numbers.`,
      );
    }
    const { vocabSize } = this.spec;
    for (const id of tokenIds) {
      if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
        throw new InvalidArgumentError(
          field,
          `Cannot run ${field}: token id ${id} is not one of the model's, 0 to ${vocabSize - 1}.`,
        );
      }
    }
    return [...tokenIds];
  }
}

function isPromptList(prompts: Prompt | readonly Prompt[]): prompts is readonly Prompt[] {
  return Array.isArray(prompts);
}

function isList<T>(value: T | readonly T[] | undefined): value is readonly T[] {
  return Array.isArray(value);
}

function isConversationList(
  conversations: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
): conversations is readonly (readonly ChatMessage[])[] {
  return conversations.every((conversation) => Array.isArray(conversation));
}
