import process from "node:process";
import { createInterface, type Interface } from "node:readline/promises";
import type { Command } from "commander";
import type { LLM } from "../llm.ts";
import type { SamplingParams } from "../sampling_params.ts";
import type { ChatMessage } from "../text/chat_message.ts";
import { interruptible } from "./interrupt.ts";
import {
  addModelOptions,
  addSamplingOptions,
  closeModel,
  type ModelOptions,
  openModel,
  type SamplingOptions,
  samplingParams,
} from "./model_options.ts";
import { readStandardInput, toJson } from "./standard_streams.ts";

interface ChatOptions extends ModelOptions, SamplingOptions {
  system?: string;
  json?: true;
}

/** Tokens of an answer unless told otherwise. */
const MAX_TOKENS = 512;

/** Adds `hybridseek chat`. @param program To this program. */
export function addChatCommand(program: Command): void {
  const command = program.command("chat")
    .description("Talk with a chat model. Ctrl-C stops an answer, Ctrl-D or /bye ends the talk.")
    .argument("[message...]", "answer this one message and end");
  addSamplingOptions(addModelOptions(command), MAX_TOKENS)
    .option("--system <text>", "instructions before the conversation")
    .option("--json", "answer one message (argument or standard input), print one JSON object")
    .action(chat);
}

async function chat(words: string[], options: ChatOptions) {
  const messages: ChatMessage[] = [];
  if (options.system !== undefined) messages.push({ role: "system", content: options.system });
  const single = words.length > 0 || options.json || !process.stdin.isTTY;
  const message = words.length > 0 ? words.join(" ") : single ? await readStandardInput() : "";
  const llm = await interruptible((signal) => openModel(options, signal));
  if (!llm) return;
  const params = samplingParams(options);
  try {
    if (!single) return await converse(llm, messages, params);
    messages.push({ role: "user", content: message });
    await interruptible(async (signal) => {
      if (!options.json) return await answer(llm, messages, params, signal);
      const [result] = await llm.chat(messages, params, { signal });
      process.stdout.write(toJson(result) + "\n");
    });
  } finally {
    await closeModel(llm);
  }
}

async function converse(llm: LLM, messages: ChatMessage[], params: SamplingParams) {
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  // The terminal is in raw mode: Ctrl-C comes as a key. From here on it is the signal again.
  lines.on("SIGINT", () => process.emit("SIGINT"));
  try {
    for (let line = await ask(lines); line !== undefined; line = await ask(lines)) {
      if (line.trim() === "/bye") break;
      if (line.trim() === "") continue;
      messages.push({ role: "user", content: line });
      await interruptible((signal) => answer(llm, messages, params, signal), false);
    }
  } finally {
    lines.close();
  }
}

/** One line; `undefined` at Ctrl-D or Ctrl-C. */
async function ask(lines: Interface): Promise<string | undefined> {
  const controller = new AbortController();
  const end = () => controller.abort();
  lines.once("close", end);
  process.on("SIGINT", end);
  try {
    return await lines.question("> ", { signal: controller.signal });
  } catch {
    process.stderr.write("\n");
    return undefined;
  } finally {
    lines.off("close", end);
    process.off("SIGINT", end);
  }
}

/** Prints an answer as it comes and adds it, as far as it came, to the conversation. */
async function answer(
  llm: LLM,
  messages: ChatMessage[],
  params: SamplingParams,
  signal: AbortSignal,
) {
  let content = "";
  try {
    for await (const { text } of llm.stream({ messages: [...messages] }, params, { signal })) {
      // The template's prompt ends without a space; the model writes one that nobody needs to see.
      const shown = content === "" ? text.trimStart() : text;
      content += shown;
      process.stdout.write(shown);
    }
  } finally {
    process.stdout.write("\n");
    messages.push({ role: "assistant", content });
  }
}
