/**
 * The text of one choice that may call tools, while its tokens come.
 * @module
 */
import type { ResolvedSamplingParams } from "../sampling_params.ts";
import { CompletionText, type GrownText } from "./completion_text.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { ToolCall, ToolFormat, ToolMarker, ToolsInUse } from "./tool_format.ts";

/** A piece of a call that is being written. */
export interface ToolCallDelta {
  /** Which of the choice's calls, from 0. */
  index: number;
  /** In the call's first piece: see {@linkcode ToolCall}. */
  id?: string;
  /** In the call's first piece: what is called. */
  name?: string;
  /** What its arguments grew by. */
  arguments: string;
}

/**
 * Where the text is: beside calls; between calls; in a call before its separator; in the function's name,
 * which a line ends; before the arguments, which may have a fence around them; in the arguments.
 */
type Place = "content" | "between" | "type" | "name" | "fence" | "arguments";

/**
 * Parts text from calls. Calls are written as `function`, a separator, the name, and the arguments in a fence of
 * three backticks, all between tokens that count by their ids, so that no text is taken for a call. What is
 * no call for want of a name is text; a call that is cut off is given as far as it goes.
 */
export class ToolCallText {
  /** The text so far that belongs to no call, as far as it is sure to stay. */
  text = "";
  /** The calls so far; the last one may be growing. */
  readonly toolCalls: ToolCall[] = [];
  readonly #tokenizer: Tokenizer;
  readonly #params: ResolvedSamplingParams;
  readonly #markers: ToolFormat["markers"];
  /** Text since the last marker. */
  #piece: CompletionText;
  #place: Place = "content";
  /** Text that is not settled yet: in arguments, what may be the closing fence. */
  #held = "";
  /** What grew since it was last told. */
  #grown: Required<Omit<GrownText, "stop">> = { text: "", toolCalls: [] };

  /**
   * @param tokenizer The model's.
   * @param params What to leave out and where to stop; stop strings end calls, too.
   * @param tools How calls are written, and which one the prompt has begun.
   */
  constructor(tokenizer: Tokenizer, params: ResolvedSamplingParams, tools: ToolsInUse) {
    this.#tokenizer = tokenizer;
    this.#params = params;
    this.#markers = tools.format.markers;
    this.#piece = new CompletionText(tokenizer, params);
    for (const tokenId of tools.begun) this.#add(tokenId);
  }

  /** Adds a token. @param tokenId It. @returns What grew. */
  push(tokenId: number): GrownText {
    const stop = this.#add(tokenId);
    return { ...this.#tell(), stop };
  }

  /** Ends the text. @param complete Whether the model ended it. @returns What was held back. */
  finish(complete: boolean): GrownText {
    this.#take(this.#piece.finish().text);
    this.#close(complete);
    return this.#tell();
  }

  #tell() {
    const grown = this.#grown;
    this.#grown = { text: "", toolCalls: [] };
    return grown;
  }

  /** Adds a token. @returns The stop string that it completes, if it does. */
  #add(tokenId: number): string | undefined {
    const marker = this.#markers.get(tokenId);
    const { text, stop } = marker ? this.#piece.finish() : this.#piece.push(tokenId);
    this.#take(text);
    if (marker && stop === undefined) {
      this.#piece = new CompletionText(this.#tokenizer, this.#params);
      this.#mark(marker);
    }
    return stop;
  }

  #mark(marker: ToolMarker) {
    if (marker === "separator") {
      if (this.#place === "type") [this.#place, this.#held] = ["name", ""];
      return; // elsewhere it means nothing
    }
    this.#close(true);
    this.#place = marker === "callBegin" ? "type" : marker === "callsEnd" ? "content" : "between";
  }

  #take(text: string) {
    if (text === "") return;
    if (this.#place === "content") return this.#say(text);
    if (this.#place === "between") return void (text.trim() !== "" && this.#say(text));
    if (this.#place === "arguments") return this.#argue(text);
    this.#held += text;
    if (this.#place === "name") {
      const begun = this.#held.trimStart();
      const end = begun.indexOf("\n");
      if (end < 0) return;
      this.#begin(begun.slice(0, end).trimEnd());
      [this.#place, this.#held] = ["fence", begun.slice(end + 1)];
    }
    if (this.#place === "fence") this.#openFence();
  }

  /** Looks for the line that begins the arguments, which is not there if they begin with something else. */
  #openFence() {
    const begun = this.#held.trimStart();
    const fenced = begun.startsWith("```");
    const end = begun.indexOf("\n");
    if (fenced ? end < 0 : "```".startsWith(begun)) return;
    [this.#place, this.#held] = ["arguments", ""];
    this.#argue(fenced ? begun.slice(end + 1) : begun);
  }

  /** Adds to the arguments, but for white space and backticks at the end. */
  #argue(text: string) {
    let solid = text.length;
    while (solid > 0 && /[\s`]/.test(text[solid - 1]!)) solid--;
    if (solid === 0) return void (this.#held += text);
    this.#extend(this.#held + text.slice(0, solid));
    this.#held = text.slice(solid);
  }

  /** Ends a call, if one has begun. */
  #close(complete: boolean) {
    const [place, held] = [this.#place, this.#held];
    [this.#place, this.#held] = ["between", ""];
    if (place === "content" || place === "between") return;
    if (place === "type") return this.#say(held);
    if (place === "name") {
      const name = held.trim();
      if (name === "") return;
      this.#begin(name);
    } else if (place === "arguments") {
      this.#extend(held.trimEnd().replace(/`{1,3}$/, "").trimEnd());
    }
    // No arguments at all are what clients read as none.
    if (complete && this.toolCalls.at(-1)!.function.arguments === "") this.#extend("{}");
  }

  #say(text: string) {
    this.text += text;
    this.#grown.text += text;
  }

  #begin(name: string) {
    const id = `call_${crypto.randomUUID().replaceAll("-", "")}`;
    this.#grown.toolCalls.push({ index: this.toolCalls.length, id, name, arguments: "" });
    this.toolCalls.push({ id, type: "function", function: { name, arguments: "" } });
  }

  #extend(text: string) {
    const index = this.toolCalls.length - 1;
    const called = this.toolCalls[index]!.function;
    const piece = called.arguments === "" ? text.trimStart() : text;
    if (piece === "") return;
    called.arguments += piece;
    this.#grown.toolCalls.push({ index, arguments: piece });
  }
}
