/**
 * `POST /detokenize`, as vLLM's.
 * @module
 */
import { z } from "@hono/zod-openapi";
import { list } from "./bounded.ts";
import { servedName } from "./context.ts";
import { describe, type Endpoint, readBody } from "./endpoint.ts";

interface Body {
  model?: string;
  tokens: number[];
}

const body = z.looseObject({
  model: z.string().optional(),
  tokens: list(z.int().min(0), 0, 10_000_000),
}).openapi("DetokenizeRequest", { example: { tokens: [1, 2, 3] } });

/** `POST /detokenize` */
export const detokenize: Endpoint = {
  route: describe({
    at: "POST /detokenize",
    summary: "The text of tokens",
    body,
    returns: { description: "The text.", schema: z.object({ prompt: z.string() }) },
    refusals: [404],
  }),
  async answer({ request }, context) {
    const { llm, limits } = context;
    const { model, tokens } = await readBody<Body>(request, body, limits.bodyBytes);
    servedName(context, model);
    return Response.json({ prompt: llm.tokenizer.decode(tokens) });
  },
};
