/**
 * Fields of OpenAI's and vLLM's requests that would change the result and are not supported. Other fields
 * that the server does not know change nothing that it promises, and are passed over.
 * @module
 */
import { ApiError } from "./api_error.ts";

/** The body of a request. */
type Body = Readonly<Record<string, unknown>>;

/** Whether a value of the field asks for nothing. */
type Harmless = (value: unknown, body: Body) => boolean;

const never: Harmless = () => false;
const off: Harmless = (value) => value === false;
const empty: Harmless = (value) => Array.isArray(value) && value.length === 0;
const among = (...values: unknown[]): Harmless => (value) => values.includes(value);

/** Tools. */
const TOOLS: Record<string, Harmless> = {
  tools: (value, body) => empty(value, body) || body.tool_choice === "none",
  tool_choice: among("none", "auto"),
  functions: (value, body) => empty(value, body) || body.function_call === "none",
  function_call: among("none", "auto"),
};

/** Of both endpoints that OpenAI has for prompts. */
const PROMPT_FIELDS: Record<string, Harmless> = {
  ...TOOLS,
  guided_whitespace_pattern: never,
  best_of: (value, { n }) => value === 1 || value === (n ?? 1),
  use_beam_search: off,
  length_penalty: among(1),
  bad_words: empty,
  prompt_embeds: never,
  prompt_logprobs: never,
  truncate_prompt_tokens: never,
  add_special_tokens: among(true),
  chat_template: never,
  chat_template_kwargs: (value) => typeof value === "object" && Object.keys(value!).length === 0,
  documents: empty,
  modalities: (value) => Array.isArray(value) && value.every((kind) => kind === "text"),
  audio: never,
  web_search_options: never,
};

/** What to do instead. */
const INSTEAD: Record<string, string> = {
  best_of: "there is no choosing among more texts than are returned; use n",
  use_beam_search: "there is no beam search; use n",
  tools: 'no tools are called here; leave it out, or set tool_choice to "none"',
  prompt_logprobs: "use /v1/completions with echo and logprobs",
  truncate_prompt_tokens: "prompts are never cut; shorten it",
};

const { tools: _tools, tool_choice: _choice, ...beside } = PROMPT_FIELDS;
/** Fields of /v1/chat/completions. */
export const CHAT_FIELDS: Record<string, Harmless> = { ...beside, suffix: among("") };

/** Fields of /v1/completions. */
export const COMPLETION_FIELDS: Record<string, Harmless> = {
  ...PROMPT_FIELDS,
  add_generation_prompt: among(true),
  continue_final_message: off,
};

/** Fields of /v1/responses. */
export const RESPONSES_FIELDS: Record<string, Harmless> = {
  ...TOOLS,
  previous_response_id: never,
  conversation: never,
  prompt: never,
  background: off,
  include: empty,
  truncation: among("disabled"),
  max_tool_calls: never,
  top_logprobs: among(0),
};

/**
 * Refuses a request that asks for what is not supported.
 *
 * @param body The request.
 * @param fields What its endpoint does not support.
 * @throws {ApiError} 400; `param` names the field.
 */
export function refuseUnsupported(body: Body, fields: Record<string, Harmless>): void {
  for (const [param, harmless] of Object.entries(fields)) {
    const value = body[param];
    if (value === undefined || harmless(value, body)) continue;
    const reason = INSTEAD[param] ?? "it is not supported";
    throw new ApiError(400, `Cannot use ${param}: ${reason}.`, { param, code: "unsupported" });
  }
}
