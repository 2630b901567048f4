/**
 * The kinds of values that sampling parameters have: how each is checked, said and copied.
 * @module
 */

/** What `resolve` returns for a value that is not of its kind. */
export const refused: unique symbol = Symbol("refused");

/** A kind of values. */
export interface Kind<T> {
  /** What a value must be, to follow "it must be". */
  readonly expected: string;
  /** Checks what the caller wrote and returns the value to use, sharing nothing with it. */
  resolve(value: unknown): T | typeof refused;
}

/** Token ids are int32 in a step, hence below 2^31. */
const TOKEN_ID_MAX = 2 ** 31 - 1;

/** `true` or `false`. */
export const flag: Kind<boolean> = {
  expected: "true or false",
  resolve: (value) => typeof value === "boolean" ? value : refused,
};

/**
 * Integers of a range.
 *
 * @param least The least.
 * @param most The greatest; default the greatest safe integer.
 * @returns The kind.
 */
export function integer(least: number, most: number = Number.MAX_SAFE_INTEGER): Kind<number> {
  return {
    expected: most === Number.MAX_SAFE_INTEGER
      ? `an integer of at least ${least}`
      : `an integer from ${least} to ${most}`,
    resolve: (value) => isInteger(value, least, most) ? value : refused,
  };
}

/** Limits on a count, where 0 and -1 both mean no limit and become 0. */
export const limit: Kind<number> = {
  expected: "an integer of at least 1, or 0 or -1 for no limit",
  resolve: (value) => isInteger(value, -1, Number.MAX_SAFE_INTEGER) ? Math.max(0, value) : refused,
};

/**
 * Finite numbers of a range.
 *
 * @param range `least` or `above` is the lower bound, `most` the upper one.
 * @returns The kind.
 */
export function real(range: { least?: number; above?: number; most?: number }): Kind<number> {
  const { least = -Infinity, above = -Infinity, most = Infinity } = range;
  const lower = range.above === undefined ? `at least ${least}` : `above ${above}`;
  return {
    expected: `a finite number ${lower}` + (range.most === undefined ? "" : ` and at most ${most}`),
    resolve: (value) =>
      typeof value === "number" && Number.isFinite(value) && value >= least && value > above &&
        value <= most
        ? value
        : refused,
  };
}

/**
 * Lists of token ids.
 *
 * @param fewest The shortest list.
 * @param most The longest list.
 * @returns The kind; a frozen copy.
 */
export function tokenIds(fewest: number, most: number): Kind<readonly number[]> {
  return {
    expected: `a list of ${fewest} to ${most} token ids`,
    resolve: (value) => {
      const list = copyOfList(value, fewest, most);
      const valid = list?.every((id) => isInteger(id, 0, TOKEN_ID_MAX));
      return valid ? Object.freeze(list as number[]) : refused;
    },
  };
}

/**
 * A string, or a list of strings.
 *
 * @param most The longest list.
 * @param longest UTF-16 units of the longest string.
 * @returns The kind; a frozen copy.
 */
export function strings(most: number, longest: number): Kind<readonly string[]> {
  const fits = (text: unknown) =>
    typeof text === "string" && text.length > 0 && text.length <= longest;
  return {
    expected: `a string of 1 to ${longest} UTF-16 units, or a list of at most ${most} of them`,
    resolve: (value) => {
      const list = copyOfList(typeof value === "string" ? [value] : value, 0, most);
      return list?.every(fits) ? Object.freeze(list as string[]) : refused;
    },
  };
}

/**
 * Objects that give a bias to token ids.
 *
 * @param most How many ids.
 * @param bound Greatest absolute value of a bias.
 * @returns The kind; frozen pairs of id and bias, by ascending id.
 */
export function biases(most: number, bound: number): Kind<readonly (readonly [number, number])[]> {
  const inRange = real({ least: -bound, most: bound });
  return {
    expected:
      `an object of at most ${most} token ids, each with a number from -${bound} to ${bound}`,
    resolve: (value) => {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return refused;
      const entries = Object.entries(value);
      if (entries.length > most) return refused;
      const pairs: (readonly [number, number])[] = [];
      for (const [key, given] of entries) {
        const bias = inRange.resolve(given);
        if (bias === refused || String(Number(key)) !== key) return refused;
        if (!isInteger(Number(key), 0, TOKEN_ID_MAX)) return refused;
        pairs.push(Object.freeze([Number(key), bias] as const));
      }
      return Object.freeze(pairs.sort(([a], [b]) => a - b));
    },
  };
}

/** Integers of 64 bits, signed or unsigned. */
export const seed: Kind<bigint> = {
  expected: "a safe integer, or a bigint from -2^63 to 2^64 - 1",
  resolve: (value) => {
    if (typeof value === "number") return Number.isSafeInteger(value) ? BigInt(value) : refused;
    if (typeof value !== "bigint") return refused;
    return value >= -(2n ** 63n) && value < 2n ** 64n ? value : refused;
  },
};

/**
 * A value as an error message shows it.
 *
 * @param value What the caller passed.
 * @returns At most 80 characters.
 */
export function written(value: unknown): string {
  let text: string;
  if (Array.isArray(value)) {
    text = `[${value.slice(0, 16).map(scalar).join(", ")}]`;
  } else if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).slice(0, 16);
    text = `{${entries.map(([key, item]) => `${key}: ${scalar(item)}`).join(", ")}}`;
  } else {
    text = scalar(value);
  }
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

function scalar(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 80));
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "[...]" : "{...}";
  return typeof value === "function" ? "a function" : String(value);
}

function isInteger(value: unknown, least: number, most: number): value is number {
  return Number.isSafeInteger(value) && value as number >= least && value as number <= most;
}

/** A copy without holes, or `undefined` if it is no list or not of a valid length. */
function copyOfList(value: unknown, fewest: number, most: number): unknown[] | undefined {
  if (!Array.isArray(value) || value.length < fewest || value.length > most) return undefined;
  return [...value];
}
