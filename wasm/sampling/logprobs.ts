/**
 * Log-probabilities of the model: log softmax of the logits as they came. Where mask, biases or
 * penalties have changed them, the host writes them anew before.
 */
import { count, startWithAll } from "./candidates";
import { logitMax, logitTotal } from "./logits";
import { BLOCK, blockCount, F32_MAX, logitMaxima, logits, vocabSize } from "./memory";
import { keepTop } from "./top_k";

/**
 * The log-probability of a token.
 *
 * @param id Below V.
 * @returns At most 0; -Infinity for a logit of -Infinity.
 */
export function logprob(id: u32): f64 {
  return <f64>load<f32>(logits + (<usize>id << 2)) - logitMax() - Math.log(logitTotal());
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
  startWithAll();
  keepTop(wanted, -F32_MAX);
  return count;
}
