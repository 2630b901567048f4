/**
 * Chooses tokens from logits. The arithmetic is WebAssembly (`wasm/sampling`), the same bytes on
 * every machine: a token is a function of logits, history, mask, parameters, seed, choice and
 * position alone.
 * @module
 */
import { embedded } from "../../wasm/dist/sampler.ts";
import { BackendError, InvalidArgumentError } from "../errors.ts";
import type { ResolvedSamplingParams } from "../sampling_params.ts";
import { wasmModule } from "../wasm_module.ts";

/** What a token is drawn for. */
export interface SamplingRequest {
  /** Checked parameters, whose token ids are below the vocabulary's size. */
  readonly params: ResolvedSamplingParams;
  /** Token ids of the sequence so far: the prompt, then the output. */
  readonly history: Int32Array | readonly number[];
  /** How many of them are the prompt. */
  readonly promptLength: number;
  /** Bit i % 32 of word i / 32: whether a grammar allows token i. Default: all. */
  readonly allowed?: Uint32Array;
  /** Token ids that may not be drawn, for example stop tokens before `minTokens`. */
  readonly banned?: readonly number[];
  /** Index of the choice among `params.n`, a uint32: each has its own random numbers. */
  readonly choiceIndex: number;
  /** Position in the sequence of the token that is drawn, a uint32: likewise. */
  readonly position: number;
}

/** A token and its log-probability. */
export interface TokenLogprob {
  /** The token's id. */
  readonly tokenId: number;
  /** Natural logarithm of the model's probability, at most 0. */
  readonly logprob: number;
}

/** A token with its log-probability, its rank and the likeliest tokens. */
export interface TokenLogprobs extends TokenLogprob {
  /** How many tokens are at least as likely, the token itself included: 1 is the likeliest. */
  readonly rank: number;
  /**
   * As many of the likeliest tokens as were asked for, by descending logprob, then ascending id;
   * fewer where fewer have a logit above -Infinity. The token's own entry, if it is among them, has
   * the very same logprob.
   */
  readonly top: readonly TokenLogprob[];
}

/** A token that was chosen. */
export interface SampledToken {
  /** The token's id. */
  readonly tokenId: number;
  /** Its log-probability and the `params.logprobs` likeliest tokens; absent unless asked for. */
  readonly logprobs?: TokenLogprobs;
}

/** What `wasm/sampling/sampler.ts` exports; pointers are byte offsets into `memory`. */
interface SamplerExports {
  readonly memory: WebAssembly.Memory;
  readonly logits: WebAssembly.Global<"i32">;
  readonly adjusted: WebAssembly.Global<"i32">;
  readonly allowed: WebAssembly.Global<"i32">;
  readonly candidateIds: WebAssembly.Global<"i32">;
  initialize(vocabSize: number): void;
  reserveInput(words: number): number;
  begin(): number;
  applyMask(): void;
  applyBias(input: number, count: number): void;
  applyBans(input: number, count: number): void;
  penalize(
    input: number,
    count: number,
    promptCount: number,
    repetition: number,
    presence: number,
    frequency: number,
  ): void;
  greedy(): number;
  draw(
    temperature: number,
    minP: number,
    topK: number,
    topP: number,
    seed: bigint,
    choice: number,
    position: number,
  ): number;
  logprob(tokenId: number): number;
  rank(tokenId: number): number;
  findTop(wanted: number): number;
}

/** 4 M tokens: 30 times the family's largest vocabulary, 120 MB of sampler memory. */
const VOCAB_SIZE_MAX = 2 ** 22;
const UINT32_MAX = 2 ** 32 - 1;
/** What `begin` returns for logits that can be used; else it is the id of the first NaN, or: */
const USABLE = -1;
/** What `begin` returns where all logits are -Infinity. */
const ALL_MASKED = -2;

/**
 * Chooses tokens for a vocabulary. It holds 24 bytes of memory for each token of the vocabulary and
 * keeps nothing from one call to the next, so that one sampler serves every sequence of an engine.
 *
 * @example
 * ```ts
 * import { resolveSamplingParams, Sampler } from "@hybridseek/hybridseek";
 * import assert from "node:assert/strict";
 * const sampler = new Sampler(4);
 * const params = resolveSamplingParams({ temperature: 0 });
 * const place = { history: [0], promptLength: 1, choiceIndex: 0, position: 1 };
 * const { tokenId } = sampler.sample(Float32Array.of(0, 3, 1, -1), { params, ...place });
 * assert.equal(tokenId, 1);
 * ```
 */
export class Sampler {
  readonly #vocabSize: number;
  readonly #wasm: SamplerExports;

  /**
   * Makes a sampler for a vocabulary.
   *
   * @param vocabSize V, the length of the logits: 1 to 4,194,304.
   * @throws {InvalidArgumentError} If it is not.
   */
  constructor(vocabSize: number) {
    checkInteger("vocabSize", vocabSize, 1, VOCAB_SIZE_MAX);
    this.#vocabSize = vocabSize;
    const instance = new WebAssembly.Instance(wasmModule("sampler", embedded));
    this.#wasm = instance.exports as unknown as SamplerExports;
    this.#wasm.initialize(vocabSize);
  }

  /**
   * Chooses the next token of a sequence.
   *
   * The order is vLLM's: mask, `logitBias`, bans, penalties, then the likeliest token if the
   * temperature is 0, else temperature, min-p, top-k, top-p and a draw. Of equal logits, the lower
   * id comes first. Log-probabilities and rank are the model's own, from the logits as they came, and
   * take longer than all the rest: they are computed only if `params.logprobs` asks for them.
   *
   * @param logits [V] f32, left as they are. -Infinity is a token that cannot come; +Infinity
   *   counts as the greatest finite f32.
   * @param request The parameters and the sequence.
   * @returns The token.
   * @throws {BackendError} If a logit is NaN or all are -Infinity.
   * @throws {InvalidArgumentError} If mask, bans and `allowedTokenIds` leave no token, or the
   *   request does not fit the vocabulary.
   */
  sample(logits: Float32Array, request: SamplingRequest): SampledToken {
    const { params, history, promptLength, choiceIndex, position } = request;
    const wasm = this.#wasm;
    checkInteger("promptLength", promptLength, 0, history.length);
    checkInteger("choiceIndex", choiceIndex, 0, UINT32_MAX);
    checkInteger("position", position, 0, UINT32_MAX);
    this.#begin(logits);
    this.#adjust(request);
    const tokenId = params.temperature === 0 ? wasm.greedy() : wasm.draw(
      params.temperature,
      params.minP,
      Math.min(params.topK, this.#vocabSize),
      params.topP,
      BigInt.asUintN(64, params.seed),
      choiceIndex,
      position,
    );
    if (tokenId < 0) {
      throw new InvalidArgumentError(
        "allowedTokenIds",
        "Cannot sample a token: the mask, the bans and allowedTokenIds leave none, allow at least " +
          "one whose logit is above -Infinity.",
      );
    }
    if (params.logprobs === undefined) return { tokenId };
    if (wasm.adjusted.value) this.#begin(logits);
    return { tokenId, logprobs: this.#logprobsOf(tokenId, params.logprobs) };
  }

  /**
   * The log-probability that the logits give to a token, for example to the next one of a prompt.
   *
   * @param logits [V] f32, as in {@linkcode sample}.
   * @param targetId The token.
   * @param topN How many of the likeliest tokens to list, 0 to V.
   * @returns The token's log-probability and rank, and the likeliest tokens.
   * @throws {BackendError} If a logit is NaN or all are -Infinity.
   * @throws {InvalidArgumentError} If `targetId` or `topN` does not fit the vocabulary.
   * @example
   * ```ts
   * import { Sampler } from "@hybridseek/hybridseek";
   * import assert from "node:assert/strict";
   * const { logprob, rank, top } = new Sampler(2).logprobsOf(Float32Array.of(5, 5), 1, 1);
   * assert.deepEqual([logprob, rank, top], [-Math.LN2, 2, [{ tokenId: 0, logprob: -Math.LN2 }]]);
   * ```
   */
  logprobsOf(logits: Float32Array, targetId: number, topN: number): TokenLogprobs {
    checkInteger("targetId", targetId, 0, this.#vocabSize - 1);
    checkInteger("topN", topN, 0, this.#vocabSize);
    this.#begin(logits);
    return this.#logprobsOf(targetId, topN);
  }

  #logprobsOf(tokenId: number, topN: number): TokenLogprobs {
    const { logprob, rank } = this.#wasm;
    return { tokenId, logprob: logprob(tokenId), rank: rank(tokenId), top: this.#top(topN) };
  }

  /** Copies the logits and checks them. */
  #begin(logits: Float32Array): void {
    if (logits.length !== this.#vocabSize) {
      throw new InvalidArgumentError(
        "logits",
        `Cannot sample a token: there are ${logits.length} logits, ${this.#vocabSize} are needed.`,
      );
    }
    const { memory, logits: { value: offset } } = this.#wasm;
    new Float32Array(memory.buffer, offset, logits.length).set(logits);
    const status = this.#wasm.begin();
    if (status === USABLE) return;
    const fault = status === ALL_MASKED
      ? "all logits are -Infinity"
      : `the logit of token ${status} is NaN`;
    throw new BackendError(
      "backend_failed",
      `Cannot sample a token: ${fault}, check the model's files and the backend's self-check.`,
    );
  }

  /** Applies what changes logits, in vLLM's order. */
  #adjust({ params, history, promptLength, allowed, banned = [] }: SamplingRequest): void {
    const wasm = this.#wasm;
    const { allowedTokenIds, logitBias } = params;
    if (allowed !== undefined || allowedTokenIds !== undefined) {
      this.#writeMask(allowed, allowedTokenIds);
      wasm.applyMask();
    }
    if (logitBias.length > 0) {
      const count = logitBias.length;
      const input = wasm.reserveInput(2 * count);
      this.#writeIds(input, "logitBias", logitBias.map(([id]) => id));
      const biases = new Float32Array(wasm.memory.buffer, input + 4 * count, count);
      biases.set(logitBias.map(([, bias]) => bias));
      wasm.applyBias(input, count);
    }
    if (banned.length > 0) {
      const input = wasm.reserveInput(banned.length);
      this.#writeIds(input, "banned", banned);
      wasm.applyBans(input, banned.length);
    }
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = params;
    const penalizesPrompt = repetitionPenalty !== 1;
    const from = penalizesPrompt ? 0 : promptLength;
    const count = history.length - from;
    if (count > 0 && (penalizesPrompt || presencePenalty !== 0 || frequencyPenalty !== 0)) {
      const input = wasm.reserveInput(count);
      this.#writeIds(input, "history", history, from);
      wasm.penalize(
        input,
        count,
        promptLength - from,
        repetitionPenalty,
        presencePenalty,
        frequencyPenalty,
      );
    }
  }

  /** Writes the tokens that both the bits and the list allow. */
  #writeMask(allowed?: Uint32Array, ids?: readonly number[]): void {
    const words = Math.ceil(this.#vocabSize / 32);
    if (allowed !== undefined && allowed.length < words) {
      throw new InvalidArgumentError(
        "allowed",
        `Cannot use the mask: it has ${allowed.length} words, ${words} are needed.`,
      );
    }
    const mask = new Uint32Array(this.#wasm.memory.buffer, this.#wasm.allowed.value, words);
    if (ids === undefined) return mask.set(allowed!.subarray(0, words));
    mask.fill(0);
    for (const id of ids) {
      checkInteger("allowedTokenIds", id, 0, this.#vocabSize - 1);
      const word = id >>> 5;
      mask[word]! |= (1 << (id & 31)) & (allowed === undefined ? -1 : allowed[word]!);
    }
  }

  /** Writes `ids[from ...]` to the module's memory. */
  #writeIds(input: number, field: string, ids: ArrayLike<number>, from = 0): void {
    const list = new Uint32Array(this.#wasm.memory.buffer, input, ids.length - from);
    for (let i = 0; i < list.length; i++) {
      const id = ids[from + i]!;
      checkInteger(field, id, 0, this.#vocabSize - 1);
      list[i] = id;
    }
  }

  /** The likeliest tokens of the logits. */
  #top(wanted: number): TokenLogprob[] {
    if (wanted === 0) return [];
    const { memory, candidateIds, findTop, logprob } = this.#wasm;
    const count = findTop(wanted);
    const ids = new Uint32Array(memory.buffer, candidateIds.value, count);
    const tokens = Array.from(ids, (tokenId) => ({ tokenId, logprob: logprob(tokenId) }));
    // Stable, and the ids ascend: of equally likely tokens the lower id stays first.
    return tokens.sort((a, b) => b.logprob - a.logprob);
  }
}

function checkInteger(field: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw new InvalidArgumentError(
    field,
    `Cannot use ${value} for ${field}: it must be an integer from ${least} to ${most}.`,
  );
}
