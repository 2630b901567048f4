/**
 * Random token ids, the same in every run.
 *
 * @param count How many.
 * @param vocabSize They are below it.
 * @param seed Another seed, other tokens.
 * @returns The ids.
 */
export function randomTokens(count: number, vocabSize: number, seed = 1): number[] {
  let state = (seed * 7919) % 0x7fffffff || 1;
  return Array.from({ length: count }, () => (state = state * 48271 % 0x7fffffff) % vocabSize);
}
