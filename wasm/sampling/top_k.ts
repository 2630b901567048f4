/** The highest k tokens: top-k sampling, and the most likely tokens of a list of logprobs. */
import { count, EVERY_TIE, keep, scoreList } from "./candidates";
import { blockCount, F32_MAX, logitMaxima } from "./memory";
import { lastTie, select, threshold } from "./select";

/**
 * Keeps of all tokens those whose score is at least `floor`, and of these the first k of the order
 * (score descending, id ascending).
 *
 * At least k tokens reach the k-th of the block maxima. That bound spares the selection nearly all
 * tokens, unless k is above the number of blocks.
 *
 * @param k At least 1.
 * @param floor A finite score.
 */
export function keepTop(k: u32, floor: f32): void {
  if (k <= blockCount) {
    select(logitMaxima, logitMaxima, -F32_MAX, blockCount, k, false);
    floor = max(floor, threshold);
  }
  keep(floor, EVERY_TIE);
  if (count > k) {
    select(scoreList, scoreList, -F32_MAX, count, k, false);
    keep(threshold, lastTie);
  }
}
