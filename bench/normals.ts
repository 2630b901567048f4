/**
 * Random numbers that are the same in every run.
 * @module
 */

/** Standard normal numbers from a linear congruential generator: the same logits in every run. */
export function* normals(): Generator<number> {
  let state = 12345;
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  while (true) yield Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
}
