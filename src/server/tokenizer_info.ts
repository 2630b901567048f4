/**
 * `GET /tokenizer_info`, as vLLM's: what a client needs to use /tokenize and /detokenize as a tokenizer.
 * @module
 */
import { z } from "@hono/zod-openapi";
import { describe, type Endpoint } from "./endpoint.ts";

/** `GET /tokenizer_info` */
export const tokenizerInfo: Endpoint = {
  route: describe({
    at: "GET /tokenizer_info",
    summary: "The model's tokenizer",
    returns: {
      description: "Its configuration.",
      schema: z.looseObject({ tokenizer_class: z.string(), vocab_size: z.int() }),
    },
    refusals: [400],
  }),
  answer(_, { llm: { tokenizer, contextLength } }) {
    return Response.json({
      tokenizer_class: "PreTrainedTokenizerFast",
      vocab_size: tokenizer.vocabSize,
      model_max_length: contextLength,
      bos_token: tokenizer.bosToken,
      eos_token: tokenizer.eosToken,
      pad_token: tokenizer.eosToken,
      chat_template: tokenizer.chatTemplate,
    });
  },
};
