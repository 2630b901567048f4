/**
 * How an engine shares a model between requests, and how a request wants to be treated; checked once.
 * @module
 */
import { InvalidArgumentError } from "../errors.ts";
import type { PromptLookup } from "./prompt_lookup.ts";
import type { SchedulerOptions } from "./scheduler.ts";
import type { RequestTerms } from "./sequence.ts";

/** Guessing tokens ahead and computing the guesses in one step: the same tokens in fewer steps. */
export interface SpeculativeOptions extends Partial<PromptLookup> {
  /** `ngram`: what followed when the last tokens stood in the prompt or the output before. */
  method: "ngram";
  /** Most tokens that are guessed at a time, 1 to 32. Default 5. */
  numTokens?: number;
  /** Fewest last tokens that must have stood before, at least 1. Default 2. */
  ngramMin?: number;
  /** Most last tokens that are compared, `ngramMin` to 32. Default 4. */
  ngramMax?: number;
}

/** How an engine shares a model between requests. */
export interface EngineOptions extends SchedulerOptions {
  /** Guessing tokens ahead; none by default. */
  speculative?: SpeculativeOptions;
}

/** How a request wants to be treated. */
export interface RequestOptions {
  /** Of waiting requests the one with the lowest number goes first, as in vLLM. Default 0. */
  priority?: number;
  /**
   * The request finds computed prompts only of requests with the same salt. Give each tenant its own, and
   * none can find out by the time it takes what another has asked. Default: none, all find all.
   */
  cacheSalt?: string;
  /**
   * How long it may take in all, waiting included, milliseconds. It ends within a step then, with an
   * {@linkcode OverloadError}. Default: no limit.
   */
  timeoutMs?: number;
  /** Stops it within one step of the model; it throws the signal's reason. */
  signal?: AbortSignal;
}

/** Most guesses at a time, and most tokens compared: more never pay. */
const MOST_NGRAM = 32;

/**
 * Checks an engine's options.
 *
 * @param options As the caller wrote them.
 * @returns How tokens are guessed; `undefined` if they are not.
 * @throws {InvalidArgumentError} If one is out of its range.
 */
export function checkEngineOptions(options: EngineOptions): PromptLookup | undefined {
  const { maxNumSeqs, maxNumBatchedTokens, maxQueuedRequests, enablePrefixCaching } = options;
  checkCount("maxNumSeqs", maxNumSeqs ?? 1, 1);
  checkCount("maxNumBatchedTokens", maxNumBatchedTokens ?? 1, 1);
  checkCount("maxQueuedRequests", maxQueuedRequests ?? 0, 0);
  if (enablePrefixCaching !== undefined && typeof enablePrefixCaching !== "boolean") {
    throw invalid("enablePrefixCaching", enablePrefixCaching, "true or false");
  }
  const { speculative } = options;
  if (speculative === undefined) return undefined;
  if (speculative?.method !== "ngram") {
    throw invalid("speculative.method", speculative?.method, '"ngram"');
  }
  const { numTokens = 5, ngramMin = 2, ngramMax = Math.max(4, ngramMin) } = speculative;
  checkCount("speculative.numTokens", numTokens, 1, MOST_NGRAM);
  checkCount("speculative.ngramMin", ngramMin, 1, MOST_NGRAM);
  checkCount("speculative.ngramMax", ngramMax, ngramMin, MOST_NGRAM);
  return { numTokens, ngramMin, ngramMax };
}

/**
 * Checks a request's options.
 *
 * @param options As the caller wrote them.
 * @param now The time, of `performance.now()`.
 * @returns What the scheduler takes.
 * @throws {InvalidArgumentError} If one is out of its range.
 */
export function termsOf(
  { priority = 0, cacheSalt = "", timeoutMs = Infinity }: RequestOptions,
  now: number,
): RequestTerms {
  checkCount("priority", priority, Number.MIN_SAFE_INTEGER);
  if (typeof cacheSalt !== "string") throw invalid("cacheSalt", cacheSalt, "a string");
  if (typeof timeoutMs !== "number" || !(timeoutMs > 0)) {
    throw invalid("timeoutMs", timeoutMs, "a number above 0");
  }
  return { priority, cacheSalt, deadline: now + timeoutMs };
}

function checkCount(field: string, value: number, least: number, most = Number.MAX_SAFE_INTEGER) {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return;
  const range = most === Number.MAX_SAFE_INTEGER
    ? `an integer of at least ${least}`
    : `an integer from ${least} to ${most}`;
  throw invalid(field, value, range);
}

function invalid(field: string, value: unknown, needed: string): InvalidArgumentError {
  return new InvalidArgumentError(
    field,
    `Cannot use ${field} = ${JSON.stringify(value)}: it must be ${needed}.`,
  );
}
