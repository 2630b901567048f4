/**
 * `POST /tokenize`, as vLLM's.
 * @module
 */
import { z } from "@hono/zod-openapi";
import type { ChatMessage } from "../text/chat_message.ts";
import { list } from "./bounded.ts";
import { servedName } from "./context.ts";
import { describe, type Endpoint, readBody } from "./endpoint.ts";

interface Body {
  model?: string;
  prompt?: string;
  messages?: ChatMessage[];
  add_special_tokens?: boolean;
  add_generation_prompt?: boolean;
  return_token_strs?: boolean;
}

const body = z.looseObject({
  model: z.string().optional(),
  prompt: z.string().optional(),
  messages: list(z.looseObject({ role: z.string() }), 1, 10_000).optional(),
  add_special_tokens: z.boolean().optional(),
  add_generation_prompt: z.boolean().optional(),
  return_token_strs: z.boolean().optional(),
}).refine(
  ({ prompt, messages }) => (prompt === undefined) !== (messages === undefined),
  "it needs either prompt or messages",
).openapi("TokenizeRequest", { example: { prompt: "Once upon a time" } });

/** `POST /tokenize` */
export const tokenize: Endpoint = {
  route: describe({
    at: "POST /tokenize",
    summary: "The tokens of a text or conversation",
    body,
    returns: {
      description: "The tokens.",
      schema: z.object({
        count: z.int(),
        max_model_len: z.int(),
        tokens: z.array(z.int()),
        token_strs: z.array(z.string()).nullable(),
      }),
    },
    refusals: [404],
  }),
  async answer({ request }, context) {
    const { llm, limits } = context;
    const fields = await readBody<Body>(request, body, limits.bodyBytes);
    servedName(context, fields.model);
    const { tokenizer } = llm;
    const { prompt, messages, add_special_tokens, add_generation_prompt = true } = fields;
    const tokens = messages
      ? tokenizer.applyChatTemplate(messages, { addGenerationPrompt: add_generation_prompt })
      : tokenizer.encode(prompt!, { addSpecialTokens: add_special_tokens ?? true });
    return Response.json({
      count: tokens.length,
      max_model_len: llm.contextLength,
      tokens,
      token_strs: fields.return_token_strs ? tokens.map((id) => tokenizer.tokenOf(id) ?? "") : null,
    });
  },
};
