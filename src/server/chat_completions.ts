/**
 * `POST /v1/chat/completions`
 * @module
 */
import { z } from "@hono/zod-openapi";
import type { ChatPrompt } from "../llm.ts";
import type { TokenLogprob, TokenLogprobs } from "../outputs.ts";
import type { ChatMessage } from "../text/chat_message.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { ApiError } from "./api_error.ts";
import { list } from "./bounded.ts";
import { servedName } from "./context.ts";
import { describe, type Endpoint, readBody } from "./endpoint.ts";
import { eventStream } from "./event_stream.ts";
import { generate, type GenerationJob, mostTokens, type Usage, usageOf } from "./generation.ts";
import { leastLogprob } from "./logprobs.ts";
import { type TermFields, termFields, termsOf } from "./request_terms.ts";
import { atMost, type SamplingFields, samplingFields, samplingParams } from "./sampling_fields.ts";
import {
  type StructuredFields,
  structuredFields,
  structuredOutputsOf,
} from "./structured_fields.ts";
import {
  deltaOf,
  messageOf,
  toolCalls,
  type ToolFields,
  toolFields,
  toolsOf,
} from "./tool_fields.ts";
import { CHAT_FIELDS, refuseUnsupported } from "./unsupported_fields.ts";

interface Body extends SamplingFields, StructuredFields, TermFields, ToolFields {
  model?: string;
  messages: ChatMessage[];
  add_generation_prompt?: boolean;
  continue_final_message?: boolean;
  max_tokens?: number;
  max_completion_tokens?: number;
  logprobs?: boolean;
  top_logprobs?: number;
  stream?: boolean;
  stream_options?: { include_usage?: boolean | null };
}

/** A template takes a while for each. */
const MOST_MESSAGES = 10_000;

const message = z.looseObject({
  role: z.enum(["system", "developer", "user", "assistant", "tool"]),
  content: z.union([z.string(), list(z.looseObject({ type: z.string() }), 0, MOST_MESSAGES)])
    .nullish(),
  tool_calls: toolCalls.nullish(),
  tool_call_id: z.string().nullish(),
});
const body = z.looseObject({
  model: z.string().optional(),
  messages: list(message, 1, MOST_MESSAGES),
  add_generation_prompt: z.boolean().optional(),
  continue_final_message: z.boolean().optional(),
  max_tokens: z.int().min(1).optional(),
  max_completion_tokens: z.int().min(1).optional(),
  logprobs: z.boolean().optional(),
  top_logprobs: z.int().min(0).optional(),
  stream: z.boolean().optional(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).optional(),
  ...samplingFields,
  ...structuredFields,
  ...termFields,
  ...toolFields,
}).openapi("ChatCompletionRequest", {
  example: { messages: [{ role: "user", content: "Who are you?" }], max_tokens: 16 },
});

/** `POST /v1/chat/completions` */
export const chatCompletions: Endpoint = {
  route: describe({
    at: "POST /v1/chat/completions",
    summary: "Answer a conversation",
    body,
    returns: {
      description: "OpenAI's chat.completion, or with `stream` its chunks.",
      schema: z.looseObject({ object: z.literal("chat.completion") }),
      stream: true,
    },
    refusals: [404, 429, 503, 504],
  }),
  async answer({ request, client }, context) {
    const { llm, limits } = context;
    const fields = await readBody<Body>(request, body, limits.bodyBytes);
    const model = servedName(context, fields.model);
    refuseUnsupported({ ...fields }, CHAT_FIELDS);
    const { logprobs: wanted = false, top_logprobs = 0, stream = false } = fields;
    if (top_logprobs > 0 && !wanted) {
      throw new ApiError(400, "Cannot use top_logprobs: it needs logprobs to be true.", {
        param: "top_logprobs",
        code: "invalid_value",
      });
    }
    atMost("top_logprobs", top_logprobs, limits.logprobs, "log-probabilities for a token");
    const maxTokens = mostTokens(llm, fields.max_completion_tokens ?? fields.max_tokens);
    const job: Omit<GenerationJob, "signal"> = {
      operation: "chat",
      model,
      client,
      stream,
      prompts: [promptOf(fields)],
      params: {
        ...samplingParams(fields, limits, 1),
        maxTokens,
        logprobs: wanted ? top_logprobs : undefined,
      },
      asked: structuredOutputsOf(fields),
      terms: termsOf(fields, client, limits),
    };
    const head = {
      id: `chatcmpl-${crypto.randomUUID().replaceAll("-", "")}`,
      created: Math.floor(Date.now() / 1e3),
      model,
    };
    const logprobsOf = (tokens: readonly TokenLogprobs[] | undefined) =>
      tokens
        ? { content: tokens.map((token) => logprob(token, llm.tokenizer)), refusal: null }
        : null;
    if (!stream) {
      const outputs = await generate(context, { ...job, signal: request.signal });
      return Response.json({
        ...head,
        object: "chat.completion",
        choices: outputs[0]!.outputs.map((output) => ({
          index: output.index,
          message: messageOf(output),
          logprobs: logprobsOf(output.logprobs),
          finish_reason: output.finishReason,
          stop_reason: output.stopReason ?? null,
        })),
        usage: usageOf(outputs),
      });
    }
    const withUsage = fields.stream_options?.include_usage === true;
    const produce: Parameters<typeof eventStream>[0]["produce"] = async (send, signal) => {
      const sendChoices = (choices: unknown[], usage: Usage | null = null) =>
        send({
          ...head,
          object: "chat.completion.chunk",
          choices,
          ...(withUsage && { usage }),
        });
      const begun = new Set<number>();
      const outputs = await generate(context, { ...job, signal }, (event) => {
        const { index, text, logprobs, finishReason, stopReason } = event;
        const choice = (delta: object, rest: object = {}) =>
          sendChoices([{ index, delta, logprobs: null, finish_reason: null, ...rest }]);
        if (!begun.has(index)) choice({ role: "assistant", content: "" });
        begun.add(index);
        if (text !== "" || logprobs) choice({ content: text }, { logprobs: logprobsOf(logprobs) });
        const calls = deltaOf(event);
        if (calls) choice(calls);
        if (finishReason) {
          choice({}, { finish_reason: finishReason, stop_reason: stopReason ?? null });
        }
      });
      if (withUsage) sendChoices([], usageOf(outputs));
      send("[DONE]");
    };
    return await eventStream({ signal: request.signal, context, produce });
  },
};

/** The conversation, and whether its last message is the beginning of the answer: in vLLM's or DeepSeek's words. */
function promptOf({ messages, ...given }: Body): ChatPrompt {
  const continueFinalMessage = given.continue_final_message || isPrefix(messages.at(-1)!);
  const addGenerationPrompt = given.add_generation_prompt ?? !continueFinalMessage;
  return {
    messages: messagesOf(messages),
    ...{ continueFinalMessage, addGenerationPrompt },
    ...toolsOf(given),
  };
}

/** Whether a message, as the last one, is the beginning of the answer. */
function isPrefix({ role, prefix }: ChatMessage): boolean {
  return role === "assistant" && prefix === true;
}

/** Messages as a template knows them. */
function messagesOf(messages: readonly ChatMessage[]): ChatMessage[] {
  return messages.map((message, index) => {
    for (const field of ["function_call", "prefix"]) {
      if (field === "prefix" && index === messages.length - 1 && isPrefix(message)) continue;
      const value = message[field];
      if (!value) continue;
      const param = `messages[${index}].${field}`;
      throw new ApiError(400, `Cannot use ${param}: it is not supported.`, {
        param,
        code: "unsupported",
      });
    }
    const { role, content, tool_calls, tool_call_id } = message;
    return {
      ...{ role: role === "developer" ? "system" : role, content },
      ...(tool_calls && tool_calls.length > 0 && { tool_calls }),
      ...(tool_call_id !== null && { tool_call_id }),
    };
  });
}

function logprob({ top, ...token }: TokenLogprobs, tokenizer: Tokenizer) {
  const named = ({ tokenId, token, logprob }: TokenLogprob) => ({
    token,
    logprob: leastLogprob(logprob),
    bytes: Array.from(tokenizer.tokenBytes(tokenId)),
  });
  return { ...named(token), top_logprobs: top.map(named) };
}
