/**
 * The choice of a token from the logits: greedy, or temperature, min-p, top-k, top-p and a draw.
 */
import { count, EVERY_TIE, idAt, keep, scoreList, startWithAll } from "./candidates";
import { logitMax, logitTotal } from "./logits";
import { F32_MAX, logitMaxima, logits, vocabSize, weights } from "./memory";
import { uniform } from "./philox";
import { firstHighest } from "./scan";
import { lastTie, select, threshold } from "./select";
import { keepTop } from "./top_k";
import { weigh } from "./weigh";

/** What is returned when no token is left. */
const NOTHING_LEFT: i32 = -1;
/** 2^126 and 2^-126: 1 / temperature stays a normal f32, so that it times a distance is no NaN. */
const SCALE_MAX: f64 = 8.507059173023462e37;
const SCALE_MIN: f64 = 1.1754943508222875e-38;

/**
 * The token of the highest logit, of equal ones the lowest id.
 *
 * @returns Its id, or -1 if every token is masked.
 */
export function greedy(): i32 {
  const highest = logitMax();
  if (highest == -f32.POSITIVE_INFINITY) return NOTHING_LEFT;
  return firstHighest(logits, logitMaxima, highest);
}

/**
 * Draws a token.
 *
 * @param temperature Above 0.
 * @param minP In [0, 1]; 0 is off. Keeps what is at least so likely relative to the likeliest
 *   token.
 * @param topK How many tokens to keep; 0 is off.
 * @param topP In (0, 1]; 1 is off. Keeps the smallest prefix of the order that is at least so
 *   likely, relative to what min-p and top-k kept.
 * @param seed Philox's key.
 * @param choice Index of the choice among n.
 * @param position Position of the token.
 * @returns Its id, or -1 if every token is masked.
 */
export function draw(
  temperature: f64,
  minP: f64,
  topK: u32,
  topP: f64,
  seed: u64,
  choice: u32,
  position: u32,
): i32 {
  const highest = logitMax();
  if (highest == -f32.POSITIVE_INFINITY) return NOTHING_LEFT;
  const scale = min(max(1 / temperature, SCALE_MIN), SCALE_MAX);

  startWithAll();
  const floor = minP > 0 ? roundUp(highest + temperature * Math.log(minP)) : -F32_MAX;
  if (topK > 0 && topK < vocabSize) keepTop(topK, floor);
  else if (minP > 0) keep(floor, EVERY_TIE);

  // The weights of all tokens at temperature 1 are those of the logprobs.
  let total = scoreList == logits && scale == 1 ? logitTotal() : weigh(highest, scale);
  if (topP < 1) {
    // What is lighter than this sums up to less than the share that top-p leaves out, hence the
    // prefix ends before it. Halved, because the sums are rounded.
    const negligible = <f32>(0.5 * (1 - topP) * total / count);
    select(scoreList, weights, negligible, count, topP * total, true);
    keep(threshold, lastTie);
    total = weigh(highest, scale);
  }
  return idAt(uniform(seed, position, choice) * total);
}

/** The least f32 that is not below `value`, or -F32_MAX. */
function roundUp(value: f64): f32 {
  if (value < -F32_MAX) return -F32_MAX;
  const near = <f32>value;
  if (<f64>near >= value) return near;
  const bits = reinterpret<i32>(near);
  return reinterpret<f32>(near < 0 ? bits - 1 : bits + 1);
}
