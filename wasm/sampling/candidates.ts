/**
 * The tokens that may still be drawn, ascending by id. At first they are the whole vocabulary, read
 * in place; the first `keep` gathers what is left into `candidateIds` and `candidateScores`.
 */
import {
  BLOCK,
  blockSums,
  candidateIds,
  candidateScores,
  fillScores,
  logitMaxima,
  logits,
  vocabSize,
  weights,
} from "./memory";

/** A `lastTie` that keeps every tie. */
export const EVERY_TIE: u32 = u32.MAX_VALUE;

/** How many there are. */
export let count: u32 = 0;
/** f32 [count], padded to whole blocks: their scores. */
export let scoreList: usize = 0;
/** Whether candidate i is token i. */
let whole: bool = true;

/** Starts with every token. `logitMaxima` must be known. */
export function startWithAll(): void {
  count = vocabSize;
  scoreList = logits;
  whole = true;
}

/** The id of a candidate. */
export function idOf(index: u32): u32 {
  return whole ? index : load<u32>(candidateIds + (<usize>index << 2));
}

/**
 * Keeps the candidates above a threshold, and of those on it the first ones.
 *
 * @param threshold A finite score.
 * @param lastTie Index of the last candidate with that very score to keep, or EVERY_TIE.
 */
export function keep(threshold: f32, lastTie: u32): void {
  const lowest = f32x4.splat(threshold);
  const wholeList = whole;
  const from = scoreList;
  const ids = candidateIds;
  const to = candidateScores;
  let kept: u32 = 0;
  for (let start: u32 = 0; start < count; start += BLOCK) {
    if (wholeList && load<f32>(logitMaxima + (<usize>(start / BLOCK) << 2)) < threshold) continue;
    const end = min(start + BLOCK, count);
    for (let index = start; index < end; index += 4) {
      const four = v128.load(from + (<usize>index << 2));
      let lanes = i32x4.bitmask(f32x4.ge(four, lowest));
      for (; lanes != 0; lanes &= lanes - 1) {
        const each = index + ctz(lanes);
        const score = load<f32>(from + (<usize>each << 2));
        if (score == threshold && each > lastTie) continue;
        const id = wholeList ? each : load<u32>(ids + (<usize>each << 2));
        store<u32>(ids + (<usize>kept << 2), id);
        store<f32>(to + (<usize>kept << 2), score);
        kept++;
      }
    }
  }
  count = kept;
  scoreList = candidateScores;
  whole = false;
  const padded = (kept + BLOCK - 1) & ~(BLOCK - 1);
  fillScores(scoreList + (<usize>kept << 2), scoreList + (<usize>padded << 2));
}

/**
 * Inverts the cumulative distribution over the candidates in the order of their ids.
 *
 * @param target In [0, total of the weights].
 * @returns The id of the first candidate at which the running sum of weights exceeds `target`.
 */
export function idAt(target: f64): u32 {
  const lastBlock = (count - 1) / BLOCK;
  let block: u32 = 0;
  let sum: f64 = 0;
  for (; block < lastBlock; block++) {
    const next = sum + load<f64>(blockSums + (<usize>block << 3));
    if (next > target) break;
    sum = next;
  }
  const end = min((block + 1) * BLOCK, count);
  for (let index = block * BLOCK; index < end; index++) {
    sum += load<f32>(weights + (<usize>index << 2));
    if (sum > target) return idOf(index);
  }
  // A block's sum is added up in another order than here: the last ulp belongs to its last token.
  let index = end - 1;
  while (load<f32>(weights + (<usize>index << 2)) == 0) index--;
  return idOf(index);
}
