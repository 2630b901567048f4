/**
 * What a caller may ask an output to be, checked and bounded before anything is compiled.
 * @module
 */
import { type Kind, refused } from "../sampling/parameter_kinds.ts";

/** What an output must be; exactly one of the fields is given, as in vLLM. */
export interface StructuredOutputs {
  /**
   * JSON that this JSON Schema describes: an object, `true`, or the schema's text. Keywords that can not be
   * kept to are refused by their names. At most 128 KiB of UTF-8, nested at most 64 deep.
   */
  readonly json?: object | boolean | string;
  /**
   * Text that this regular expression matches as a whole, in the syntax of Rust's `regex`: no look-around,
   * no back references, no anchors but `^` first and `$` last. At most 4 KiB of UTF-8.
   */
  readonly regex?: string;
  /** One of these texts: 1 to 4,096, at most 128 KiB of UTF-8 together. */
  readonly choice?: readonly string[];
  /** Text of this grammar, in llguidance's form of Lark, from the rule `start`. At most 128 KiB of UTF-8. */
  readonly grammar?: string;
}

/** {@linkcode StructuredOutputs} after a check. */
export interface ResolvedStructuredOutputs {
  /** Which of the fields was given. */
  readonly kind: "json" | "regex" | "choice" | "grammar";
  /** It as text: JSON, a regular expression, a JSON list of texts, a grammar. */
  readonly text: string;
}

/** Bounds on what is given, before it is compiled within bounds of its own. */
const MOST = { bytes: 128 * 1024, regexBytes: 4096, depth: 64, values: 32_768, choices: 4096 };

/** Each kind: what it must be, and its text where it is that. */
const KINDS: Record<
  ResolvedStructuredOutputs["kind"],
  [string, (value: unknown) => string | null]
> = {
  json: [
    `a JSON schema, or its text, of at most ${MOST.bytes} bytes and ${MOST.values} values, nested at ` +
    `most ${MOST.depth} deep`,
    schemaText,
  ],
  regex: [
    `a regular expression of 1 to ${MOST.regexBytes} bytes`,
    (value) => isText(value, MOST.regexBytes) ? value : null,
  ],
  choice: [
    `1 to ${MOST.choices} texts that are not empty, of at most ${MOST.bytes} bytes together`,
    choiceText,
  ],
  grammar: [
    `a Lark grammar of 1 to ${MOST.bytes} bytes`,
    (value) => isText(value, MOST.bytes) ? value : null,
  ],
};

/** The parameter `structuredOutputs`. */
export const structuredOutputs: Kind<ResolvedStructuredOutputs> = {
  expected: "an object with exactly one of " +
    Object.entries(KINDS).map(([kind, [expected]]) => `${kind} (${expected})`).join(", "),
  resolve(value) {
    if (typeof value !== "object" || value === null) return refused;
    const given = Object.entries(value).filter(([, item]) => item !== undefined);
    const [[kind, item] = ["", undefined], ...others] = given;
    if (others.length > 0 || !Object.hasOwn(KINDS, kind)) return refused;
    const text = KINDS[kind as ResolvedStructuredOutputs["kind"]][1](item);
    return text === null
      ? refused
      : Object.freeze({ kind: kind as ResolvedStructuredOutputs["kind"], text });
  },
};

function isText(value: unknown, mostBytes: number): value is string {
  return typeof value === "string" && value.length > 0 && value.length <= mostBytes &&
    bytesOf(value) <= mostBytes;
}

function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}

function choiceText(value: unknown): string | null {
  if (!Array.isArray(value) || value.length === 0 || value.length > MOST.choices) return null;
  if (![...value].every((text) => isText(text, MOST.bytes))) return null;
  const text = JSON.stringify(value);
  return bytesOf(text) <= MOST.bytes ? text : null;
}

function schemaText(value: unknown): string | null {
  try {
    // A text stays as it is, with its order of properties and its digits.
    const text = typeof value === "string" ? value : undefined;
    if (text !== undefined && !isText(text, MOST.bytes)) return null;
    const schema = text === undefined ? value : JSON.parse(text);
    if (typeof schema !== "boolean" && !isSmallObject(schema)) return null;
    const written = text ?? JSON.stringify(schema);
    return bytesOf(written) <= MOST.bytes ? written : null;
  } catch {
    return null; // no JSON
  }
}

/** Whether a value is an object of bounded size and depth; it may hold itself. */
function isSmallObject(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const left: [value: object, depth: number][] = [[value, 1]];
  for (let seen = 0; left.length > 0;) {
    const [object, depth] = left.pop()!;
    if (depth > MOST.depth) return false;
    for (const item of Object.values(object)) {
      if (++seen > MOST.values) return false;
      if (typeof item === "object" && item !== null) left.push([item, depth + 1]);
    }
  }
  return true;
}
