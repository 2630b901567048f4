/**
 * Runs a request's prompts together: lets them in, measures them, and tells what comes of them.
 * @module
 */
import { type Span, SpanStatusCode, trace } from "@opentelemetry/api";
import type { CallOptions, LLM, Prompt } from "../llm.ts";
import type { RequestOutput, StreamEvent } from "../outputs.ts";
import type { SamplingParams } from "../sampling_params.ts";
import { VERSION } from "../version.ts";
import type { ServerContext } from "./context.ts";
import { type Asked, inWordsOf } from "./structured_fields.ts";

/** What is to be generated. */
export interface GenerationJob {
  /** What it is, in OpenTelemetry's words: `chat` or `text_completion`. */
  operation: string;
  /** The name that the request gives the model. */
  model: string;
  /** Whose it is. */
  client: string;
  /** Whether its events go out as they come. */
  stream: boolean;
  /** They run together. */
  prompts: readonly Prompt[];
  /** For all of them. */
  params: SamplingParams;
  /** What the outputs must be. */
  asked: Asked | undefined;
  /** How they are to be treated, see {@linkcode termsOf}. */
  terms: Omit<CallOptions, "signal">;
  /** Ends it within one step of the model: the client has gone. */
  signal: AbortSignal;
}

/** Told of every event. @param event It. @param prompt Which prompt's it is. */
export type JobListener = (event: StreamEvent, prompt: number) => void;

/**
 * Generates.
 *
 * @param context Of the server.
 * @param job What.
 * @param listener Told of every event.
 * @returns A result for each prompt.
 * @throws {ApiError} If the client has too many streams, otherwise what {@linkcode LLM.stream} throws.
 */
export async function generate(
  context: ServerContext,
  job: GenerationJob,
  listener?: JobListener,
): Promise<RequestOutput[]> {
  const { client, prompts, asked, terms, stream, signal } = job;
  const params = { ...job.params, structuredOutputs: asked?.outputs };
  const leave = context.admission.enter(client, stream);
  const span = startSpan(job);
  const others = new AbortController();
  const stop = () => others.abort(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  const options = { ...terms, signal: others.signal };
  const runs = prompts.map((prompt, index) =>
    run(context, prompt, params, options, listener && ((event) => listener(event, index)))
  );
  try {
    signal.throwIfAborted();
    const outputs = await Promise.all(runs);
    describeOutputs(span, outputs);
    return outputs;
  } catch (error) {
    others.abort(error);
    await Promise.allSettled(runs);
    if (!signal.aborted) {
      span.recordException(error as Error);
      span.setStatus({ code: SpanStatusCode.ERROR, message: (error as Error).message });
    }
    throw inWordsOf(asked, error);
  } finally {
    signal.removeEventListener("abort", stop);
    span.end();
    leave();
  }
}

async function run(
  { llm, metrics }: ServerContext,
  prompt: Prompt,
  params: SamplingParams,
  options: CallOptions & { signal: AbortSignal },
  listener?: (event: StreamEvent) => void,
): Promise<RequestOutput> {
  const began = performance.now();
  const seconds = (since: number) => (performance.now() - since) / 1e3;
  const times: number[] = []; // of each choice's last token
  const events = llm.stream(prompt, params, options);
  try {
    let next = await events.next();
    for (; !next.done; next = await events.next()) {
      const { index, tokenIds, finishReason } = next.value;
      if (tokenIds.length > 0) {
        if (times.length === 0) metrics.firstToken(seconds(began));
        if (times[index] !== undefined) metrics.nextToken(seconds(times[index]));
        times[index] = performance.now();
      }
      if (finishReason !== "abort") listener?.(next.value); // the error that follows is what clients know
    }
    metrics.finished(next.value, seconds(began));
    return next.value;
  } catch (error) {
    metrics.broken(options.signal.aborted ? "abort" : "error");
    throw error;
  }
}

/** Names of OpenTelemetry's conventions for generative models. */
function startSpan({ operation, model, params, prompts }: GenerationJob): Span {
  return trace.getTracer("hybridseek", VERSION).startSpan(`${operation} ${model}`, {
    attributes: {
      "gen_ai.operation.name": operation,
      "gen_ai.provider.name": "hybridseek",
      "gen_ai.request.model": model,
      "gen_ai.request.choice.count": (params.n ?? 1) * prompts.length,
      ...(params.temperature !== undefined && { "gen_ai.request.temperature": params.temperature }),
    },
  });
}

function describeOutputs(span: Span, outputs: readonly RequestOutput[]) {
  const { prompt_tokens, completion_tokens } = usageOf(outputs);
  span.setAttributes({
    "gen_ai.usage.input_tokens": prompt_tokens,
    "gen_ai.usage.output_tokens": completion_tokens,
    "gen_ai.response.finish_reasons": outputs.flatMap(({ outputs }) =>
      outputs.map(({ finishReason }) => finishReason)
    ),
  });
}

/** What a request took, in OpenAI's and in DeepSeek's words. */
export interface Usage {
  /** Tokens of the prompts. */
  prompt_tokens: number;
  /** Tokens generated. */
  completion_tokens: number;
  /** Both. */
  total_tokens: number;
  /** OpenAI's way to say how much of the prompts was in the cache. */
  prompt_tokens_details: { cached_tokens: number };
  /** DeepSeek's way. */
  prompt_cache_hit_tokens: number;
  /** And the rest. */
  prompt_cache_miss_tokens: number;
}

/**
 * What a request took.
 *
 * @param outputs Its results.
 * @returns The tokens.
 */
export function usageOf(outputs: readonly RequestOutput[]): Usage {
  const sum = (count: (output: RequestOutput) => number) =>
    outputs.reduce((total, output) => total + count(output), 0);
  const prompt = sum(({ promptTokenIds }) => promptTokenIds.length);
  const completion = sum(({ outputs }) =>
    outputs.reduce((total, { tokenIds }) => total + tokenIds.length, 0)
  );
  const cached = sum(({ cachedTokens }) => cachedTokens);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
    prompt_cache_hit_tokens: cached,
    prompt_cache_miss_tokens: prompt - cached,
  };
}

/**
 * The most tokens that a request may generate: what it says, else the model's own limit, else to the end
 * of the context.
 *
 * @param llm The model.
 * @param given What the request says.
 * @returns Tokens.
 */
export function mostTokens(llm: LLM, given: number | undefined): number {
  return given ?? llm.defaults.maxTokens ?? llm.contextLength;
}
