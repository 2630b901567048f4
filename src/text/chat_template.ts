/**
 * Chat templates: Jinja programs that come with a model and turn a dialogue into text.
 *
 * A template is somebody else's code. It sees plain values only, reaches no object of the host, and
 * runs within a budget of steps.
 * @module
 */
import { Environment, Interpreter, parse, Template, tokenize } from "@huggingface/jinja";
import { InvalidArgumentError, InvalidFileError } from "../errors.ts";
import { type ChatMessage, plainMessages, plainValue } from "./chat_message.ts";

/** What a template is rendered with, beside the messages. */
export interface ChatTemplateInput {
  /** Text of the BOS token; an empty string where the model has none. */
  bosToken: string;
  /** Text of the EOS token; an empty string where the model has none. */
  eosToken: string;
  /** Whether to end with what makes the model answer. Default false. */
  addGenerationPrompt?: boolean;
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
    const environment = globals();
    environment.set("messages", plainMessages(messages));
    environment.set("tools", input.tools ? plainValue(input.tools, "tools") : null);
    environment.set("add_generation_prompt", input.addGenerationPrompt ?? false);
    environment.set("bos_token", input.bosToken);
    environment.set("eos_token", input.eosToken);
    for (const [name, value] of Object.entries(input.variables ?? {})) {
      if (!CHAT_TEMPLATE_VARIABLES.includes(name)) throw forbidden(name);
      if (value !== undefined) environment.set(name, plainValue(value, `variables.${name}`));
    }
    try {
      const { value } = new BudgetedInterpreter(environment).run(this.#program);
      return String(value);
    } catch (cause) {
      throw new InvalidArgumentError("messages", reasonOf(cause), { cause });
    }
  }
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
