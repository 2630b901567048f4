/**
 * Chat messages as callers write them, checked and turned into what a template may see.
 * @module
 */
import { InvalidArgumentError } from "../errors.ts";

/** A part of a message's content, as in OpenAI's API; only text can be rendered. */
export interface ChatContentPart {
  /** `text`; any other kind is refused. */
  type: string;
  /** The text. */
  text?: string;
}

/** One message of a dialogue. Fields beside these reach the template as they are. */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, `tool`, or whatever else the template knows. */
  role: string;
  /** The text, or parts whose texts are joined; null only beside `tool_calls`. */
  content?: string | readonly ChatContentPart[] | null;
  /** Calls that an assistant's message makes. */
  tool_calls?: readonly unknown[];
  /** Anything else a template reads: `name`, `tool_call_id`, … */
  [field: string]: unknown;
}

/** A value that JSON can hold: what a template may see. */
export type PlainValue =
  | string
  | number
  | boolean
  | null
  | PlainValue[]
  | { [field: string]: PlainValue };

/** Deeper values are refused; the interpreter would recurse as deep. */
const MOST_NESTED = 64;

/**
 * Checks a dialogue and copies it, contents as strings.
 *
 * @param messages The dialogue as the caller wrote it.
 * @returns A copy with plain values only.
 * @throws {InvalidArgumentError} If a message has no role or content, or holds what JSON can not.
 */
export function plainMessages(messages: readonly ChatMessage[]): PlainValue[] {
  if (!Array.isArray(messages)) throw invalid("messages", "no list", "a list of messages");
  return messages.map((message: unknown, index) => {
    const field = `messages[${index}]`;
    const plain = plainValue(message, field);
    if (plain === null || typeof plain !== "object" || Array.isArray(plain)) {
      throw invalid(field, "no object", "{ role, content }");
    }
    if (typeof plain.role !== "string") throw invalid(`${field}.role`, "no string", "a string");
    return { ...plain, content: plainContent(plain, field) };
  });
}

function plainContent(message: { [field: string]: PlainValue }, field: string): string | null {
  const { content } = message;
  if (typeof content === "string") return content;
  if (Array.isArray(content)) {
    return content.map((part, index) => textOfPart(part, `${field}.content[${index}]`)).join("");
  }
  if ((content === undefined || content === null) && Array.isArray(message.tool_calls)) return null;
  const what = content === undefined ? "missing" : content === null ? "null" : "no text";
  throw invalid(`${field}.content`, what, "a string or a list of text parts");
}

function textOfPart(part: PlainValue, field: string): string {
  const isText = part !== null && typeof part === "object" && !Array.isArray(part) &&
    part.type === "text" && typeof part.text === "string";
  if (!isText) throw invalid(field, "no text part", '{ type: "text", text }');
  return part.text as string;
}

/**
 * Copies a value that JSON can hold. A field that is `undefined` is left out.
 *
 * @param value What the caller passed.
 * @param field Its name, for messages.
 * @returns The copy, made of plain objects and arrays.
 * @throws {InvalidArgumentError} If it holds a function, symbol or bigint, or nests too deep.
 */
export function plainValue(value: unknown, field: string): PlainValue {
  return copy(value, field, MOST_NESTED);
}

/**
 * Copies a plain value with every string in it changed, names of fields included.
 *
 * @param value The value.
 * @param change Changes a string.
 * @returns The copy.
 */
export function mapStrings(value: PlainValue, change: (text: string) => string): PlainValue {
  if (typeof value === "string") return change(value);
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  const entries = Object.entries(value);
  return Object.fromEntries(
    entries.map(([key, item]) => [change(key), mapStrings(item, change)]),
  );
}

function copy(value: unknown, field: string, depth: number): PlainValue {
  if (value === null || typeof value === "string" || typeof value === "boolean") return value;
  if (typeof value === "number") return value;
  if (typeof value !== "object") throw invalid(field, `a ${typeof value}`, "what JSON can hold");
  if (depth === 0) throw invalid(field, "nested too deep", `at most ${MOST_NESTED} levels`);
  if (Array.isArray(value)) {
    return value.map((item, index) => copy(item, `${field}[${index}]`, depth - 1));
  }
  const fields = Object.entries(value).filter(([, item]) => item !== undefined);
  return Object.fromEntries(
    fields.map(([key, item]) => [key, copy(item, `${field}.${key}`, depth - 1)]),
  );
}

function invalid(field: string, is: string, needed: string): InvalidArgumentError {
  return new InvalidArgumentError(
    field,
    `Cannot render chat template: \`${field}\` is ${is}, needed is ${needed}.`,
  );
}
