/**
 * Philox4x32-10, a counter-based generator: the number is a function of key and counter, hence
 * there is no state to keep, to order or to restore. J. Salmon and others, "Parallel random
 * numbers: as easy as 1, 2, 3", SC11.
 */

const MULTIPLIER_0: u64 = 0xD2511F53;
const MULTIPLIER_1: u64 = 0xCD9E8D57;
const WEYL_0: u32 = 0x9E3779B9;
const WEYL_1: u32 = 0xBB67AE85;
const ROUNDS: u32 = 10;

/**
 * The uniform number of a draw.
 *
 * @param seed The key.
 * @param position The counter's word 0.
 * @param choice The counter's word 1; words 2 and 3 are 0.
 * @returns In [0, 1), a multiple of 2^-53: the upper 27 bits of output word 0, then 26 of word 1.
 */
export function uniform(seed: u64, position: u32, choice: u32): f64 {
  let key0 = <u32>seed;
  let key1 = <u32>(seed >> 32);
  let word0 = position;
  let word1 = choice;
  let word2: u32 = 0;
  let word3: u32 = 0;
  for (let round: u32 = 0; round < ROUNDS; round++) {
    const product0 = MULTIPLIER_0 * word0;
    const product1 = MULTIPLIER_1 * word2;
    word0 = <u32>(product1 >> 32) ^ word1 ^ key0;
    word2 = <u32>(product0 >> 32) ^ word3 ^ key1;
    word1 = <u32>product1;
    word3 = <u32>product0;
    key0 += WEYL_0;
    key1 += WEYL_1;
  }
  const bits = (<u64>(word0 >> 5) << 26) | (word1 >> 6);
  return <f64>bits * (1.0 / 9007199254740992.0);
}
