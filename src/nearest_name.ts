/**
 * What a caller probably meant by a name that does not exist, for error messages.
 * @module
 */

/** Only the start of a name is compared: a hostile one must not cost time. */
const COMPARED_LENGTH = 64;

/**
 * The known name that is fewest edits away, whatever the case and the separators.
 *
 * @param name What the caller wrote.
 * @param known The names there are, at least one.
 * @returns One of `known`, of equally near ones the first.
 * @example
 * ```ts
 * import { nearestName } from "./nearest_name.ts";
 * import assert from "node:assert/strict";
 * assert.equal(nearestName("max_new_tokens", ["minTokens", "maxTokens"]), "maxTokens");
 * ```
 */
export function nearestName(name: string, known: readonly string[]): string {
  const distances = known.map((each) => editDistance(plain(name), plain(each)));
  return known[distances.indexOf(Math.min(...distances))]!;
}

/**
 * Whether two names differ by case and separators alone, as `max_tokens` and `maxTokens` do.
 *
 * @param a One name.
 * @param b The other name.
 * @returns Whether they do.
 */
export function sameName(a: string, b: string): boolean {
  return plain(a) === plain(b);
}

function plain(name: string): string {
  return name.slice(0, COMPARED_LENGTH).replace(/[_-]/g, "").toLowerCase();
}

/** Levenshtein's distance: insertions, deletions and replacements that turn `a` into `b`. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const replaced = previous[column - 1]! + (a[row - 1] === b[column - 1] ? 0 : 1);
      current.push(Math.min(replaced, previous[column]! + 1, current[column - 1]! + 1));
    }
    previous = current;
  }
  return previous[b.length]!;
}
