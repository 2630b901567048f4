/**
 * Every dialogue of the shared goldens: rendered by transformers (Python's Jinja), ids by tokenizers.
 */
import { strict as assert } from "node:assert";
import { hasShared, needsShared, readShared } from "../shared.ts";
import { openTokenizer, type TokenizerName } from "./real_tokenizers.ts";
import type { ChatMessage } from "../../src/text/chat_message.ts";
import { ChatTemplate } from "../../src/text/chat_template.ts";

interface ChatGolden {
  templates: Record<string, { template: string }>;
  bos_token: string;
  eos_token: string;
  cases: {
    template: string;
    messages: ChatMessage[];
    add_generation_prompt: boolean;
    text: string;
    ids: Partial<Record<TokenizerName, number[]>>;
  }[];
}

const golden: ChatGolden | undefined = hasShared
  ? JSON.parse(readShared("chat-templates/chat-golden.json"))
  : undefined;

Deno.test(needsShared("every golden dialogue renders byte for byte"), () => {
  assert.equal(golden!.cases.length, 60);
  const templates = new Map(
    Object.entries(golden!.templates).map((
      [name, { template }],
    ) => [name, new ChatTemplate(template)]),
  );
  for (const { template, messages, add_generation_prompt, text } of golden!.cases) {
    const rendered = templates.get(template)!.render(messages, {
      bosToken: golden!.bos_token,
      eosToken: golden!.eos_token,
      addGenerationPrompt: add_generation_prompt,
    });
    assert.equal(rendered, text);
  }
});

for (const name of ["deepseek-llm", "reference-model", "deepseek-v3"] as const) {
  Deno.test(
    needsShared(`${name}: applyChatTemplate() gives the golden ids, BOS once`),
    async () => {
      const tokenizer = await openTokenizer(name);
      const cases = golden!.cases.filter((line) => line.ids[name] !== undefined);
      assert.equal(cases.length, 30);
      for (const { template, messages, add_generation_prompt, text, ids } of cases) {
        const options = {
          addGenerationPrompt: add_generation_prompt,
          chatTemplate: golden!.templates[template]!.template,
        };
        const forged = messages.some(({ content }) => String(content).includes("<｜"));
        // transformers takes what a user wrote for special tokens; forged_tokens_test.ts says what we do.
        if (forged) assert.notDeepEqual(tokenizer.applyChatTemplate(messages, options), ids[name]);
        else assert.deepEqual(tokenizer.applyChatTemplate(messages, options), ids[name]);
        assert.equal(tokenizer.applyChatTemplate(messages, { ...options, tokenize: false }), text);
        // The text passed back as text: its BOS is not doubled.
        assert.deepEqual(tokenizer.encode(text), ids[name]);
      }
    },
  );
}

Deno.test(needsShared("the reference model's own template is the golden one"), async () => {
  const tokenizer = await openTokenizer("reference-model");
  const cases = golden!.cases.filter((line) => line.ids["reference-model"] !== undefined);
  for (const { messages, add_generation_prompt, ids } of cases) {
    if (messages.some(({ content }) => String(content).includes("<｜"))) continue; // see above
    const options = { addGenerationPrompt: add_generation_prompt };
    assert.deepEqual(tokenizer.applyChatTemplate(messages, options), ids["reference-model"]);
  }
});
