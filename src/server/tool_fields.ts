/**
 * Fields of a request that say what the model may call, and OpenAI's words for its calls.
 * @module
 */
import { z } from "@hono/zod-openapi";
import type { ToolOptions } from "../llm.ts";
import type { CompletionOutput, StreamEvent } from "../outputs.ts";
import type { FunctionTool } from "../text/tool_format.ts";
import { list } from "./bounded.ts";

/** The fields, as {@linkcode toolFields} has checked them. */
export interface ToolFields {
  /** Functions that the model may call. */
  tools?: FunctionTool[];
  /** Whether it may, must not, must, or must call a certain one. */
  tool_choice?: "auto" | "none" | "required" | { function: { name: string } };
  /** Whether it may make several calls at once. */
  parallel_tool_calls?: boolean;
}

/** OpenAI's limit. */
const MOST_TOOLS = 128;
/** Calls of one message. */
const MOST_CALLS = 128;

const tool = z.looseObject({
  type: z.literal("function"),
  function: z.looseObject({
    name: z.string(),
    description: z.string().nullish(),
    parameters: z.looseObject({}).nullish(),
    strict: z.boolean().nullish(),
  }),
});

/** The fields for a schema. */
export const toolFields: Record<keyof ToolFields, z.ZodType> = {
  tools: list(tool, 0, MOST_TOOLS).optional(),
  tool_choice: z.union([
    z.enum(["auto", "none", "required"]),
    z.looseObject({ type: z.literal("function"), function: z.looseObject({ name: z.string() }) }),
  ]).optional(),
  parallel_tool_calls: z.boolean().optional(),
};

/** Calls in an assistant's message, for a schema. */
export const toolCalls: z.ZodType = list(
  z.looseObject({
    id: z.string(),
    type: z.literal("function"),
    function: z.looseObject({ name: z.string(), arguments: z.string() }),
  }),
  0,
  MOST_CALLS,
);

/**
 * What the model may call.
 *
 * @param fields Checked.
 * @returns The library's options.
 */
export function toolsOf(
  { tools = [], tool_choice = "auto", parallel_tool_calls }: ToolFields,
): ToolOptions {
  if (tool_choice === "none") return {};
  return {
    toolChoice: typeof tool_choice === "object" ? { name: tool_choice.function.name } : tool_choice,
    tools: tools.map(({ function: { name, description, parameters, strict } }) => ({
      type: "function",
      function: {
        name,
        description: description ?? undefined,
        parameters: parameters ?? undefined,
        strict: strict ?? undefined,
      },
    })),
    parallelToolCalls: parallel_tool_calls,
  };
}

/** An assistant's message. @param output What the model wrote. @returns In OpenAI's words. */
export function messageOf({ text, toolCalls }: CompletionOutput): object {
  const content = toolCalls && text === "" ? null : text;
  return {
    ...{ role: "assistant", content, refusal: null },
    ...(toolCalls && { tool_calls: toolCalls }),
  };
}

/** What calls grew by. @param event Of a stream. @returns In OpenAI's words; `undefined` if none did. */
export function deltaOf({ toolCalls }: StreamEvent): { tool_calls: object[] } | undefined {
  if (!toolCalls) return undefined;
  return {
    tool_calls: toolCalls.map(({ index, id, name, arguments: piece }) =>
      id === undefined
        ? { index, function: { arguments: piece } }
        : { index, id, type: "function", function: { name, arguments: piece } }
    ),
  };
}
