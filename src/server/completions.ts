/**
 * `POST /v1/completions`
 * @module
 */
import { z } from "@hono/zod-openapi";
import { UnsupportedError } from "../errors.ts";
import type { LLM } from "../llm.ts";
import type { RequestOutput } from "../outputs.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { ApiError } from "./api_error.ts";
import { servedName } from "./context.ts";
import { describe, type Endpoint, readBody } from "./endpoint.ts";
import { eventStream } from "./event_stream.ts";
import { generate, type GenerationJob, type Usage, usageOf } from "./generation.ts";
import { type CompletionLogprobs, LogprobWriter } from "./logprobs.ts";
import { type TermFields, termFields, termsOf } from "./request_terms.ts";
import { atMost, type SamplingFields, samplingFields, samplingParams } from "./sampling_fields.ts";
import {
  type StructuredFields,
  structuredFields,
  structuredOutputsOf,
} from "./structured_fields.ts";
import { COMPLETION_FIELDS, refuseUnsupported } from "./unsupported_fields.ts";

type PromptField = string | string[] | number[] | number[][];

interface Body extends SamplingFields, StructuredFields, TermFields {
  model?: string;
  prompt: PromptField;
  suffix?: string;
  max_tokens?: number;
  logprobs?: number;
  echo?: boolean;
  stream?: boolean;
  stream_options?: { include_usage?: boolean | null };
}

/** OpenAI's limit where a request has none. */
const MAX_TOKENS = 16;

const ids = {
  type: "array" as const,
  items: { type: "integer" as const, minimum: 0 },
  minItems: 1,
};
const body = z.looseObject({
  model: z.string().optional(),
  // A schema of zod's would collect an issue for each of a long list's tokens.
  prompt: z.custom<PromptField>(isPrompt, "it must be a text, token ids, or a list of these")
    .openapi({
      type: ["string", "array"],
      oneOf: [
        { type: "string" },
        { type: "array", items: { type: "string" }, minItems: 1 },
        ids,
        { type: "array", items: ids, minItems: 1 },
      ],
    }),
  suffix: z.string().optional(),
  max_tokens: z.int().min(0).optional(),
  logprobs: z.int().min(0).optional(),
  echo: z.boolean().optional(),
  stream: z.boolean().optional(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).optional(),
  ...samplingFields,
  ...structuredFields,
  ...termFields,
}).openapi("CompletionRequest", { example: { prompt: "Once upon a time", max_tokens: 16 } });

/** `POST /v1/completions` */
export const completions: Endpoint = {
  route: describe({
    at: "POST /v1/completions",
    summary: "Continue texts",
    body,
    returns: {
      description: "OpenAI's text_completion, or with `stream` its chunks.",
      schema: z.looseObject({ object: z.literal("text_completion") }),
      stream: true,
    },
    refusals: [404, 429, 503, 504],
  }),
  async answer({ request, client }, context) {
    const { llm, limits } = context;
    const fields = await readBody<Body>(request, body, limits.bodyBytes);
    const model = servedName(context, fields.model);
    refuseUnsupported({ ...fields }, COMPLETION_FIELDS);
    const { suffix, logprobs, echo = false, stream = false, n = 1 } = fields;
    const maxTokens = fields.max_tokens ?? llm.defaults.maxTokens ?? MAX_TOKENS;
    const prompts = promptsOf(fields.prompt);
    atMost("prompt", prompts.length, limits.prompts, "prompts");
    atMost("logprobs", logprobs ?? 0, limits.logprobs, "log-probabilities for a token");
    const promptTokenIds = prompts.map((prompt) =>
      suffix ? aroundGap(llm, prompt, suffix) : tokensOf(llm, prompt)
    );
    const scored = echo && logprobs !== undefined;
    if (scored) {
      if (suffix) throw unusableSuffix("echo with logprobs has no place for it");
      if (stream) {
        throw new ApiError(400, "Cannot stream echo with logprobs; set stream to false.", {
          param: "stream",
          code: "unsupported",
        });
      }
      const count = promptTokenIds.reduce((sum, { length }) => sum + length, 0) * (logprobs + 1) *
        n;
      atMost("logprobs", count, limits.promptLogprobs, "log-probabilities of prompts");
    }
    const job: Omit<GenerationJob, "signal"> = {
      operation: "text_completion",
      model,
      client,
      stream,
      prompts: promptTokenIds.map((promptTokenIds) => ({ promptTokenIds })),
      params: {
        ...samplingParams(fields, limits, prompts.length),
        maxTokens: Math.max(maxTokens, 1),
        logprobs,
        promptLogprobs: scored ? logprobs : undefined,
      },
      asked: structuredOutputsOf(fields),
      terms: termsOf(fields, client, limits),
    };
    const head = {
      id: `cmpl-${crypto.randomUUID().replaceAll("-", "")}`,
      object: "text_completion",
      created: Math.floor(Date.now() / 1e3),
      model,
    };
    const tokenizer = tokenizerOf(llm);
    const writer = () => new LogprobWriter(tokenizer, fields.skip_special_tokens ?? true);
    const echoed = (prompt: number) => {
      const given = prompts[prompt]!;
      if (!echo) return "";
      return typeof given === "string" ? given : tokenizer?.decode(given) ?? "";
    };
    if (!stream) {
      const outputs = (await generate(context, { ...job, signal: request.signal }))
        .map((output) => maxTokens === 0 ? withoutTokens(output) : output);
      const choices = outputs.flatMap((output, prompt) =>
        output.outputs.map((choice) => ({
          index: prompt * n + choice.index,
          text: echoed(prompt) + choice.text,
          logprobs: logprobs === undefined
            ? null
            : logprobsOf(writer(), output, choice.index, scored),
          finish_reason: choice.finishReason,
          stop_reason: choice.stopReason ?? null,
        }))
      );
      return Response.json({ ...head, choices, usage: usageOf(outputs) });
    }
    const withUsage = fields.stream_options?.include_usage === true;
    const produce: Parameters<typeof eventStream>[0]["produce"] = async (send, signal) => {
      const sendChoices = (choices: unknown[], usage: Usage | null = null) =>
        send({ ...head, choices, ...(withUsage && { usage }) });
      const writers = new Map<number, LogprobWriter>();
      const outputs = await generate(context, { ...job, signal }, (event, prompt) => {
        const { tokenIds, logprobs, finishReason, stopReason } = event;
        const index = prompt * n + event.index;
        const choice = (text: string, rest: object = {}) =>
          sendChoices([{ index, text, logprobs: null, finish_reason: null, ...rest }]);
        if (!writers.has(index)) {
          writers.set(index, writer());
          if (echo) choice(echoed(prompt));
        }
        const text = maxTokens === 0 ? "" : event.text;
        if (text !== "" || (logprobs && maxTokens > 0)) {
          choice(text, {
            logprobs: logprobs ? writers.get(index)!.write(tokenIds, logprobs) : null,
          });
        }
        if (finishReason) {
          choice("", { finish_reason: finishReason, stop_reason: stopReason ?? null });
        }
      });
      if (withUsage) {
        sendChoices([], usageOf(maxTokens === 0 ? outputs.map(withoutTokens) : outputs));
      }
      send("[DONE]");
    };
    return await eventStream({ signal: request.signal, context, produce });
  },
};

function isTokenIds(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 &&
    value.every((id) => Number.isSafeInteger(id) && id >= 0);
}

function isPrompt(value: unknown): boolean {
  if (typeof value === "string" || isTokenIds(value)) return true;
  if (!Array.isArray(value) || value.length === 0) return false;
  return value.every((item) => typeof item === "string") || value.every(isTokenIds);
}

function promptsOf(prompt: PromptField): (string | number[])[] {
  if (typeof prompt === "string") return [prompt];
  return typeof prompt[0] === "number" ? [prompt as number[]] : prompt as string[] | number[][];
}

function tokensOf(llm: LLM, prompt: string | number[]): number[] {
  return typeof prompt === "string" ? llm.tokenizer.encode(prompt) : prompt;
}

/** A prompt and what follows the gap behind it, for a model that was trained to fill gaps in. */
function aroundGap({ tokenizer }: LLM, prompt: string | number[], suffix: string): number[] {
  if (typeof prompt !== "string") throw unusableSuffix("the prompt must be a text beside it");
  try {
    return tokenizer.encodeFim(prompt, suffix);
  } catch (cause) {
    if (!(cause instanceof UnsupportedError)) throw cause;
    throw unusableSuffix("the model has no tokens for a gap; leave it out", cause);
  }
}

function unusableSuffix(reason: string, cause?: UnsupportedError): ApiError {
  return new ApiError(400, `Cannot use suffix: ${reason}.`, {
    param: "suffix",
    code: "unsupported",
    cause,
  });
}

/** Packages without one serve prompts of tokens. */
function tokenizerOf(llm: LLM): Tokenizer | undefined {
  try {
    return llm.tokenizer;
  } catch {
    return undefined;
  }
}

/** A request for no tokens gets none; the model had to draw one for the prompt's log-probabilities. */
function withoutTokens(output: RequestOutput): RequestOutput {
  const outputs = output.outputs.map(({ index, logprobs }) => ({
    ...{ index, text: "", tokenIds: [], finishReason: "length" as const },
    ...(logprobs && { cumulativeLogprob: 0, logprobs: [] }),
  }));
  return { ...output, outputs };
}

function logprobsOf(
  writer: LogprobWriter,
  { promptTokenIds, promptLogprobs = [], outputs }: RequestOutput,
  choice: number,
  scored: boolean,
): CompletionLogprobs {
  const { tokenIds, logprobs = [] } = outputs[choice]!;
  return writer.write(
    [...(scored ? promptTokenIds : []), ...tokenIds],
    [...(scored ? promptLogprobs : []), ...logprobs],
  );
}
