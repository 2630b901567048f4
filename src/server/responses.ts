/**
 * `POST /v1/responses`: text in, text out; nothing is kept.
 * @module
 */
import { z } from "@hono/zod-openapi";
import type { FinishReason } from "../engine/generation.ts";
import type { ChatMessage } from "../text/chat_message.ts";
import { list } from "./bounded.ts";
import { servedName } from "./context.ts";
import { describe, type Endpoint, readBody } from "./endpoint.ts";
import { eventStream } from "./event_stream.ts";
import { generate, type GenerationJob, mostTokens, type Usage, usageOf } from "./generation.ts";
import { type TermFields, termFields, termsOf } from "./request_terms.ts";
import { type SamplingFields, samplingFields, samplingParams } from "./sampling_fields.ts";
import { flatFormat, formatOf, type ResponseFormat } from "./structured_fields.ts";
import { refuseUnsupported, RESPONSES_FIELDS } from "./unsupported_fields.ts";

interface Message {
  type?: string;
  role: string;
  content: string | { type: string; text: string }[];
}

interface Body extends Pick<SamplingFields, "temperature" | "top_p" | "seed">, TermFields {
  model?: string;
  input: string | Message[];
  instructions?: string;
  max_output_tokens?: number;
  metadata?: Record<string, unknown>;
  text?: { format?: ResponseFormat | null };
  stream?: boolean;
}

const { temperature, top_p, seed } = samplingFields;
/** A template takes a while for each. */
const MOST_ITEMS = 10_000;

const part = z.looseObject({ type: z.enum(["input_text", "output_text"]), text: z.string() });
const message = z.looseObject({
  type: z.literal("message").optional(),
  role: z.enum(["system", "developer", "user", "assistant"]),
  content: z.union([z.string(), list(part, 1, MOST_ITEMS)]),
});
const body = z.looseObject({
  model: z.string().optional(),
  input: z.union([z.string(), list(message, 1, MOST_ITEMS)]),
  instructions: z.string().optional(),
  max_output_tokens: z.int().min(1).optional(),
  metadata: z.record(z.string(), z.unknown()).optional(),
  text: z.looseObject({ format: flatFormat.nullish() }).optional(),
  stream: z.boolean().optional(),
  ...{ temperature, top_p, seed },
  ...termFields,
}).openapi("ResponseRequest", { example: { input: "Who are you?", max_output_tokens: 16 } });

/** `POST /v1/responses` */
export const responses: Endpoint = {
  route: describe({
    at: "POST /v1/responses",
    summary: "Answer a text or conversation; nothing is kept",
    body,
    returns: {
      description: "OpenAI's response, or with `stream` its events.",
      schema: z.looseObject({ object: z.literal("response") }),
      stream: true,
    },
    refusals: [404, 429, 503, 504],
  }),
  async answer({ request, client }, context) {
    const { llm, limits } = context;
    const fields = await readBody<Body>(request, body, limits.bodyBytes);
    const model = servedName(context, fields.model);
    refuseUnsupported({ ...fields }, RESPONSES_FIELDS);
    const format = fields.text?.format ?? { type: "text" };
    const job: Omit<GenerationJob, "signal"> = {
      operation: "chat",
      model,
      client,
      stream: fields.stream ?? false,
      prompts: [{ messages: messagesOf(fields) }],
      params: {
        ...samplingParams(
          { temperature: fields.temperature, top_p: fields.top_p, seed: fields.seed },
          limits,
          1,
        ),
        maxTokens: mostTokens(llm, fields.max_output_tokens),
      },
      asked: formatOf("text.format", format),
      terms: termsOf(fields, client, limits),
    };
    const ids = { response: newId("resp"), message: newId("msg") };
    const created = Math.floor(Date.now() / 1e3);
    const part = (text: string) => ({ type: "output_text", text, annotations: [], logprobs: [] });
    const item = (status: string, text?: string) => ({
      ...{ id: ids.message, type: "message", role: "assistant", status },
      content: text === undefined ? [] : [part(text)],
    });
    const response = (status: string, output: unknown[] = [], usage?: Usage) => ({
      id: ids.response,
      object: "response",
      created_at: created,
      status,
      error: null,
      incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
      instructions: fields.instructions ?? null,
      max_output_tokens: fields.max_output_tokens ?? null,
      model,
      output,
      parallel_tool_calls: false,
      previous_response_id: null,
      store: false,
      temperature: fields.temperature ?? llm.defaults.temperature ?? 1,
      text: { format },
      tool_choice: "none",
      tools: [],
      top_p: fields.top_p ?? llm.defaults.topP ?? 1,
      truncation: "disabled",
      usage: usage && {
        input_tokens: usage.prompt_tokens,
        input_tokens_details: usage.prompt_tokens_details,
        output_tokens: usage.completion_tokens,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: usage.total_tokens,
      },
      metadata: fields.metadata ?? {},
    });
    const statusOf = (reason: FinishReason) => reason === "length" ? "incomplete" : "completed";
    if (!job.stream) {
      const outputs = await generate(context, { ...job, signal: request.signal });
      const { text, finishReason } = outputs[0]!.outputs[0]!;
      const status = statusOf(finishReason);
      return Response.json(response(status, [item(status, text)], usageOf(outputs)));
    }
    const produce: Parameters<typeof eventStream>[0]["produce"] = async (send, signal) => {
      let sequence = 0;
      const emit = (type: string, rest: object) =>
        send({ type, sequence_number: sequence++, ...rest }, type);
      const at = { item_id: ids.message, output_index: 0, content_index: 0 };
      const begin = () => {
        emit("response.created", { response: response("in_progress") });
        emit("response.in_progress", { response: response("in_progress") });
        emit("response.output_item.added", { output_index: 0, item: item("in_progress") });
        emit("response.content_part.added", { ...at, part: part("") });
      };
      const outputs = await generate(context, { ...job, signal }, ({ text: delta }) => {
        if (sequence === 0) begin();
        if (delta !== "") emit("response.output_text.delta", { ...at, delta, logprobs: [] });
      });
      const { text, finishReason } = outputs[0]!.outputs[0]!;
      const status = statusOf(finishReason);
      emit("response.output_text.done", { ...at, text, logprobs: [] });
      emit("response.content_part.done", { ...at, part: part(text) });
      emit("response.output_item.done", { output_index: 0, item: item(status, text) });
      emit(`response.${status}`, {
        response: response(status, [item(status, text)], usageOf(outputs)),
      });
    };
    return await eventStream({ signal: request.signal, context, produce });
  },
};

function newId(prefix: string): string {
  return `${prefix}_${crypto.randomUUID().replaceAll("-", "")}`;
}

function messagesOf({ input, instructions }: Body): ChatMessage[] {
  const given = typeof input === "string" ? [{ role: "user", content: input }] : input;
  const messages = given.map(({ role, content }): ChatMessage => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map(({ text }) => text).join(""),
  }));
  return instructions === undefined
    ? messages
    : [{ role: "system", content: instructions }, ...messages];
}
