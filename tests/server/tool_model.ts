/**
 * A scripted model that knows tools: it answers what the script says, in tokens, special ones where the answer
 * spells them.
 * @module
 */
import { toolTemplate, withToolTokens } from "../text/tool_tokens.ts";
import { type Script, type ScriptedModel, scriptedModel } from "./scripted_model.ts";

/** How a call is written, up to the function's name. */
export const CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>";
/** What stands before calls. */
export const CALLS = "<｜tool▁calls▁begin｜>";
/** What stands behind them. */
export const CALLS_END = "<｜tool▁calls▁end｜>";

/** A call as a model writes it. @param name Of the function. @param json Its arguments. */
export function callOf(name: string, json: string): string {
  return `${CALL}${name}\n\`\`\`json\n${json}\n\`\`\`<｜tool▁call▁end｜>`;
}

/** What begins an answer. */
const BEGINS = ["<｜Assistant｜>", "<｜tool▁outputs▁end｜>"];

/**
 * Opens one.
 *
 * @param answer What it answers to a prompt.
 * @param script More of the script.
 * @returns It.
 */
export function toolModel(answer: (prompt: string) => string, script: Script = {}): ScriptedModel {
  const model: ScriptedModel = scriptedModel({
    tokenizerJson: withToolTokens,
    chatTemplate: toolTemplate,
    ...script,
    next(tokenIds) {
      const { tokenizer } = model.llm;
      const begins = BEGINS.map((token) => tokenIds.lastIndexOf(tokenizer.idOf(token)!));
      const start = Math.max(...begins) + 1;
      const prompt = tokenizer.decode(tokenIds.slice(0, start));
      const ids = tokenizer.encode(answer(prompt), { addSpecialTokens: false });
      return ids[tokenIds.length - start] ?? tokenizer.eosTokenId!;
    },
  });
  return model;
}
