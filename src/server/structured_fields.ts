/**
 * Fields of a request that say what the output must be: OpenAI's `response_format`, and vLLM's.
 * @module
 */
import { z } from "@hono/zod-openapi";
import { InvalidArgumentError } from "../errors.ts";
import type { StructuredOutputs } from "../sampling_params.ts";
import { ApiError } from "./api_error.ts";

/** A format as chat completions and completions have it, and as responses have it, which is flat. */
export interface ResponseFormat {
  /** `text`, `json_object` or `json_schema`. */
  type: string;
  /** Of the last one. */
  json_schema?: { schema?: object };
  /** The same where it is flat. */
  schema?: object;
}

/** The fields, as {@linkcode structuredFields} has checked them. */
export interface StructuredFields {
  /** OpenAI's. */
  response_format?: ResponseFormat;
  /** vLLM's. */
  structured_outputs?: StructuredOutputs;
  /** vLLM's before that, as all of these. */
  guided_json?: object | string;
  guided_regex?: string;
  guided_choice?: string[];
  guided_grammar?: string;
}

// What these hold is bounded and checked by the library.
const schema = z.looseObject({});
const text = z.string();
const texts = z.any().openapi({ type: "array", items: { type: "string" } });
const formatType = z.enum(["text", "json_object", "json_schema"]);

/** A format of responses, for a schema. */
export const flatFormat: z.ZodType = z.looseObject({
  type: formatType,
  schema: schema.optional(),
});

/** The fields for a schema. */
export const structuredFields: Record<keyof StructuredFields, z.ZodType> = {
  response_format: z.looseObject({
    type: formatType,
    json_schema: z.looseObject({ schema: schema.optional() }).optional(),
  }).optional(),
  structured_outputs: z.strictObject({
    json: z.union([schema, text]).optional(),
    regex: text.optional(),
    choice: texts.optional(),
    grammar: text.optional(),
  }).optional(),
  guided_json: z.union([schema, text]).optional(),
  guided_regex: text.optional(),
  guided_choice: texts.optional(),
  guided_grammar: text.optional(),
};

/** What the output must be, and the field that says so. */
export interface Asked {
  /** The field. */
  param: string;
  /** The library's parameter. */
  outputs: StructuredOutputs;
}

/**
 * What the output must be, by a request's fields.
 *
 * @param fields Checked.
 * @returns `undefined` if any output will do.
 * @throws {ApiError} 400 if several fields say something, or a schema is missing.
 */
export function structuredOutputsOf(fields: StructuredFields): Asked | undefined {
  const { response_format: format, structured_outputs, ...guided } = fields;
  const asked = format ? formatOf("response_format", format) : undefined;
  const given: (Asked | undefined)[] = [
    asked,
    structured_outputs && { param: "structured_outputs", outputs: structured_outputs },
    ...(["json", "regex", "choice", "grammar"] as const).map((kind) => {
      const value = guided[`guided_${kind}`];
      return value === undefined
        ? undefined
        : { param: `guided_${kind}`, outputs: { [kind]: value } };
    }),
  ];
  const [first, second] = given.filter((item) => item !== undefined);
  if (second) {
    throw refusal(
      second.param,
      `Cannot use ${second.param} beside ${first!.param}: leave one of them out.`,
    );
  }
  return first;
}

/**
 * What the output must be, by OpenAI's field.
 *
 * @param param Its name.
 * @param format It.
 * @returns `undefined` if any output will do.
 * @throws {ApiError} 400 if the schema is missing.
 */
export function formatOf(param: string, format: ResponseFormat): Asked | undefined {
  if (format.type === "text") return undefined;
  if (format.type === "json_object") return { param, outputs: { json: { type: "object" } } };
  const schema = format.schema ?? format.json_schema?.schema;
  if (schema) return { param, outputs: { json: schema } };
  throw refusal(param, `Cannot use ${param}: the type json_schema needs a schema; give one.`);
}

/**
 * An error of the library's in the words of a request.
 *
 * @param error Anything that was thrown.
 * @param asked What the request asked for.
 * @returns It; an error about the parameter names the field.
 */
export function inWordsOf(asked: Asked | undefined, error: unknown): unknown {
  if (!asked || !(error instanceof InvalidArgumentError)) return error;
  if (error.field !== "structuredOutputs") return error;
  const message = error.message.replace("structuredOutputs", asked.param);
  return new InvalidArgumentError(asked.param, message, { cause: error });
}

function refusal(param: string, message: string): ApiError {
  return new ApiError(400, message, { param, code: "invalid_value" });
}
