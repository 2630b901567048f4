/**
 * Fields of a request that say how to sample: OpenAI's, and vLLM's beside them.
 * @module
 */
import { z } from "@hono/zod-openapi";
import type { SamplingParams } from "../sampling_params.ts";
import { ApiError } from "./api_error.ts";
import { list, numbersByToken } from "./bounded.ts";
import type { ServerLimits } from "./limits.ts";

/** The fields, as {@linkcode samplingFields} has checked them. */
export interface SamplingFields {
  /** See {@linkcode SamplingParams}, as all of these. */
  n?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  logit_bias?: Record<string, number>;
  allowed_token_ids?: number[];
  seed?: number;
  stop?: string | string[];
  stop_token_ids?: number[];
  min_tokens?: number;
  ignore_eos?: boolean;
  include_stop_str_in_output?: boolean;
  skip_special_tokens?: boolean;
}

const tokenId = z.int().min(0);

/** The fields for a schema. What is left out is the model's own choice. */
export const samplingFields: Record<keyof SamplingFields, z.ZodType> = {
  n: z.int().min(1).max(128).optional(),
  temperature: z.number().min(0).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  top_k: z.int().min(-1).optional(),
  min_p: z.number().min(0).max(1).optional(),
  repetition_penalty: z.number().gt(0).optional(),
  presence_penalty: z.number().min(-2).max(2).optional(),
  frequency_penalty: z.number().min(-2).max(2).optional(),
  logit_bias: numbersByToken(100).optional(),
  allowed_token_ids: list(tokenId, 1, 131_072).optional(),
  seed: z.int().optional(),
  stop: z.union([z.string(), list(z.string(), 0, 1024)]).optional(),
  stop_token_ids: list(tokenId, 0, 1024).optional(),
  min_tokens: z.int().min(0).optional(),
  ignore_eos: z.boolean().optional(),
  include_stop_str_in_output: z.boolean().optional(),
  skip_special_tokens: z.boolean().optional(),
};

/**
 * The library's parameters for a request's fields.
 *
 * @param fields Checked.
 * @param limits Of the server.
 * @param prompts How many prompts they are for.
 * @returns The parameters, `maxTokens` and log-probabilities left out.
 * @throws {ApiError} 400 if they are beyond the limits.
 */
export function samplingParams(
  fields: SamplingFields,
  limits: ServerLimits,
  prompts: number,
): SamplingParams {
  const { n = 1, stop = [], logit_bias = {} } = fields;
  atMost("n", prompts * n, limits.choices, prompts > 1 ? "choices of all prompts" : "choices");
  atMost("stop", [stop].flat().length, limits.stopStrings, "stop strings");
  atMost("logit_bias", Object.keys(logit_bias).length, limits.biases, "biased tokens");
  return {
    n,
    temperature: fields.temperature,
    topP: fields.top_p,
    topK: fields.top_k,
    minP: fields.min_p,
    repetitionPenalty: fields.repetition_penalty,
    presencePenalty: fields.presence_penalty,
    frequencyPenalty: fields.frequency_penalty,
    logitBias: logit_bias,
    allowedTokenIds: fields.allowed_token_ids,
    seed: fields.seed,
    stop,
    stopTokenIds: fields.stop_token_ids,
    minTokens: fields.min_tokens,
    ignoreEos: fields.ignore_eos,
    includeStopStrInOutput: fields.include_stop_str_in_output,
    skipSpecialTokens: fields.skip_special_tokens,
  };
}

/**
 * Refuses what is beyond a limit of the server.
 *
 * @param param The field.
 * @param count How much it asks for.
 * @param most How much there may be.
 * @param what Of what.
 * @throws {ApiError} 400.
 */
export function atMost(param: string, count: number, most: number, what: string): void {
  if (count <= most) return;
  throw new ApiError(400, `Cannot use ${param}: it makes ${count} ${what}, ${most} are allowed.`, {
    param,
    code: "over_limit",
  });
}
