/** The maximum of a list of scores, block by block. */
import { BLOCK, blockCount } from "./memory";

/**
 * Finds the maximum and those of the blocks.
 *
 * @param scores f32 [V], padded.
 * @param maxima f32 [blocks]: where the blocks' maxima go.
 * @returns The maximum, or NaN if any score is NaN.
 */
export function scan(scores: usize, maxima: usize): f32 {
  let highest: f32 = -f32.POSITIVE_INFINITY;
  let unordered = i32x4.splat(0);
  let at = scores;
  for (let block: u32 = 0; block < blockCount; block++) {
    let a = v128.load(at);
    let b = v128.load(at, 16);
    unordered = v128.or(unordered, v128.or(f32x4.ne(a, a), f32x4.ne(b, b)));
    for (let offset: usize = 32; offset < BLOCK * 4; offset += 32) {
      const c = v128.load(at + offset);
      const d = v128.load(at + offset, 16);
      unordered = v128.or(unordered, v128.or(f32x4.ne(c, c), f32x4.ne(d, d)));
      a = f32x4.pmax(a, c);
      b = f32x4.pmax(b, d);
    }
    a = f32x4.pmax(a, b);
    a = f32x4.pmax(a, i32x4.shuffle(a, a, 2, 3, 0, 1));
    a = f32x4.pmax(a, i32x4.shuffle(a, a, 1, 0, 3, 2));
    const blockMax = f32x4.extract_lane(a, 0);
    store<f32>(maxima + (<usize>block << 2), blockMax);
    if (blockMax > highest) highest = blockMax;
    at += BLOCK * 4;
  }
  return v128.any_true(unordered) ? f32.NaN : highest;
}

/**
 * The first token with the highest score.
 *
 * @param scores f32 [V].
 * @param maxima f32 [blocks]: its blocks' maxima.
 * @param highest What `scan` returned, above -Infinity.
 * @returns Its id.
 */
export function firstHighest(scores: usize, maxima: usize, highest: f32): u32 {
  let block: u32 = 0;
  while (load<f32>(maxima + (<usize>block << 2)) != highest) block++;
  let id = block * BLOCK;
  while (load<f32>(scores + (<usize>id << 2)) != highest) id++;
  return id;
}
