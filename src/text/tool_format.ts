/**
 * How a model is told of functions that it may call, and with which tokens it writes its calls: as the
 * DeepSeek generations from V2.5 on do.
 * @module
 */
import type { ConstraintSource } from "../constraints/constraint_module.ts";
import { InvalidArgumentError } from "../errors.ts";
import { type ChatMessage, plainMessages, plainValue } from "./chat_message.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A function that a model may call, in OpenAI's words. */
export interface FunctionTool {
  /** The one kind that there is. */
  type: "function";
  /** The function. */
  function: {
    /** 1 to 64 of letters, digits, `_`, `-` and `.`. */
    name: string;
    /** What it does, for the model to read. */
    description?: string;
    /** Its arguments, as a JSON schema of an object. Default: none. */
    parameters?: unknown;
    /**
     * Whether names and arguments are held to what is given: of calls, once one of the functions is strict, those
     * of the others to any object. Schemas as `structuredOutputs.json` takes them. Default false.
     */
    strict?: boolean;
  };
}

/** A call of a function, as it stands in an assistant's message. */
export interface ToolCall {
  /** Its name for the message that answers it (`tool_call_id`). */
  id: string;
  /** The one kind that there is. */
  type: "function";
  /** What is called. */
  function: {
    /** As the model wrote it: a model may name a function that there is not. */
    name: string;
    /** JSON, if the model wrote any: check it before use. */
    arguments: string;
  };
}

/** Whether the model must call a function: it may (`auto`), any one, or a certain one. */
export type ToolChoice = "auto" | "required" | { readonly name: string };

/** The tools of an answer. */
export interface ToolsInUse {
  /** How calls are written. */
  format: ToolFormat;
  /** What the prompt ends with of a call that must be made; it belongs to the answer. */
  begun: readonly number[];
  /** What calls are held to, if a function is strict. */
  strict?: ConstraintSource;
}

/** What a token that steers a call means. */
export type ToolMarker = "callsBegin" | "callBegin" | "separator" | "callEnd" | "callsEnd";

const MARKERS: Record<ToolMarker, string> = {
  callsBegin: "<｜tool▁calls▁begin｜>",
  callBegin: "<｜tool▁call▁begin｜>",
  separator: "<｜tool▁sep｜>",
  callEnd: "<｜tool▁call▁end｜>",
  callsEnd: "<｜tool▁calls▁end｜>",
};

/** Of all functions together, as JSON: indented it may become a hundred times as long. */
const MOST_CHARACTERS = 2 ** 18;
/** What stands in no template, to see whether it gets through one. */
const PROBE = "zq3w7";

/** The tools of one model. */
export class ToolFormat {
  /** Tokens that steer calls, by id. */
  readonly markers: ReadonlyMap<number, ToolMarker>;
  /** The token that ends a call. */
  readonly callEnd: number;
  /** Whether the template writes the functions itself. */
  readonly #writesTools: boolean;
  /** Whether the template writes an assistant's text that stands beside its calls. */
  readonly #writesTextBesideCalls: boolean;
  readonly #tokenizer: Tokenizer;

  private constructor(
    tokenizer: Tokenizer,
    markers: ReadonlyMap<number, ToolMarker>,
    render: Render,
  ) {
    this.#tokenizer = tokenizer;
    this.markers = markers;
    this.callEnd = [...markers].find(([, marker]) => marker === "callEnd")![0];
    this.#writesTools = render([user], [probeTool]).includes(PROBE);
    const beside = render([user, { ...calls, content: `text${PROBE}` }, result]);
    this.#writesTextBesideCalls = ["text", "name"].every((what) => beside.includes(what + PROBE));
  }

  /**
   * The tools of a model, found out by trying: the tokenizer has the tokens, and the chat template writes an
   * assistant's calls and their results.
   *
   * @param tokenizer The model's.
   * @returns They; `undefined` if the model knows no tools.
   */
  static of(tokenizer: Tokenizer): ToolFormat | undefined {
    const render: Render = (messages, tools) => {
      try {
        return tokenizer.applyChatTemplate(messages, { tools, tokenize: false });
      } catch {
        return ""; // no template, or one that fails on what it does not know
      }
    };
    const markers = new Map<number, ToolMarker>();
    for (const [marker, token] of Object.entries(MARKERS) as [ToolMarker, string][]) {
      const id = tokenizer.idOf(token);
      if (id !== undefined) markers.set(id, marker);
    }
    if (markers.size < Object.keys(MARKERS).length) return undefined;
    const text = render([user, calls, result]);
    const known = ["name", "arguments", "result"].every((what) => text.includes(what + PROBE));
    return known ? new ToolFormat(tokenizer, markers, render) : undefined;
  }

  /**
   * A dialogue as the template takes it.
   *
   * @param messages The dialogue.
   * @param tools The functions that the model may call.
   * @returns What to render: where the template does not write the functions, the system message has them, as
   *   DeepSeek-V2.5's model card puts them.
   * @throws {InvalidArgumentError} If a message is malformed.
   */
  dialogue(
    messages: readonly ChatMessage[],
    tools: readonly FunctionTool[],
  ): { messages: readonly ChatMessage[]; tools?: readonly FunctionTool[] } {
    const plain = plainMessages(messages) as (ChatMessage & { content: string | null })[];
    const known = plain.flatMap((message) => this.#known(message));
    if (tools.length === 0) return { messages: known };
    if (this.#writesTools) return { messages: known, tools };
    const index = known.findIndex(({ role }) => role === "system");
    const system = known[index];
    const text = descriptionOf(tools);
    if (!system) return { messages: [{ role: "system", content: text }, ...known] };
    const content = `${system.content ?? ""}\n\n${text}`;
    return { messages: known.with(index, { ...system, content }) };
  }

  /**
   * Begins the call that must be made, so that the model can but go on with it.
   *
   * @param choice Which.
   * @returns What the prompt ends with; nothing if no call must be made.
   */
  begin(choice: ToolChoice): { text: string; tokenIds: number[] } {
    if (choice === "auto") return { text: "", tokenIds: [] };
    const { callsBegin, callBegin, separator } = MARKERS;
    const named = choice === "required" ? "" : `${choice.name}\n\`\`\`json\n`;
    const text = `${callsBegin}${callBegin}function${separator}${named}`;
    return { text, tokenIds: this.#tokenizer.encode(text, { addSpecialTokens: false }) };
  }

  /** A message as the template takes it: one without calls of its own, or with them and a null as its text. */
  #known(message: ChatMessage): ChatMessage[] {
    if (!hasCalls(message)) return [message];
    const { content, tool_calls: _, ...said } = message;
    const called = { ...message, content: null };
    if (!content) return [called];
    return this.#writesTextBesideCalls ? [message] : [{ ...said, content }, called];
  }
}

type Render = (messages: readonly ChatMessage[], tools?: readonly FunctionTool[]) => string;

const user: ChatMessage = { role: "user", content: "?" };
const calls: ChatMessage = {
  role: "assistant",
  content: null,
  tool_calls: [{
    ...{ id: "call", type: "function" },
    function: { name: `name${PROBE}`, arguments: `{"arguments${PROBE}": 1}` },
  }],
};
const result: ChatMessage = { role: "tool", content: `result${PROBE}`, tool_call_id: "call" };
const probeTool: FunctionTool = { type: "function", function: { name: PROBE, parameters: {} } };

/** Whether an assistant's message calls functions. @param message It. @returns So. */
export function hasCalls(message: ChatMessage): boolean {
  return Array.isArray(message?.tool_calls) && message.tool_calls.length > 0;
}

/** The words of DeepSeek-V2.5's model card, in front of which a system prompt stands. */
function descriptionOf(tools: readonly FunctionTool[]): string {
  const functions = tools.map(({ function: { name, description, parameters } }) =>
    `- \`${name}\`:\n\`\`\`json\n${
      JSON.stringify({ name, description, parameters }, null, 4)
    }\n\`\`\``
  );
  return "## Tools\n\n### Function\n\nYou have the following functions available:\n\n" +
    functions.join("\n");
}

/**
 * Checks that a call which must be made can be.
 *
 * @param choice As the caller wrote it.
 * @param tools The functions.
 * @returns It.
 * @throws {InvalidArgumentError} If there is no such function.
 */
export function checkToolChoice(choice: ToolChoice, tools: readonly FunctionTool[]): ToolChoice {
  const names = tools.map(({ function: { name } }) => name);
  const able = choice === "auto" || (choice === "required" && names.length > 0) ||
    names.includes((choice as { name?: string } | null)?.name!);
  if (able) return choice;
  const known = names.map((name) => `{ name: "${name}" }`);
  throw new InvalidArgumentError(
    "toolChoice",
    `Cannot use toolChoice: the tools allow ${
      ["auto", ...names.length > 0 ? ["required"] : [], ...known].join(", ")
    }.`,
  );
}

/**
 * Checks functions.
 *
 * @param tools As the caller wrote them.
 * @returns They.
 * @throws {InvalidArgumentError} If one is malformed, two have one name, or they are too long.
 */
export function checkTools(tools: readonly FunctionTool[]): readonly FunctionTool[] {
  const invalid = (field: string, needed: string) =>
    new InvalidArgumentError(field, `Cannot use ${field}: it must be ${needed}.`);
  if (!Array.isArray(tools)) throw invalid("tools", "a list of functions");
  const { length } = JSON.stringify(plainValue(tools, "tools"));
  if (length > MOST_CHARACTERS) {
    throw invalid("tools", `at most ${MOST_CHARACTERS} characters of JSON, it is ${length}`);
  }
  const names = new Set<string>();
  for (const [index, tool] of (tools as readonly unknown[]).entries()) {
    const field = `tools[${index}]`;
    const { type, function: called } = (tool ?? {}) as Partial<FunctionTool>;
    if (type !== "function" || typeof called !== "object" || called === null) {
      throw invalid(field, '{ type: "function", function: { name, parameters } }');
    }
    const { name, description, strict } = called;
    if (typeof name !== "string" || !/^[\w.-]{1,64}$/.test(name) || names.has(name)) {
      throw invalid(
        `${field}.function.name`,
        "1 to 64 letters, digits, _, - and ., another for each",
      );
    }
    if (description !== undefined && typeof description !== "string") {
      throw invalid(`${field}.function.description`, "a string");
    }
    if (strict !== undefined && typeof strict !== "boolean") {
      throw invalid(`${field}.function.strict`, "true or false");
    }
    names.add(name);
  }
  return tools;
}
