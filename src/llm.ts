/**
 * The API: open a model, generate, stream, chat, score.
 * @module
 */
import type { BackendInfo, ExpertStats } from "./backend/backend.ts";
import { Completion, type CompletionListener } from "./completion.ts";
import { sourceOfCalls } from "./constraints/call_constraint.ts";
import { Constraints } from "./constraints/constraints.ts";
import { type CacheKind, readCacheFile, writeCacheFile } from "./engine/cache_file.ts";
import { Engine, type EngineStats } from "./engine/engine.ts";
import { checkEngineOptions, type RequestOptions } from "./engine/engine_options.ts";
import { InvalidArgumentError, UnsupportedError } from "./errors.ts";
import { identityOf } from "./files/manifest.ts";
import type { ModelLocation } from "./files/open_source.ts";
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
import type { ChatTemplateOptions, Tokenizer } from "./text/tokenizer.ts";
import {
  checkToolChoice,
  checkTools,
  type FunctionTool,
  hasCalls,
  type ToolChoice,
  ToolFormat,
  type ToolsInUse,
} from "./text/tool_format.ts";

/** What a model may call while it answers. */
export interface ToolOptions {
  /**
   * Functions that it may call, if it knows tools: then its calls are in the output's `toolCalls`. An
   * assistant's message has them as `tool_calls`, and messages with role `tool` bring the results.
   */
  readonly tools?: readonly FunctionTool[];
  /**
   * Whether it must call one: its answer is begun for it then. What follows is its own: nothing holds the
   * name, unless it was given, or the arguments to the functions there are. Default `auto`.
   */
  readonly toolChoice?: ToolChoice;
  /** Whether it may make several calls at once. Default true; if false, it ends with the first. */
  readonly parallelToolCalls?: boolean;
}

/** A conversation, which the model's chat template turns into a prompt. */
export interface ChatPrompt
  extends Omit<ChatTemplateOptions, "chatTemplate" | "tools">, ToolOptions {
  /** The messages, in order. Tokens that steer the model are text in them. */
  readonly messages: readonly ChatMessage[];
  /** Whether the model is to answer. Default true, unless it goes on with the last message. */
  readonly addGenerationPrompt?: boolean;
  /** Whether the model is to go on with the last message, usually the beginning of its answer. Default false. */
  readonly continueFinalMessage?: boolean;
}

/** The surroundings of a gap that a model is to fill in, if it has tokens for that. */
export interface FimPrompt {
  /** Text before the gap. Tokens that steer the model are text in it, and in the suffix. */
  readonly prefix: string;
  /** Text behind the gap. */
  readonly suffix: string;
}

/** A prompt: text, tokens, a conversation, or a gap to fill in. */
export type Prompt =
  | string
  | { readonly promptTokenIds: readonly number[] }
  | ChatPrompt
  | FimPrompt;

/** Options of a call: how its requests are to be treated. */
export type CallOptions = RequestOptions;

/** Options of {@linkcode LLM.chat}. */
export interface ChatOptions extends CallOptions, ToolOptions {}

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
  readonly #opened: OpenedModel;
  /** Whether computed prompts are kept. */
  readonly #caches: boolean;
  /** Of `structuredOutputs`; none before the first. */
  #constraints: Constraints | undefined;
  /** How the model calls tools; found out when it is asked for. */
  #tools: ToolFormat | undefined;

  private constructor(opened: OpenedModel, options: OpenOptions) {
    const { spec, backend, tokenizer, config } = opened;
    this.info = backend.info;
    this.spec = spec;
    this.contextLength = backend.limits.contextLength;
    this.#tokenizer = tokenizer;
    this.#config = config;
    const { vocabSize, expertLayers } = spec;
    this.#engine = new Engine(backend, new Sampler(vocabSize), vocabSize, options, expertLayers);
    this.#opened = opened;
    this.#caches = options.enablePrefixCaching ?? true;
  }

  /**
   * Opens a package, the folder that `hybridseek export` writes.
   *
   * @param location Its path or address, in a browser also a directory's handle; the model that comes with
   *   the library by default.
   * @param options Backend and sizes.
   * @returns The model; close it when it is no longer needed.
   * @throws {InvalidFileError} If a file is missing, malformed or damaged.
   * @throws {InvalidArgumentError} If an option is out of range.
   * @throws {UnsupportedError} If the backend can not run the graph, or is not installed.
   * @throws {CapacityError} If it does not fit the memory.
   */
  static async open(location?: ModelLocation, options: OpenOptions = {}): Promise<LLM> {
    checkEngineOptions(options);
    return new LLM(await openModel(location, options), options);
  }

  /** The model's own sampling parameters, which take the place of those that a call leaves out. */
  get defaults(): Readonly<SamplingParams> {
    return this.#config.defaults;
  }

  /** How often experts had to be read; `undefined` where all weights are in memory. */
  get expertStats(): ExpertStats | undefined {
    return this.#engine.expertStats;
  }

  /** What every call is refused with from now on: the model failed or was closed. `undefined` while it runs. */
  get failure(): unknown {
    return this.#engine.failure;
  }

  /**
   * What the model is doing and has done, all calls together.
   *
   * @returns Counts at this moment.
   */
  stats(): EngineStats {
    return this.#engine.stats();
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
   * @param options Priority, salt, time limit, abort.
   * @returns One result per prompt, in order.
   * @throws {InvalidArgumentError} If a prompt, parameter or option is out of range.
   * @throws {CapacityError} If a prompt is longer than the context, or does not fit the cache.
   * @throws {OverloadError} If too many requests wait, or the time limit is over.
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
    const terms = { ...options, signal };
    const runs = completions.map((completion) => completion.run(this.#engine, terms));
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
   * @param options Priority, salt, time limit, abort.
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
    const run = completion.run(this.#engine, { ...options, signal }).finally(() => {
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
   * @param options Tools; priority, salt, time limit, abort.
   * @returns One result per conversation, in order.
   * @throws {UnsupportedError} If the package has no tokenizer or no chat template.
   * @throws {InvalidArgumentError} If there are tools, calls or results, and the model knows no tools.
   * @throws Otherwise as {@linkcode generate} does.
   */
  async chat(
    conversations: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
    params?: SamplingParams | readonly SamplingParams[],
    { tools, toolChoice, parallelToolCalls, ...options }: ChatOptions = {},
  ): Promise<RequestOutput[]> {
    if (!Array.isArray(conversations)) {
      throw new InvalidArgumentError(
        "conversations",
        "Cannot chat: the conversations must be a list of messages, or a list of such lists.",
      );
    }
    const list = isConversationList(conversations) ? conversations : [conversations];
    const toolOptions = { tools, toolChoice, parallelToolCalls };
    const prompts = list.map((messages) => ({ messages, ...toolOptions }));
    return await this.generate(prompts, params, options);
  }

  /**
   * Computes logits, for evaluation: row i holds the scores of the token that follows position i.
   *
   * @param tokenIds The tokens, 1 to the context's length.
   * @param options `rows`: the positions wanted, each once, in any order, all by default; the rest as
   *   for {@linkcode generate}.
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
    const logits = await this.#engine.score(ids, rows, options);
    return { logits, shape: [rows.length, this.spec.vocabSize] };
  }

  /**
   * Computes a prompt and saves its cache: a file from which {@linkcode loadCache} goes on, here or on
   * another machine or in a browser. It holds whole blocks, so the last tokens (less than a block, 16) are
   * computed again.
   *
   * @param prompt The prompt; with `promptTokenIds` also what was generated after it.
   * @param options As for {@linkcode generate}; the cache is found by the salt.
   * @returns The file's bytes, owned by the caller. It tells whoever has it what the prompt is.
   * @throws As {@linkcode generate} does.
   * @throws {UnsupportedError} If the model was opened with `enablePrefixCaching: false`.
   * @example
   * ```ts
   * import { LLM } from "@hybridseek/hybridseek";
   * import assert from "node:assert/strict";
   *
   * const prompt = "Once upon a time there was a kind boy named Theo, and every day he went to the";
   * await using llm = await LLM.open();
   * const file = await llm.saveCache(prompt);
   *
   * await using other = await LLM.open();
   * assert.equal(await other.loadCache(file), 16);
   * const [result] = await other.generate(prompt);
   * assert.equal(result!.cachedTokens, 16);
   * ```
   */
  async saveCache(prompt: Prompt, options: CallOptions = {}): Promise<Uint8Array> {
    this.#checkCaching("save");
    const { tokenIds } = this.#encode(prompt);
    const kind = await this.#cacheKind();
    return await writeCacheFile(kind, await this.#engine.readCache(tokenIds, options));
  }

  /**
   * Puts a saved cache where prompts that begin with its tokens find it, as if they had been computed here.
   * Load only files that you trust: nothing tells whether rows are what the model would have computed.
   *
   * @param file What {@linkcode saveCache} returned.
   * @param options `cacheSalt`: the salt of the requests that may find it.
   * @returns How many tokens of a prompt are found now.
   * @throws {InvalidFileError} If it is damaged, or of another model, backend or cache type.
   * @throws {CapacityError} If the cache has no room for it beside what is running.
   * @throws {UnsupportedError} If the model was opened with `enablePrefixCaching: false`.
   */
  async loadCache(
    file: Uint8Array,
    options: Pick<CallOptions, "cacheSalt"> = {},
  ): Promise<number> {
    this.#checkCaching("load");
    const { backend: { limits: { contextLength } }, spec: { vocabSize } } = this.#opened;
    const limits = { vocabSize, contextLength };
    const cached = await readCacheFile(file, await this.#cacheKind(), limits);
    await this.#engine.writeCache(cached, options);
    return cached.tokenIds.length;
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

  async #cacheKind(): Promise<CacheKind> {
    const { backend, manifest } = this.#opened;
    const { cacheLayout: layout, blockBytes, limits: { blockSize } } = backend;
    return { model: await identityOf(manifest), layout, blockSize, blockBytes };
  }

  #checkCaching(verb: string) {
    if (this.#caches) return;
    throw new UnsupportedError(
      `Cannot ${verb} the cache: the model was opened with enablePrefixCaching: false; leave it out.`,
    );
  }

  #completion(prompt: Prompt, params: SamplingParams | undefined, listener?: CompletionListener) {
    const { text, tokenIds, tools, oneCall } = this.#encode(prompt);
    const given = resolveSamplingParams(params, this.#config.defaults);
    const resolved = oneCall
      ? { ...given, stopTokenIds: [...given.stopTokenIds, tools!.format.callEnd] }
      : given;
    checkAgainstVocabulary(resolved, this.spec.vocabSize);
    if (resolved.stop.length > 0) void this.tokenizer; // throws where there is none
    const { eosTokenIds } = this.#config;
    if (resolved.structuredOutputs || tools?.strict) {
      this.#constraints ??= new Constraints(this.tokenizer, this.spec.vocabSize, eosTokenIds);
    }
    return new Completion({
      prompt: text,
      promptTokenIds: tokenIds,
      params: resolved,
      eosTokenIds,
      tokenizer: resolved.detokenize ? this.#tokenizer : undefined,
      constraints: this.#constraints,
      tools,
      listener,
    });
  }

  #encode(prompt: Prompt): EncodedPrompt {
    if (typeof prompt === "string") {
      const tokenIds = this.tokenizer.encode(prompt);
      return { text: prompt, tokenIds: this.#checkTokenIds("prompt", tokenIds) };
    }
    if (typeof prompt === "object" && prompt !== null) {
      if ("promptTokenIds" in prompt) {
        return { tokenIds: this.#checkTokenIds("promptTokenIds", prompt.promptTokenIds) };
      }
      if ("messages" in prompt) {
        const { tools: given = [], toolChoice = "auto", parallelToolCalls = true, ...rest } =
          prompt;
        const format = this.#toolsFor(rest.messages, given);
        const { messages, ...options } = {
          addGenerationPrompt: !rest.continueFinalMessage,
          ...rest,
          ...format?.dialogue(rest.messages, given),
        };
        const text = this.tokenizer.applyChatTemplate(messages, { ...options, tokenize: false });
        const tokenIds = this.tokenizer.applyChatTemplate(messages, options);
        const choice = checkToolChoice(toolChoice, given);
        if (given.length === 0 || !format) return { text, tokenIds };
        const begun = format.begin(choice);
        return {
          text: text + begun.text,
          tokenIds: tokenIds.concat(begun.tokenIds),
          tools: { format, begun: begun.tokenIds, strict: sourceOfCalls(given) },
          oneCall: !parallelToolCalls || typeof choice === "object",
        };
      }
      if (typeof prompt.prefix === "string" && typeof prompt.suffix === "string") {
        return { tokenIds: this.tokenizer.encodeFim(prompt.prefix, prompt.suffix) };
      }
    }
    throw new InvalidArgumentError(
      "prompt",
      "Cannot use the prompt: it must be a text, { promptTokenIds }, { messages } or { prefix, suffix }.",
    );
  }

  /** The model's way with tools, where a conversation has any. */
  #toolsFor(
    messages: readonly ChatMessage[],
    tools: readonly FunctionTool[],
  ): ToolFormat | undefined {
    const field = checkTools(tools).length > 0 ? "tools" : fieldOfTools(messages);
    if (field === undefined) return undefined;
    this.#tools ??= ToolFormat.of(this.tokenizer);
    if (this.#tools) return this.#tools;
    throw new InvalidArgumentError(
      field,
      `Cannot use ${field}: the model knows no tools, by its chat template and its tokens; leave it out.`,
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

/** A prompt as the engine takes it. */
interface EncodedPrompt {
  /** Where it was given as text, or became one. */
  text?: string;
  tokenIds: number[];
  /** The tools of the answer, where there are any. */
  tools?: ToolsInUse;
  /** Whether the first call is the last. */
  oneCall?: boolean;
}

/** The field of a message that needs a model which knows tools. */
function fieldOfTools(messages: readonly ChatMessage[]): string | undefined {
  if (!Array.isArray(messages)) return undefined; // the template's to refuse
  for (const [index, message] of messages.entries()) {
    if (hasCalls(message)) return `messages[${index}].tool_calls`;
    if (message?.role === "tool") return `messages[${index}].role`;
  }
  return undefined;
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
