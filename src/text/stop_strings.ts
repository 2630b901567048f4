/**
 * Finds stop strings in a text while it is being generated.
 * @module
 */
import { InvalidArgumentError } from "../errors.ts";

/** What may be shown, and whether a stop string ended the text. */
export interface StopStringsResult {
  /** Text that can not belong to a stop string any more. */
  text: string;
  /** The stop string that was found; the text ends there. */
  stop?: string;
}

/** A stop string and how much of it the text so far ends with. */
interface Candidate {
  readonly stop: string;
  /** `borders[n]`: the longest proper prefix of the first n units that is also their suffix. */
  readonly borders: Uint32Array;
  /** Units of `stop` that the text ends with; where it began is the text's length less this. */
  matched: number;
}

/** An occurrence: where it begins in the whole text, and which stop string it is. */
interface Occurrence {
  start: number;
  index: number;
}

/**
 * Holds back text that could begin a stop string until that is settled. The occurrence that begins
 * first wins, of those that begin together the one listed first; how the text is cut into pieces
 * makes no difference. Each unit of text is looked at once per stop string (Knuth, Morris and Pratt).
 *
 * @example
 * ```ts
 * import { StopStrings } from "@hybridseek/hybridseek";
 * import { strict as assert } from "node:assert";
 * const stops = new StopStrings(["\n\nUser:"]);
 * assert.deepEqual(stops.push("Hello.\n"), { text: "Hello." });
 * assert.deepEqual(stops.push("\nUser: hi"), { text: "", stop: "\n\nUser:" });
 * ```
 */
export class StopStrings {
  readonly #candidates: Candidate[];
  readonly #includeStopString: boolean;
  /** Text that was pushed and not returned. */
  #held = "";
  /** Where `#held` begins in the whole text, in UTF-16 units. */
  #heldStart = 0;
  #best: Occurrence | undefined;
  #done = false;

  /**
   * Begins a text.
   *
   * @param stops The stop strings, none of them empty.
   * @param options `includeStopString`: whether the text returned ends with the stop string instead
   *   of before it. Default false.
   * @throws {InvalidArgumentError} If a stop string is empty.
   */
  constructor(stops: readonly string[], options: { includeStopString?: boolean } = {}) {
    this.#candidates = stops.map((stop) => {
      if (stop === "") {
        throw new InvalidArgumentError(
          "stop",
          "Cannot look for stop strings: one is empty, leave it out.",
        );
      }
      return { stop, borders: bordersOf(stop), matched: 0 };
    });
    this.#includeStopString = options.includeStopString ?? false;
  }

  /**
   * Takes the next piece of the text.
   *
   * @param text The piece, of any length; after a stop string was found it is dropped.
   * @returns What may be shown now, and the stop string once it is found.
   */
  push(text: string): StopStringsResult {
    if (this.#done) return { text: "" };
    let position = this.#heldStart + this.#held.length;
    this.#held += text;
    for (let i = 0; i < text.length; i++) {
      this.#advance(text.charCodeAt(i), ++position);
      if (this.#best && this.#firstOpen(position) === undefined) return this.#stop(this.#best);
    }
    let settled = this.#best?.start ?? position;
    for (const { matched } of this.#candidates) settled = Math.min(settled, position - matched);
    return { text: this.#release(settled) };
  }

  /**
   * Ends the text.
   *
   * @returns What was held back, up to a stop string if a longer one was still awaited.
   */
  finish(): StopStringsResult {
    if (this.#done) return { text: "" };
    if (this.#best) return this.#stop(this.#best);
    this.#done = true;
    return { text: this.#release(this.#heldStart + this.#held.length) };
  }

  /** Takes one unit, after which the text has `position` units. */
  #advance(unit: number, position: number) {
    this.#candidates.forEach((candidate, index) => {
      const { stop, borders } = candidate;
      let matched = candidate.matched;
      while (matched > 0 && stop.charCodeAt(matched) !== unit) matched = borders[matched]!;
      if (stop.charCodeAt(matched) === unit) matched++;
      if (matched === stop.length) {
        const occurrence = { start: position - matched, index };
        if (!this.#best || precedes(occurrence, this.#best)) this.#best = occurrence;
        matched = borders[matched]!;
      }
      candidate.matched = matched;
    });
  }

  /** An unfinished occurrence that would win over the best one, if there is any. */
  #firstOpen(position: number): Candidate | undefined {
    const best = this.#best!;
    return this.#candidates.find(({ matched }, index) =>
      matched > 0 && precedes({ start: position - matched, index }, best)
    );
  }

  #stop({ start, index }: Occurrence): StopStringsResult {
    const { stop } = this.#candidates[index]!;
    this.#done = true;
    const text = this.#release(start + (this.#includeStopString ? stop.length : 0));
    this.#held = "";
    return { text, stop };
  }

  /** Gives out the held text up to a position of the whole text. */
  #release(end: number): string {
    const text = this.#held.slice(0, end - this.#heldStart);
    this.#held = this.#held.slice(text.length);
    this.#heldStart = end;
    return text;
  }
}

function precedes(a: Occurrence, b: Occurrence): boolean {
  return a.start < b.start || (a.start === b.start && a.index < b.index);
}

/** The failure function: entry n is for the first n units; entries 0 and 1 are 0. */
function bordersOf(stop: string): Uint32Array {
  const borders = new Uint32Array(stop.length + 1);
  for (let n = 1, border = 0; n < stop.length; n++) {
    while (border > 0 && stop.charCodeAt(border) !== stop.charCodeAt(n)) border = borders[border]!;
    if (stop.charCodeAt(border) === stop.charCodeAt(n)) border++;
    borders[n + 1] = border;
  }
  return borders;
}
