/**
 * generation_config.json: a model's own defaults for sampling, and the tokens that end its text.
 * @module
 */
import { InvalidFileError } from "./errors.ts";
import { resolveSamplingParams, type SamplingParams } from "./sampling_params.ts";

/** What a model's generation_config.json says. */
export interface GenerationConfig {
  /** Defaults of the sampling parameters. */
  defaults: SamplingParams;
  /** Tokens that end a text. */
  eosTokenIds: number[];
}

/** Fields that are sampling parameters under another name. */
const NUMBERS: Record<string, keyof SamplingParams & string> = {
  temperature: "temperature",
  top_p: "topP",
  top_k: "topK",
  min_p: "minP",
  repetition_penalty: "repetitionPenalty",
  max_new_tokens: "maxTokens",
  min_new_tokens: "minTokens",
};

/**
 * Reads the defaults off generation_config.json. As in Hugging Face's `generate`, a config that does not
 * ask for sampling (`do_sample`) means greedy decoding.
 *
 * @param file Its address, for messages.
 * @param text Its text.
 * @returns The defaults.
 * @throws {InvalidFileError} If it is no JSON object, or a field is of the wrong type or out of range.
 */
export function parseGenerationConfig(file: string, text: string): GenerationConfig {
  const fields = parseObject(file, text);
  const defaults: Record<string, number> = {};
  for (const [name, parameter] of Object.entries(NUMBERS)) {
    const value = fields[name];
    if (value === undefined || value === null) continue;
    if (typeof value !== "number") fail(file, `its ${name} is ${JSON.stringify(value)}, no number`);
    defaults[parameter] = value;
  }
  if (fields.do_sample !== true) defaults.temperature = 0;
  try {
    // Callers choose maxTokens: without one in the file, any minTokens is in range.
    resolveSamplingParams({ maxTokens: Number.MAX_SAFE_INTEGER, ...defaults });
  } catch (cause) {
    fail(file, `its defaults are out of range (${(cause as Error).message})`, cause);
  }
  return { defaults, eosTokenIds: eosOf(file, fields) };
}

/**
 * The tokens that end a text, by config.json: for packages without a generation_config.json.
 *
 * @param file Its address, for messages.
 * @param text Its text.
 * @returns Their ids.
 * @throws {InvalidFileError} If it is no JSON object or the field is of the wrong type.
 */
export function parseEosTokenIds(file: string, text: string): number[] {
  return eosOf(file, parseObject(file, text));
}

function eosOf(file: string, { eos_token_id: value }: Record<string, unknown>): number[] {
  const ids = value === undefined || value === null ? [] : Array.isArray(value) ? value : [value];
  if (!ids.every((id) => Number.isSafeInteger(id) && id >= 0)) {
    fail(file, `its eos_token_id is ${JSON.stringify(value)}, no token id or list of them`);
  }
  return ids;
}

function parseObject(file: string, text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    fail(file, `it is no JSON (${(cause as Error).message})`, cause);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    fail(file, "it is no object");
  }
  return value as Record<string, unknown>;
}

function fail(file: string, what: string, cause?: unknown): never {
  throw new InvalidFileError(
    file,
    `Cannot use ${file}: ${what}; correct or remove it in the checkpoint and export again.`,
    { cause },
  );
}
