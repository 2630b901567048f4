/**
 * Guesses what follows from what stood before: text that repeats itself (code that is edited, answers that
 * quote) is written several tokens at a time.
 * @module
 */

/** How tokens are guessed. */
export interface PromptLookup {
  /** Most tokens that are guessed at a time. */
  numTokens: number;
  /** Fewest last tokens that must have stood before. */
  ngramMin: number;
  /** Most last tokens that are compared. */
  ngramMax: number;
}

/**
 * The tokens that followed the last time that the sequence's last tokens stood in it: where most of them did,
 * of several such places the latest.
 *
 * @param tokenIds The sequence.
 * @param most How many tokens at most.
 * @param lookup How many must agree.
 * @returns The tokens, none if too few agree anywhere.
 */
export function lookUp(
  tokenIds: readonly number[],
  most: number,
  { numTokens, ngramMin, ngramMax }: PromptLookup,
): readonly number[] {
  const last = tokenIds.length - 1;
  let longest = ngramMin - 1;
  let found = 0;
  for (let end = last - 1; end >= longest && longest < ngramMax; end--) {
    let length = 0;
    while (
      length < ngramMax && length <= end && tokenIds[end - length] === tokenIds[last - length]
    ) length++;
    if (length <= longest) continue;
    longest = length;
    found = end + 1;
  }
  return longest < ngramMin ? [] : tokenIds.slice(found, found + Math.min(most, numTokens));
}
