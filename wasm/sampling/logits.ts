/** The logits of a token: their greatest one and the sum of their softmax, found when needed. */
import { startWithAll } from "./candidates";
import { F32_MAX, logitMaxima, logits, vocabSize } from "./memory";
import { scan } from "./scan";
import { weigh } from "./weigh";

/** What `begin` returns for logits that can be used. */
const USABLE: i32 = -1;
/** What `begin` returns when every logit is -Infinity. */
const ALL_MASKED: i32 = -2;

/** Whether the logits are no longer those that the host wrote. */
export let adjusted: bool = false;
/** The greatest logit. */
let greatest: f32 = 0;
/** Whether `greatest` and `logitMaxima` are still to be found. */
let unknown: bool = false;
/** Sum of exp(logit - greatest); 0: not known. */
let total: f64 = 0;

/**
 * Reads the logits that the host wrote; every token starts here. +Infinity, which a model gives
 * only where a format overflowed, counts as the greatest finite f32.
 *
 * @returns -1, or the id of the first logit that is NaN, or -2 if all logits are -Infinity.
 */
export function begin(): i32 {
  adjusted = false;
  forget();
  const highest = logitMax();
  if (isNaN(highest)) return firstNotANumber();
  if (highest == -f32.POSITIVE_INFINITY) return ALL_MASKED;
  if (highest == f32.POSITIVE_INFINITY) {
    clampInfinities();
    forget();
  }
  return USABLE;
}

/** To be called where the logits are changed. */
export function markAdjusted(): void {
  adjusted = true;
  forget();
}

function forget(): void {
  unknown = true;
  total = 0;
}

/** The greatest logit; afterwards `logitMaxima` are those of the blocks. */
export function logitMax(): f32 {
  if (unknown) {
    greatest = scan(logits, logitMaxima);
    unknown = false;
  }
  return greatest;
}

/** The sum of exp(logit - logitMax()); when it is found, every token is a candidate with its weight. */
export function logitTotal(): f64 {
  if (total == 0) {
    const highest = logitMax();
    startWithAll();
    total = weigh(highest, 1);
  }
  return total;
}

function firstNotANumber(): u32 {
  let id: u32 = 0;
  while (!isNaN(load<f32>(logits + (<usize>id << 2)))) id++;
  return id;
}

function clampInfinities(): void {
  const most = f32x4.splat(F32_MAX);
  const end = logits + (<usize>vocabSize << 2);
  for (let at = logits; at < end; at += 16) v128.store(at, f32x4.pmin(v128.load(at), most));
}
