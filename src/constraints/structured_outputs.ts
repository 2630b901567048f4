/**
 * What a caller may ask an output to be, checked and bounded before anything is compiled.
 * @module
 */
import { type Kind, refused } from "../sampling/parameter_kinds.ts";

/** What an output must be; exactly one of the fields is given, as in vLLM. */
export interface StructuredOutputs {
  /**
   * JSON that this JSON Schema describes: an object, `true`, or the schema's text. JSON Schema's keywords that
   * can not be kept to are refused by their names; names that it does not know say nothing, as it has it.
   * Properties come in the schema's order. Bounds: 64 KiB of UTF-8, nested 64 deep, 1,024 objects, 8,192
   * values, 256 members of an object, 32 patterns of property names, 128 objects with a minimum or maximum,
   * and 10,000 for the product of the digits of all `multipleOf`.
   */
  readonly json?: object | boolean | string;
  /**
   * Text that this regular expression matches as a whole, in the syntax of Rust's `regex` (without look-around
   * and back references), where `\d` and `\w` are ASCII's as in JavaScript. At most 4 KiB of UTF-8.
   */
  readonly regex?: string;
  /** One of these texts: 1 to 4,096, none empty, at most 64 KiB of UTF-8 together. */
  readonly choice?: readonly string[];
  /**
   * Text of this grammar from its rule `start`, in llguidance's form of Lark, without `%json`. At most 8 KiB of
   * UTF-8.
   */
  readonly grammar?: string;
}

/** {@linkcode StructuredOutputs} after a check. */
export interface ResolvedStructuredOutputs {
  /** Which of the fields was given. */
  readonly kind: "json" | "regex" | "choice" | "grammar";
  /** It as text: JSON, a regular expression, a JSON list of texts, a grammar. */
  readonly text: string;
}

/** Bounds on what is given, so that compiling it, which has bounds of its own, takes no long time. */
const MOST = {
  bytes: 65_536,
  regexBytes: 4096,
  grammarBytes: 8192,
  choices: 4096,
  depth: 64,
  objects: 1024,
  values: 8192,
  members: 256,
  patterns: 32,
  ranges: 128,
  multiples: 10_000,
};

/** A kind of structured output: what it must be, and its text where it is that. */
interface OutputKind {
  expected: string;
  textOf(value: unknown): string | undefined;
}

const KINDS: Record<ResolvedStructuredOutputs["kind"], OutputKind> = {
  json: {
    expected: `a JSON schema or its text, of at most ${MOST.bytes} bytes, nested ${MOST.depth} ` +
      `deep, ${MOST.objects} objects, ${MOST.values} values, ${MOST.members} members of an object, ` +
      `${MOST.patterns} patterns of property names, ${MOST.ranges} objects with a minimum or ` +
      `maximum, and ${MOST.multiples} for the product of the digits of all "multipleOf"`,
    textOf: schemaTextOf,
  },
  regex: {
    expected: `a regular expression of 1 to ${MOST.regexBytes} bytes`,
    textOf: (value) => isText(value, MOST.regexBytes) ? value : undefined,
  },
  choice: {
    expected: `1 to ${MOST.choices} texts, none empty, of at most ${MOST.bytes} bytes together`,
    textOf: choiceText,
  },
  grammar: {
    expected: `a Lark grammar of 1 to ${MOST.grammarBytes} bytes, without %json`,
    textOf: (value) =>
      isText(value, MOST.grammarBytes) && !value.includes("%json") ? value : undefined,
  },
};

/** The parameter `structuredOutputs`. */
export const structuredOutputs: Kind<ResolvedStructuredOutputs> = {
  expected: "an object with exactly one of " +
    Object.entries(KINDS).map(([kind, { expected }]) => `${kind} (${expected})`).join(", "),
  resolve(value) {
    if (typeof value !== "object" || value === null) return refused;
    const given = Object.entries(value).filter(([, item]) => item !== undefined);
    if (given.length !== 1 || !Object.hasOwn(KINDS, given[0]![0])) return refused;
    const [kind, item] = given[0] as [ResolvedStructuredOutputs["kind"], unknown];
    const text = KINDS[kind].textOf(item);
    return text === undefined ? refused : Object.freeze({ kind, text });
  },
};

function isText(value: unknown, mostBytes: number): value is string {
  return typeof value === "string" && value.length > 0 && value.length <= mostBytes &&
    new TextEncoder().encode(value).length <= mostBytes;
}

function choiceText(value: unknown): string | undefined {
  if (!Array.isArray(value) || value.length === 0 || value.length > MOST.choices) return undefined;
  if (![...value].every((text) => isText(text, MOST.bytes))) return undefined;
  const text = JSON.stringify(value);
  return isText(text, MOST.bytes) ? text : undefined;
}

/**
 * A JSON schema as text.
 *
 * @param value A schema or its text.
 * @returns The text; `undefined` if it is none, or over a limit.
 */
export function schemaTextOf(value: unknown): string | undefined {
  try {
    // A text stays as it is, with its order of properties and its digits.
    if (typeof value === "string" && !isText(value, MOST.bytes)) return undefined;
    const schema = typeof value === "string" ? JSON.parse(value) : value;
    if (typeof schema !== "boolean" && !isSmallSchema(schema)) return undefined;
    const text = typeof value === "string" ? value : JSON.stringify(schema === true ? {} : schema);
    return isText(text, MOST.bytes) ? text : undefined;
  } catch {
    return undefined; // no JSON
  }
}

/** Whether a value is an object within the bounds; it may hold itself. */
function isSmallSchema(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const left: [value: object, depth: number][] = [[value, 1]];
  const count = { objects: 0, values: 0, patterns: 0, ranges: 0, multiples: 1 };
  while (left.length > 0) {
    const [object, depth] = left.pop()!;
    const members = Object.entries(object);
    count.values += members.length;
    if (!Array.isArray(object)) {
      count.objects++;
      if (members.length > MOST.members) return false;
      if (members.some(([name]) => /^(exclusive)?(min|max)imum$/i.test(name))) count.ranges++;
    }
    for (const [name, item] of members) {
      if (name === "multipleOf") count.multiples *= digitsOf(item);
      if (typeof item !== "object" || item === null) continue;
      if (name === "patternProperties") count.patterns += Object.keys(item).length;
      left.push([item, depth + 1]);
    }
    const within = (Object.keys(count) as (keyof typeof count)[]).every((key) =>
      count[key] <= MOST[key]
    );
    if (!within || depth > MOST.depth) return false;
  }
  return true;
}

/** The digits of a number without the zeros around them: 2500 and 0.025 have 25. */
function digitsOf(value: unknown): number {
  if (typeof value !== "number") return 1;
  const digits = String(value).replace(/e.*$/, "").replace(/[.-]/g, "");
  return Number(digits.replace(/^0+|0+$/g, "")) || 1;
}
