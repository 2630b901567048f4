/**
 * Log-probabilities of the model: log softmax of the logits as they came, before mask, biases,
 * penalties and temperature (vLLM's `raw_logprobs`).
 */
import { resetScores } from "./adjust";
import { BLOCK, blockCount, F32_MAX, logitMaxima, logits, vocabSize } from "./memory";
import { count, startWithAll } from "./candidates";
import { scan } from "./scan";
import { keepTop } from "./top_k";
import { weigh } from "./weigh";

/** What `begin` returns for logits that can be used. */
const USABLE: i32 = -1;
/** What `begin` returns when every logit is -Infinity. */
const ALL_MASKED: i32 = -2;

/** The greatest logit. */
export let logitMax: f32 = 0;
/** Sum of exp(logit - logitMax). */
export let logitTotal: f64 = 0;
let logTotal: f64 = 0;

/**
 * Reads the logits that the host wrote; every token starts here. +Infinity, which a model gives
 * only where a format overflowed, counts as the greatest finite f32.
 *
 * @returns -1, or the id of the first logit that is NaN, or -2 if all logits are -Infinity.
 */
export function begin(): i32 {
  resetScores();
  logitMax = scan(logits, logitMaxima);
  if (isNaN(logitMax)) return firstNotANumber();
  if (logitMax == -f32.POSITIVE_INFINITY) return ALL_MASKED;
  if (logitMax == f32.POSITIVE_INFINITY) {
    clampInfinities();
    logitMax = scan(logits, logitMaxima);
  }
  startWithAll(logits, logitMaxima);
  logitTotal = weigh(logitMax, 1);
  logTotal = Math.log(logitTotal);
  return USABLE;
}

/**
 * The log-probability of a token.
 *
 * @param id Below V.
 * @returns At most 0; -Infinity for a logit of -Infinity.
 */
export function logprob(id: u32): f64 {
  return <f64>load<f32>(logits + (<usize>id << 2)) - logitMax - logTotal;
}

/**
 * The rank of a token: how many tokens are at least as likely, itself included, as vLLM counts.
 * Hence 1 for the only likeliest token, and 2 for each of two likeliest ones.
 *
 * @param id Below V.
 */
export function rank(id: u32): u32 {
  const logit = load<f32>(logits + (<usize>id << 2));
  const own = f32x4.splat(logit);
  let counts = i32x4.splat(0);
  for (let block: u32 = 0; block < blockCount; block++) {
    if (load<f32>(logitMaxima + (<usize>block << 2)) < logit) continue;
    const from = logits + (<usize>(block * BLOCK) << 2);
    for (let offset: usize = 0; offset < BLOCK * 4; offset += 16) {
      counts = i32x4.sub(counts, f32x4.ge(v128.load(from + offset), own));
    }
  }
  const found = i32x4.extract_lane(counts, 0) + i32x4.extract_lane(counts, 1) +
    i32x4.extract_lane(counts, 2) + i32x4.extract_lane(counts, 3);
  return min(<u32>found, vocabSize); // -Infinity counts the padding, too
}

/**
 * Finds the likeliest tokens; of equally likely ones the lower ids. A logit of -Infinity is none.
 *
 * @param wanted How many, at least 1.
 * @returns How many there are; their ids are in `candidateIds`, ascending.
 */
export function findTop(wanted: u32): u32 {
  startWithAll(logits, logitMaxima);
  keepTop(wanted, -F32_MAX);
  return count;
}

function firstNotANumber(): u32 {
  let id: u32 = 0;
  while (!isNaN(load<f32>(logits + (<usize>id << 2)))) id++;
  return id;
}

function clampInfinities(): void {
  const greatest = f32x4.splat(F32_MAX);
  const end = logits + (<usize>vocabSize << 2);
  for (let at = logits; at < end; at += 16) v128.store(at, f32x4.pmin(v128.load(at), greatest));
}
