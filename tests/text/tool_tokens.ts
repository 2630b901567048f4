/**
 * Tool calls as DeepSeek-V2.5 has them: its tokens added to the embedded model's tokenizer, and a template of its
 * kind.
 * @module
 */
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { addedToken } from "./tiny_tokenizer.ts";

/** The tokens, in the order of their ids from 4096. */
export const toolTokens: readonly string[] = ["calls", "call", "outputs", "output"]
  .flatMap((what) => [`<｜tool▁${what}▁begin｜>`, `<｜tool▁${what}▁end｜>`]).concat(
    "<｜tool▁sep｜>",
  );

/** Adds the tokens. @param json The embedded model's tokenizer.json. @returns The file's new text. */
export function withToolTokens(json: string): string {
  const file = JSON.parse(json);
  file.added_tokens.push(...toolTokens.map((token, i) => addedToken(4096 + i, token)));
  return JSON.stringify(file);
}

/**
 * A template that writes calls and results, but neither the functions nor a text beside calls, as V2.5's; with
 * `{tools}` replaced by what writes the functions.
 */
const TEMPLATE = `{{ bos_token }}{tools}
{%- for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}
{%- set ns = namespace(answered=false) %}
{%- for m in messages %}
  {%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
  {%- elif m.role == 'assistant' and m.content is none %}
    {{- '<｜Assistant｜><｜tool▁calls▁begin｜>' }}
    {%- for call in m.tool_calls %}
      {{- '' if loop.first else '\\n' }}
      {{- '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.function.name + '\\n\`\`\`json\\n' }}
      {{- call.function.arguments + '\\n\`\`\`<｜tool▁call▁end｜>' }}
    {%- endfor %}
    {{- '<｜tool▁calls▁end｜>' + eos_token }}
  {%- elif m.role == 'assistant' %}
    {{- ('' if ns.answered else '<｜Assistant｜>') + m.content + eos_token }}
  {%- elif m.role == 'tool' %}
    {{- '\\n' if ns.answered else '<｜tool▁outputs▁begin｜>' }}
    {{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
    {{- '<｜tool▁outputs▁end｜>' if loop.last or messages[loop.index].role != 'tool' }}
  {%- endif %}
  {%- set ns.answered = m.role == 'tool' %}
{%- endfor %}
{{- '<｜Assistant｜>' if add_generation_prompt and not ns.answered }}`;

/** A template of V2.5's kind: the functions belong into the system message. */
export const toolTemplate: string = TEMPLATE.replace("{tools}", "");
/** The same for a model whose template writes the functions. */
export const toolWritingTemplate: string = TEMPLATE.replace(
  "{tools}",
  "{% for tool in tools or [] %}{{ tool.function | tojson }}{% endfor %}",
);

/** A tokenizer with the tokens and a template. */
export function toolTokenizer(template: string): Tokenizer {
  const read = (name: string) =>
    Deno.readTextFileSync(new URL(`../../models/reference/${name}`, import.meta.url));
  return Tokenizer.fromJson(withToolTokens(read("tokenizer.json")), {
    ...JSON.parse(read("tokenizer_config.json")),
    chat_template: template,
  });
}
