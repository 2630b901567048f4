/**
 * Chat templates: Jinja programs that come with a model and turn a dialogue into text.
 *
 * A template is somebody else's code. It sees plain values only, reaches no object of the host, and
 * runs within a budget of steps.
 * @module
 */
import { Environment, Interpreter, parse, Template, tokenize } from "@huggingface/jinja";
import { InvalidArgumentError, InvalidFileError } from "../errors.ts";
import {
  type ChatMessage,
  mapStrings,
  plainMessages,
  type PlainValue,
  plainValue,
} from "./chat_message.ts";

/** What a template is rendered with, beside the messages. */
export interface ChatTemplateInput {
  /** Text of the BOS token; an empty string where the model has none. */
  bosToken: string;
  /** Text of the EOS token; an empty string where the model has none. */
  eosToken: string;
  /** Whether to end with what makes the model answer. Default false. */
  addGenerationPrompt?: boolean;
  /** Whether to end within the last message, for the model to go on with it. Default false. */
  continueFinalMessage?: boolean;
  /** Functions that the model may call, as JSON schemas. */
  tools?: readonly unknown[];
  /** Further variables, of {@linkcode CHAT_TEMPLATE_VARIABLES} only. */
  variables?: { readonly [name: string]: unknown };
}

/** The variables a caller may set beside the ones above: a list, so that none of those is replaced. */
export const CHAT_TEMPLATE_VARIABLES: readonly string[] = [
  "date_string",
  "documents",
  "enable_thinking",
  "reasoning_effort",
  "thinking",
];

/** Evaluations and loop passes of one rendering: a message costs tens to hundreds of them. */
const MOST_STEPS = 2_000_000;
/** Items of one list that a template makes; in each step it might double one. */
const LONGEST_LIST = 1_000_000;
/** UTF-16 units of one string that a template makes. */
const LONGEST_STRING = 1 << 24;

/** What `raise_exception` throws: the template refuses the messages. */
class RaisedByTemplate extends Error {}

/** The template takes more than its budget. */
class OverBudget extends Error {}

/**
 * A compiled chat template; compile once, render often.
 *
 * @example
 * ```ts
 * import { ChatTemplate } from "@hybridseek/hybridseek/tokenizer";
 * import { strict as assert } from "node:assert";
 * const template = new ChatTemplate(
 *   "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}",
 * );
 * const text = template.render([{ role: "user", content: "hi" }], { bosToken: "", eosToken: "" });
 * assert.equal(text, "user: hi");
 * ```
 */
export class ChatTemplate {
  readonly #program: ReturnType<typeof parse>;

  /**
   * Compiles a template.
   *
   * @param source The template's text.
   * @param file The file it comes from, for errors; without, it is the argument `chatTemplate`.
   * @throws {InvalidFileError} If the file's template is no Jinja that is understood.
   * @throws {InvalidArgumentError} If the argument's template is no Jinja that is understood.
   */
  constructor(source: string, file?: string) {
    try {
      this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    } catch (cause) {
      const message = `Cannot compile chat template: ${messageOf(cause)}; `;
      throw file === undefined
        ? new InvalidArgumentError("chatTemplate", message + "correct it.", { cause })
        : new InvalidFileError(file, message + "get the file anew, or pass `chatTemplate`.", {
          cause,
        });
    }
  }

  /**
   * Renders a dialogue.
   *
   * @param messages The dialogue, in order.
   * @param input What else the template sees.
   * @returns The text, special tokens included.
   * @throws {InvalidArgumentError} If a message is malformed, a variable is not allowed, or the
   *   template refuses the messages or fails on them.
   */
  render(messages: readonly ChatMessage[], input: ChatTemplateInput): string {
    return this.#render(valuesOf(messages, input), input);
  }

  /**
   * Renders a dialogue and tells which characters of the text its writers wrote, of those that matter.
   *
   * @param messages The dialogue, in order.
   * @param input What else the template sees.
   * @param edges Finds the characters that matter, as UTF-16 units; global.
   * @returns See {@linkcode RenderedDialogue}. Throws as {@linkcode render} does.
   */
  renderMasked(
    messages: readonly ChatMessage[],
    input: ChatTemplateInput,
    edges: RegExp,
  ): RenderedDialogue {
    const values = valuesOf(messages, input);
    const text = this.#render(values, input);
    const written: string[] = [];
    const other = mapStrings(values, (string) => {
      const masked = string.replace(edges, MASK);
      if (masked !== string) written.push(string);
      return masked;
    }) as TemplateValues;
    if (written.length === 0) return { text, masked: text, written };
    const masked = this.#render(other, input);
    return { text, masked: agree(text, masked) ? masked : undefined, written };
  }

  #render({ messages, tools, variables }: TemplateValues, input: ChatTemplateInput): string {
    const { addGenerationPrompt = false, continueFinalMessage = false } = input;
    const environment = globals();
    environment.set("messages", continueFinalMessage ? withEnd(messages) : messages);
    environment.set("tools", tools);
    environment.set("add_generation_prompt", addGenerationPrompt);
    environment.set("bos_token", input.bosToken);
    environment.set("eos_token", input.eosToken);
    for (const [name, value] of Object.entries(variables)) environment.set(name, value);
    let text: string;
    try {
      text = String(new BudgetedInterpreter(environment).run(this.#program).value);
    } catch (cause) {
      throw new InvalidArgumentError("messages", reasonOf(cause), { cause });
    }
    if (!continueFinalMessage) return text;
    const end = text.lastIndexOf(END);
    if (end >= 0) return text.slice(0, end);
    throw new InvalidArgumentError(
      "continueFinalMessage",
      "Cannot continue the last message: the template leaves its text out; add a message that the model " +
        "is to go on with.",
    );
  }
}

/** What a template makes of a dialogue. */
export interface RenderedDialogue {
  /** The text. */
  text: string;
  /**
   * The same with U+FFFF for the characters that matter and were not the template's; `undefined` where that
   * can not be told, since the template looks into what was written.
   */
  masked: string | undefined;
  /** What was written that has such characters. */
  written: readonly string[];
}

/** Stands for a character that somebody wrote: no character itself. */
const MASK = "\uFFFF";
/** Stands where the last message's text ends: neither. */
const END = "\uFFFE";

/** What callers wrote. */
type TemplateValues = {
  messages: PlainValue[];
  tools: PlainValue;
  variables: { [name: string]: PlainValue };
};

function valuesOf(messages: readonly ChatMessage[], input: ChatTemplateInput): TemplateValues {
  const variables: TemplateValues["variables"] = {};
  for (const [name, value] of Object.entries(input.variables ?? {})) {
    if (!CHAT_TEMPLATE_VARIABLES.includes(name)) throw forbidden(name);
    if (value !== undefined) variables[name] = plainValue(value, `variables.${name}`);
  }
  if (input.continueFinalMessage && input.addGenerationPrompt) {
    throw new InvalidArgumentError(
      "continueFinalMessage",
      "Cannot render chat template: continueFinalMessage goes on with the last message, " +
        "addGenerationPrompt begins another; set one of them.",
    );
  }
  return {
    messages: plainMessages(messages),
    tools: input.tools ? plainValue(input.tools, "tools") : null,
    variables,
  };
}

/** Whether a masked text is the other one but for the masks. */
function agree(text: string, masked: string): boolean {
  if (text.length !== masked.length) return false;
  for (let i = 0; i < text.length; i++) {
    if (masked[i] !== text[i] && masked[i] !== MASK) return false;
  }
  return true;
}

/** Messages whose last text has its end marked. */
function withEnd(messages: PlainValue[]): PlainValue[] {
  const last = messages.at(-1) as { content: string | null } | undefined;
  if (typeof last?.content !== "string") {
    throw new InvalidArgumentError(
      "continueFinalMessage",
      "Cannot continue the last message: there is none with a text.",
    );
  }
  return [...messages.slice(0, -1), { ...last, content: last.content + END }];
}

function forbidden(name: string): InvalidArgumentError {
  const allowed = CHAT_TEMPLATE_VARIABLES.join(", ");
  return new InvalidArgumentError(
    `variables.${name}`,
    `Cannot render chat template: variable \`${name}\` is not allowed, allowed are ${allowed}.`,
  );
}

type Statement = Parameters<Interpreter["evaluate"]>[0];
type Value = ReturnType<Interpreter["evaluate"]>;

/** Charges for evaluations, loop passes and the size of values, so that a template ends. */
class BudgetedInterpreter extends Interpreter {
  #steps = 0;
  /** What the loops run over: evaluating one of these is followed by that many passes. */
  readonly #iterables = new Set<Statement>();

  override evaluate(statement: Statement, environment: Environment): Value {
    this.#charge(1);
    if (statement?.type === "For") this.#iterables.add(iterableOf(statement));
    const result = super.evaluate(statement, environment);
    const { value } = result;
    if (typeof value === "string" && value.length > LONGEST_STRING) {
      throw new OverBudget(`a string of ${value.length} characters`);
    }
    if (Array.isArray(value) && value.length > LONGEST_LIST) {
      throw new OverBudget(`a list of ${value.length} items`);
    }
    if (this.#iterables.has(statement)) {
      this.#charge(Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0);
    }
    return result;
  }

  #charge(steps: number) {
    this.#steps += steps;
    if (this.#steps > MOST_STEPS) throw new OverBudget(`more than ${MOST_STEPS} steps`);
  }
}

/** The expression that a `for` loops over; with `for … if …` it lies one level deeper. */
function iterableOf(loop: Statement): Statement {
  const { iterable } = loop as unknown as { iterable: Statement & { lhs?: Statement } };
  return iterable?.type === "SelectExpression" ? iterable.lhs : iterable;
}

/** The library's own globals, with bounds and with an error of ours for `raise_exception`. */
function globals(): Environment {
  const environment = new Environment();
  for (const [name, value] of [["true", true], ["false", false], ["none", null]] as const) {
    environment.set(name, value);
    environment.set(name[0]!.toUpperCase() + name.slice(1), value);
  }
  environment.set("raise_exception", (message: unknown) => {
    throw new RaisedByTemplate(String(message));
  });
  environment.set("range", boundedRange);
  environment.set("strftime_now", (format: string) => STRFTIME.render({ format }));
  return environment;
}

/** The library's `strftime_now`, which it does not export by itself. */
const STRFTIME = new Template("{{ strftime_now(format) }}");

/** Python's `range`, up to {@linkcode LONGEST_LIST} numbers. */
function boundedRange(first: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, first] : [first, stop];
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (!(length <= LONGEST_LIST)) throw new OverBudget(`a range of ${length} numbers`);
  return Array.from({ length }, (_, index) => from + index * step);
}

/** Why a rendering failed. A range error is the host's: stack or string too long. */
function reasonOf(cause: unknown): string {
  if (cause instanceof RaisedByTemplate) {
    return `Cannot render chat template: the template refuses the messages: ${cause.message}`;
  }
  if (cause instanceof OverBudget || cause instanceof RangeError) {
    return `Cannot render chat template: it takes more than its budget (${cause.message}).`;
  }
  return `Cannot render chat template: it fails on these messages: ${messageOf(cause)}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
