/**
 * Sampling parameters in vLLM's terms, checked once when a request comes in.
 * @module
 */
import {
  type ResolvedStructuredOutputs,
  type StructuredOutputs,
  structuredOutputs,
} from "./constraints/structured_outputs.ts";
import { InvalidArgumentError } from "./errors.ts";
import { nearestName, sameName } from "./nearest_name.ts";
import {
  biases,
  flag,
  integer,
  type Kind,
  limit,
  real,
  refused,
  seed,
  strings,
  tokenIds,
  written,
} from "./sampling/parameter_kinds.ts";

export type { ResolvedStructuredOutputs, StructuredOutputs };

/** How tokens are chosen and when to stop; every field may be left out. */
export interface SamplingParams {
  /** Choices to generate for the prompt, 1 to 128. Default 1. */
  n?: number;
  /** Most tokens to generate for each choice, at least 1. Default 16. */
  maxTokens?: number;
  /** Tokens to generate before a stop token may end the choice, 0 to `maxTokens`. Default 0. */
  minTokens?: number;
  /** Divides the logits: 0 is greedy, below 1 sharpens, above 1 flattens. Default 1. */
  temperature?: number;
  /**
   * Keeps the smallest set of likeliest tokens that has this probability, above 0 to 1. Default 1.
   */
  topP?: number;
  /** Keeps so many likeliest tokens; 0 or -1 keeps all. Default 0. */
  topK?: number;
  /** Keeps tokens at least so likely relative to the likeliest, 0 to 1. Default 0. */
  minP?: number;
  /**
   * Divides the positive and multiplies the negative logits of tokens of the prompt or the output,
   * above 0. Default 1.
   */
  repetitionPenalty?: number;
  /** Subtracted from the logits of tokens of the output, -2 to 2. Default 0. */
  presencePenalty?: number;
  /** Subtracted from the logit of a token for each time in the output, -2 to 2. Default 0. */
  frequencyPenalty?: number;
  /** Added to the logits of these token ids, each -100 to 100; at most 1,024 ids. */
  logitBias?: Record<number, number>;
  /** Only these token ids may be generated, 1 to 131,072 of them. Default: all. */
  allowedTokenIds?: readonly number[];
  /**
   * An integer of 64 bits, signed or unsigned; the same seed gives the same text. A `number` must
   * be a safe integer. Default: random, and reported with the output.
   */
  seed?: number | bigint;
  /** Text that ends a choice: at most 64 strings of 1 to 1,024 UTF-16 units. */
  stop?: string | readonly string[];
  /** Token ids that end a choice, at most 1,024. */
  stopTokenIds?: readonly number[];
  /** Whether to go on after the end-of-sequence token. Default false. */
  ignoreEos?: boolean;
  /** Whether the output's text ends with the stop string that ended it. Default false. */
  includeStopStrInOutput?: boolean;
  /** Whether special tokens are left out of the output's text. Default true. */
  skipSpecialTokens?: boolean;
  /**
   * Log-probabilities to return for each generated token: 0 for its own only, N for the N likeliest
   * tokens as well, at most 1,024. Default: none.
   */
  logprobs?: number;
  /** The same for each token of the prompt. */
  promptLogprobs?: number;
  /** Whether to turn the output into text; without it there can be no `stop`. Default true. */
  detokenize?: boolean;
  /**
   * What the output must be. The end-of-sequence token may come exactly where that is complete, and must
   * where nothing else can follow, whatever `minTokens` says; `maxTokens`, `stop` and `stopTokenIds` may cut
   * the output before. Log-probabilities are the model's own, as without it. Not with `ignoreEos`. Default:
   * anything.
   */
  structuredOutputs?: StructuredOutputs;
}

/**
 * {@linkcode SamplingParams} after {@linkcode resolveSamplingParams}: complete, checked, frozen.
 */
export interface ResolvedSamplingParams {
  /** Choices to generate. */
  readonly n: number;
  /** Most tokens of a choice. */
  readonly maxTokens: number;
  /** Tokens of a choice before a stop token may end it. */
  readonly minTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** 1 is off. */
  readonly topP: number;
  /** 0 is off. */
  readonly topK: number;
  /** 0 is off. */
  readonly minP: number;
  /** 1 is off. */
  readonly repetitionPenalty: number;
  /** 0 is off. */
  readonly presencePenalty: number;
  /** 0 is off. */
  readonly frequencyPenalty: number;
  /** Biases by token id, ascending; empty is off. */
  readonly logitBias: readonly (readonly [tokenId: number, bias: number])[];
  /** The only token ids to generate; `undefined` is all. */
  readonly allowedTokenIds: readonly number[] | undefined;
  /** The seed that was given, or the random one of 53 bits. */
  readonly seed: bigint;
  /** Text that ends a choice. */
  readonly stop: readonly string[];
  /** Token ids that end a choice. */
  readonly stopTokenIds: readonly number[];
  /** Whether to go on after the end-of-sequence token. */
  readonly ignoreEos: boolean;
  /** Whether the text ends with the stop string. */
  readonly includeStopStrInOutput: boolean;
  /** Whether special tokens are left out of the text. */
  readonly skipSpecialTokens: boolean;
  /** `undefined` is none, N the token's own and the N likeliest. */
  readonly logprobs: number | undefined;
  /** The same for the prompt. */
  readonly promptLogprobs: number | undefined;
  /** Whether there is text. */
  readonly detokenize: boolean;
  /** What the output must be; `undefined` is anything. */
  readonly structuredOutputs: ResolvedStructuredOutputs | undefined;
}

/**
 * Checks parameters and completes them: what the caller gave, else the model's defaults, else
 * vLLM's. The caps on `n`, `stop`, `logitBias` and the like bound what one request can cost.
 *
 * @param params What the caller gave; a field that is `undefined` counts as left out.
 * @param defaults What takes the place of a field that is left out, for example from a model's
 *   generation_config.json; checked alike.
 * @returns A frozen object that shares nothing with the arguments. Its seed is random if none is
 *   given.
 * @throws {InvalidArgumentError} If a field is unknown or out of its range, `minTokens` is above
 *   `maxTokens`, there is a `stop` without `detokenize`, or `ignoreEos` with `structuredOutputs`; `field`
 *   names it.
 * @example
 * ```ts
 * import { resolveSamplingParams } from "@hybridseek/hybridseek";
 * import assert from "node:assert/strict";
 * const params = resolveSamplingParams({ maxTokens: 64, stop: "\n" }, { temperature: 0.3 });
 * assert.deepEqual([params.maxTokens, params.stop, params.temperature], [64, ["\n"], 0.3]);
 * ```
 */
export function resolveSamplingParams(
  params: SamplingParams = {},
  defaults: SamplingParams = {},
): ResolvedSamplingParams {
  const given = new Map([...fieldsOf(defaults), ...fieldsOf(params)]);
  const entries = Object.entries(rows).map(([name, row]) => {
    if (!given.has(name)) return [name, row.initial()];
    const value = row.resolve(given.get(name));
    if (value === refused) throw refusal(name, given.get(name), `it must be ${row.expected}`);
    return [name, value];
  });
  const resolved = Object.fromEntries(entries) as unknown as ResolvedSamplingParams;
  const { minTokens, maxTokens, stop, detokenize, ignoreEos } = resolved;
  if (minTokens > maxTokens) {
    throw refusal("minTokens", minTokens, `it must be at most maxTokens, which is ${maxTokens}`);
  }
  if (stop.length > 0 && !detokenize) {
    throw refusal("stop", stop, "it is found in text, set detokenize to true");
  }
  if (ignoreEos && resolved.structuredOutputs) {
    throw refusal("ignoreEos", true, "output with structuredOutputs ends where it is complete");
  }
  return Object.freeze(resolved);
}

/**
 * Checks what depends on the model: every token id is below the vocabulary's size, and no more
 * log-probabilities are asked for than there are tokens.
 *
 * @param params Checked parameters.
 * @param vocabSize V, the tokens of the vocabulary.
 * @throws {InvalidArgumentError} If one is out of range; `field` names it.
 * @example
 * ```ts
 * import { checkAgainstVocabulary, resolveSamplingParams } from "@hybridseek/hybridseek";
 * import assert from "node:assert/strict";
 * const params = resolveSamplingParams({ stopTokenIds: [100001] });
 * checkAgainstVocabulary(params, 102400);
 * assert.throws(() => checkAgainstVocabulary(params, 32000), { field: "stopTokenIds" });
 * ```
 */
export function checkAgainstVocabulary(params: ResolvedSamplingParams, vocabSize: number): void {
  const ids = {
    logitBias: params.logitBias.map(([id]) => id),
    allowedTokenIds: params.allowedTokenIds ?? [],
    stopTokenIds: params.stopTokenIds,
  };
  for (const [field, list] of Object.entries(ids)) {
    const id = list.find((id) => id >= vocabSize);
    if (id !== undefined) {
      throw refusal(field, [id], `the model's token ids are below ${vocabSize}`);
    }
  }
  for (const field of ["logprobs", "promptLogprobs"] as const) {
    const count = params[field] ?? 0;
    if (count > vocabSize) throw refusal(field, count, `the model has ${vocabSize} tokens`);
  }
}

/** One row a parameter: its value where none is given, and what may be given. */
const rows: { readonly [Name in keyof ResolvedSamplingParams]: Row<ResolvedSamplingParams[Name]> } =
  {
    n: row(1, integer(1, 128)),
    maxTokens: row(16, integer(1)),
    minTokens: row(0, integer(0)),
    temperature: row(1, real({ least: 0 })),
    topP: row(1, real({ above: 0, most: 1 })),
    topK: row(0, limit),
    minP: row(0, real({ least: 0, most: 1 })),
    repetitionPenalty: row(1, real({ above: 0 })),
    presencePenalty: row(0, real({ least: -2, most: 2 })),
    frequencyPenalty: row(0, real({ least: -2, most: 2 })),
    logitBias: row([], biases(1024, 100)),
    allowedTokenIds: row(undefined, tokenIds(1, 131_072)),
    seed: { initial: randomSeed, ...seed },
    stop: row([], strings(64, 1024)),
    stopTokenIds: row([], tokenIds(0, 1024)),
    ignoreEos: row(false, flag),
    includeStopStrInOutput: row(false, flag),
    skipSpecialTokens: row(true, flag),
    logprobs: row(undefined, integer(0, 1024)),
    promptLogprobs: row(undefined, integer(0, 1024)),
    detokenize: row(true, flag),
    structuredOutputs: row(undefined, structuredOutputs),
  };

/** vLLM's and OpenAI's parameters that are known but not supported. */
const beamSearch = ["bestOf", "beamWidth", "useBeamSearch", "lengthPenalty"];

interface Row<T> extends Kind<T> {
  initial(): T;
}

function row<T>(initial: T, kind: Kind<T>): Row<T> {
  Object.freeze(initial);
  return { initial: () => initial, ...kind };
}

/** The fields that are set, after a check that each is known. */
function fieldsOf(params: SamplingParams): [name: string, value: unknown][] {
  if (typeof params !== "object" || params === null || Array.isArray(params)) {
    throw refusal("params", params, "it must be an object of sampling parameters");
  }
  for (const name of Object.keys(params)) {
    if (Object.hasOwn(rows, name)) continue;
    if (beamSearch.some((known) => sameName(known, name))) {
      throw new InvalidArgumentError(
        name,
        `Cannot use ${name}: beam search is not supported, use n with a seed.`,
      );
    }
    const nearest = nearestName(name, Object.keys(rows));
    throw new InvalidArgumentError(
      name,
      `Cannot use ${written(name)}: there is no such parameter, the nearest is ${nearest}.`,
    );
  }
  return Object.entries(params).filter(([, value]) => value !== undefined);
}

function refusal(field: string, value: unknown, reason: string): InvalidArgumentError {
  return new InvalidArgumentError(field, `Cannot use ${field} = ${written(value)}: ${reason}.`);
}

/** 53 bits, so that the seed survives JSON. */
function randomSeed(): bigint {
  const bits = crypto.getRandomValues(new BigUint64Array(1))[0]!;
  return BigInt.asUintN(53, bits);
}
