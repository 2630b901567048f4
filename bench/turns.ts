/**
 * Sides that are timed in turns.
 * @module
 */
import { median } from "./statistics.ts";

/**
 * Times each side once a round, in order, and prints the round on standard error.
 *
 * @param label Of the lines.
 * @param rounds How often each side runs.
 * @param sides What times each: its tokens a second.
 * @returns Tokens a second of each side's rounds.
 */
export async function takeTurns<Name extends string>(
  label: string,
  rounds: number,
  sides: Readonly<Record<Name, () => Promise<number>>>,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(sides) as Name[];
  const rates = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<
    Name,
    number[]
  >;
  for (let round = 0; round < rounds; round++) {
    for (const name of names) rates[name].push(await sides[name]());
    const shown = names.map((name) => `${name} ${rates[name][round]!.toFixed(2)}`);
    console.error(`${label}, round ${round + 1}: ${shown.join(", ")} tok/s`);
  }
  return rates;
}

/**
 * Compares two sides.
 *
 * @param ours Tokens a second of each round.
 * @param theirs The same of the other side.
 * @returns The median of the rounds' ratios.
 */
export function ratioOf(ours: readonly number[], theirs: readonly number[]): number {
  return median(ours.map((rate, round) => rate / theirs[round]!));
}

/**
 * The fastest of several ways that a side can run.
 *
 * @param rates Tokens a second of each way's rounds.
 * @returns The one with the highest median.
 */
export function fastest<Name extends string>(rates: Readonly<Record<Name, number[]>>): Name {
  const names = Object.keys(rates) as Name[];
  return names.reduce((best, name) => median(rates[name]) > median(rates[best]) ? name : best);
}
