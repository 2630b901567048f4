/**
 * The median: half of the values are below it.
 *
 * @param values At least one; left as they are.
 * @returns The middle one, the mean of two.
 */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Rounds for a report. @param value Any. @param digits That count. @returns The number. */
export function rounded(value: number, digits = 4): number {
  return Number(value.toPrecision(digits));
}
