/**
 * /v1/completions and the tokenizer's routes, on the embedded model.
 */
import { strict as assert } from "node:assert";
import type { LLM } from "../../mod.ts";
import { createServer } from "../../src/server/mod.ts";
import { scriptedModel } from "./scripted_model.ts";
import { ask, errorOf, model, serverOf, stream } from "./serving.ts";

const STORY = "Once upon a time there was";

/** Log-probabilities of the rows of logits, by the definition, in float64. */
async function logSoftmax(llm: LLM, ids: number[]): Promise<Float64Array[]> {
  const { logits, shape: [rows, columns] } = await llm.forward(ids);
  return Array.from({ length: rows }, (_, row) => {
    const values = Float64Array.from(logits.subarray(row * columns, (row + 1) * columns));
    const most = values.reduce((a, b) => Math.max(a, b));
    const sum = values.reduce((total, value) => total + Math.exp(value - most), 0);
    return values.map((value) => value - most - Math.log(sum));
  });
}

Deno.test("a text, tokens, and lists of either are continued as llm.generate does", async () => {
  const llm = await model();
  const server = await serverOf();
  const ids = [STORY, "The cat"].map((text) => llm.tokenizer.encode(text));
  const texts = (await llm.generate([STORY, "The cat"], { temperature: 0, maxTokens: 12 }))
    .map(({ outputs }) => outputs[0]!.text);
  const prompts = [STORY, ids[0], [STORY, "The cat"], ids];
  for (const prompt of prompts) {
    const answer = await ask(server, "/v1/completions", { prompt, temperature: 0, max_tokens: 12 });
    const want = prompt === STORY || prompt === ids[0] ? texts.slice(0, 1) : texts;
    assert.deepEqual(answer.choices.map(({ text }: { text: string }) => text), want);
    assert.deepEqual(
      answer.choices.map(({ index }: { index: number }) => index),
      want.map((_, i) => i),
    );
    assert.equal(answer.object, "text_completion");
    assert.match(answer.id, /^cmpl-[0-9a-f]{32}$/);
  }
});

Deno.test("n choices of several prompts are numbered prompt by prompt", async () => {
  const server = await serverOf();
  const body = { prompt: ["a", "b"], n: 3, seed: 7, max_tokens: 4, temperature: 1 };
  const { choices, usage } = await ask(server, "/v1/completions", body);
  assert.deepEqual(choices.map(({ index }: { index: number }) => index), [0, 1, 2, 3, 4, 5]);
  const alone = await ask(server, "/v1/completions", { ...body, prompt: "b" });
  const texts = (list: { text: string }[]) => list.map(({ text }) => text);
  assert.deepEqual(texts(choices).slice(3), texts(alone.choices));
  assert.equal(usage.completion_tokens, choices.length * 4);
});

Deno.test("echo with logprobs gives the prompt's log-probabilities, as lm-evaluation-harness reads them", async () => {
  const llm = await model();
  const server = await serverOf();
  const ids = llm.tokenizer.encode("The cat sat on the mat, é!");
  const { choices: [choice] } = await ask(server, "/v1/completions", {
    ...{ prompt: [ids], max_tokens: 1, temperature: 0, logprobs: 1, echo: true, seed: 1234 },
  });
  const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs;
  assert.equal(tokens.length, ids.length + 1);
  assert.equal(token_logprobs[0], null);
  assert.equal(top_logprobs[0], null);
  const rows = await logSoftmax(llm, ids);
  for (let i = 1; i < ids.length; i++) {
    const row = rows[i - 1]!;
    assert(Math.abs(token_logprobs[i] - row[ids[i]!]!) < 1e-6);
    const top = Math.max(...Object.values(top_logprobs[i]) as number[]);
    assert(Math.abs(top - Math.max(...row)) < 1e-6);
    // The number itself, not one near it: greedy is found by equality.
    assert(Object.values(top_logprobs[i]).includes(token_logprobs[i]));
    assert.equal(top_logprobs[i][tokens[i]], token_logprobs[i]);
    assert.equal(token_logprobs[i] === top, row[ids[i]!] === Math.max(...row));
  }
  const greedy = rows.at(-1)!.indexOf(Math.max(...rows.at(-1)!));
  const last = llm.tokenizer.decode([greedy]);
  assert.equal(tokens.at(-1), last);
  assert.equal(choice.text, llm.tokenizer.decode(ids) + last);
  // Offsets count characters of the text; its special token at the begin has none.
  const text = [...llm.tokenizer.decode(ids, { skipSpecialTokens: true }) + last];
  for (const [i, offset] of text_offset.entries()) {
    if (i === 0 || tokens[i].startsWith("bytes:")) continue;
    const length = [...tokens[i]].length;
    assert.equal(text.slice(offset, offset + length).join(""), tokens[i]);
  }
});

Deno.test("max_tokens 0 with echo scores the prompt and adds nothing", async () => {
  const server = await serverOf();
  const body = { prompt: "The cat", max_tokens: 0, echo: true, logprobs: 0 };
  const { choices: [choice], usage } = await ask(server, "/v1/completions", body);
  assert.equal(choice.text, "The cat");
  assert.equal(choice.finish_reason, "length");
  assert.equal(choice.logprobs.tokens.length, usage.prompt_tokens);
  assert.equal(usage.completion_tokens, 0);
});

Deno.test("a stream of completions ends each choice once, then says what it took", async () => {
  const server = await serverOf();
  const body = { prompt: ["Once", "The"], n: 2, max_tokens: 5, temperature: 0, ignore_eos: true };
  const whole = await ask(server, "/v1/completions", body);
  const events = await stream(server, "/v1/completions", {
    ...body,
    stream_options: { include_usage: true },
  });
  assert.equal(events.pop()!.data, "[DONE]");
  const last = events.pop()!.data;
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage, whole.usage);
  const texts: string[] = [];
  const ends = new Map<number, number>();
  for (const { data: { choices, usage, object } } of events) {
    assert.deepEqual([choices.length, usage, object], [1, null, "text_completion"]);
    const [{ index, text, finish_reason }] = choices;
    assert(!ends.has(index), "a choice goes on after its end");
    texts[index] = (texts[index] ?? "") + text;
    if (finish_reason !== null) ends.set(index, finish_reason);
  }
  assert.deepEqual(texts, whole.choices.map(({ text }: { text: string }) => text));
  assert.deepEqual([...ends.values()], ["length", "length", "length", "length"]);
});

Deno.test("a streamed echo begins with the prompt; with logprobs it is refused", async () => {
  const server = await serverOf();
  const events = await stream(server, "/v1/completions", {
    prompt: "Once",
    echo: true,
    max_tokens: 2,
  });
  assert.equal(events[0]!.data.choices[0].text, "Once");
  const body = { prompt: "Once", echo: true, logprobs: 1, stream: true };
  const refusal = errorOf(await ask(server, "/v1/completions", body));
  assert.deepEqual([refusal.status, refusal.param], [400, "stream"]);
});

Deno.test("a prompt longer than the context is refused with the counts, streamed or not", async () => {
  const llm = await model();
  const server = await serverOf();
  const prompt = Array.from({ length: llm.contextLength + 5 }, () => 7);
  for (const stream of [false, true]) {
    const refusal = errorOf(await ask(server, "/v1/completions", { prompt, stream }));
    assert.deepEqual([refusal.status, refusal.code], [400, "context_length_exceeded"]);
    assert.match(refusal.message, new RegExp(`${prompt.length} tokens.* ${llm.contextLength}`));
  }
});

Deno.test("values out of range, over a limit or not supported are 400 and name the field", async () => {
  const server = await serverOf({ limits: { prompts: 2, promptLogprobs: 10 } });
  const cases: [string, object][] = [
    ["prompt", {}],
    ["prompt", { prompt: [] }],
    ["prompt", { prompt: ["a", 1] }],
    ["prompt", { prompt: [-1] }],
    ["prompt", { prompt: [1.5] }],
    ["prompt", { prompt: [[]] }],
    ["prompt", { prompt: [999999] }],
    ["prompt", { prompt: ["a", "b", "c"] }],
    ["max_tokens", { max_tokens: -1 }],
    ["max_tokens", { max_tokens: "5" }],
    ["temperature", { temperature: -1 }],
    ["top_p", { top_p: 0 }],
    ["n", { n: 0 }],
    ["n", { n: 129 }],
    ["n", { n: 128, prompt: ["a", "b"] }],
    ["logprobs", { logprobs: 21 }],
    ["logprobs", { logprobs: 20, echo: true, prompt: "a b c" }],
    ["stop", { stop: Array(17).fill("x") }],
    ["stop", { stop: [""] }],
    ["logit_bias", { logit_bias: Object.fromEntries(Array(1025).fill(0).map((_, i) => [i, 1])) }],
    ["logit_bias", { logit_bias: { 99999: 1 } }],
    ["logit_bias", { logit_bias: { x: 1 } }],
    ["stop_token_ids", { stop_token_ids: [99999] }],
    ["min_tokens", { min_tokens: 5, max_tokens: 2 }],
    ["best_of", { best_of: 2 }],
    ["best_of", { best_of: 3, n: 2 }],
    ["suffix", { suffix: "end", prompt: [5] }],
    ["suffix", { suffix: "end", echo: true, logprobs: 1 }],
    ["priority", { priority: 0.5 }],
    ["cache_salt", { cache_salt: "" }],
    ["cache_salt", { cache_salt: "x".repeat(1025) }],
    ["continue_final_message", { continue_final_message: true }],
    ["truncate_prompt_tokens", { truncate_prompt_tokens: 5 }],
    ["use_beam_search", { use_beam_search: true }],
    ["stream", { stream: "yes" }],
  ];
  for (const [param, fields] of cases) {
    const body = param === "prompt" && !("prompt" in fields) ? fields : { prompt: "a", ...fields };
    const refusal = errorOf(await ask(server, "/v1/completions", body));
    assert.deepEqual([refusal.status, refusal.param], [400, param], JSON.stringify(fields));
    assert.equal(refusal.type, "invalid_request_error");
    assert(!/[a-z][A-Z]/.test(refusal.message.replace(/"[^"]*"/g, "")), refusal.message);
  }
});

Deno.test("fields that change nothing are passed over, null counts as left out", async () => {
  const server = await serverOf();
  const body = { prompt: "Once", max_tokens: 4, temperature: 0 };
  const { choices } = await ask(server, "/v1/completions", body);
  const answer = await ask(server, "/v1/completions", {
    ...body,
    ...{ user: "u", store: true, metadata: { a: "b" }, service_tier: "auto", unheard_of: [1] },
    ...{ best_of: 1, suffix: null, logit_bias: null, stop: null, n: null, logprobs: null },
    ...{ presence_penalty: 0, frequency_penalty: 0, top_p: 1, response_format: { type: "text" } },
  });
  assert.equal(answer.http, 200);
  assert.deepEqual(answer.choices, choices);
});

Deno.test("a suffix is what follows the gap that is filled in", async () => {
  const { tokenizer } = await model();
  const server = await serverOf();
  const [prefix, suffix] = ["def one():\n    return ", "\n\nprint(one())"];
  const written = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const prompt = [
    tokenizer.bosTokenId,
    tokenizer.idOf("<｜fim▁begin｜>"),
    ...written(prefix),
    tokenizer.idOf("<｜fim▁hole｜>"),
    ...written(suffix),
    tokenizer.idOf("<｜fim▁end｜>"),
  ];
  const body = { temperature: 0, max_tokens: 8 };
  const answer = await ask(server, "/v1/completions", { ...body, prompt: prefix, suffix });
  const wanted = await ask(server, "/v1/completions", { ...body, prompt });
  assert.equal(answer.usage.prompt_tokens, prompt.length);
  assert.deepEqual(answer.choices, wanted.choices);
  const events = await stream(server, "/v1/completions", { ...body, prompt: prefix, suffix });
  const text = events.map(({ data }) => data.choices?.[0].text ?? "").join("");
  assert.equal(text, answer.choices[0].text);
});

Deno.test("a suffix is refused by a model without tokens for a gap", async () => {
  const { llm } = scriptedModel({ tokenizerJson: (json) => json.replaceAll("fim▁", "mif▁") });
  const body = { prompt: "a", suffix: "b" };
  const refusal = errorOf(await ask(createServer(llm), "/v1/completions", body));
  assert.deepEqual([refusal.status, refusal.param, refusal.code], [400, "suffix", "unsupported"]);
});

Deno.test("an unknown model is 404", async () => {
  const refusal = errorOf(
    await ask(await serverOf(), "/v1/completions", { prompt: "a", model: "gpt" }),
  );
  assert.deepEqual([refusal.status, refusal.param, refusal.code], [
    404,
    "model",
    "model_not_found",
  ]);
});

Deno.test("models are listed by every name", async () => {
  const llm = await model();
  const server = await serverOf({ names: ["one", "org/two"] });
  const { object, data } = await ask(server, "/v1/models");
  assert.equal(object, "list");
  assert.deepEqual(data.map(({ id }: { id: string }) => id), ["one", "org/two"]);
  assert.equal(data[0].max_model_len, llm.contextLength);
  for (const path of ["/v1/models/org/two", "/v1/models/org%2Ftwo"]) {
    assert.equal((await ask(server, path)).id, "org/two");
  }
  assert.equal((await ask(server, "/v1/models/three")).http, 404);
});

Deno.test("tokenize, detokenize and tokenizer_info are the model's tokenizer", async () => {
  const { tokenizer, contextLength } = await model();
  const server = await serverOf();
  const prompt = "The cat é";
  const bare = tokenizer.encode(prompt, { addSpecialTokens: false });
  const answer = await ask(server, "/tokenize", { prompt, return_token_strs: true });
  assert.deepEqual(answer.tokens, [tokenizer.bosTokenId, ...bare]);
  assert.deepEqual([answer.count, answer.max_model_len], [bare.length + 1, contextLength]);
  assert.deepEqual(answer.token_strs.slice(1, 3), ["The", "Ġcat"]);
  const plain = await ask(server, "/tokenize", { prompt, add_special_tokens: false });
  assert.deepEqual([plain.tokens, plain.token_strs], [bare, null]);
  const messages = [{ role: "user", content: "Hi" }];
  const chat = await ask(server, "/tokenize", { messages });
  assert.deepEqual(
    chat.tokens,
    tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true }),
  );
  assert.equal((await ask(server, "/detokenize", { tokens: bare })).prompt, prompt);
  const info = await ask(server, "/tokenizer_info");
  assert.deepEqual([info.bos_token, info.eos_token], [tokenizer.bosToken, tokenizer.eosToken]);
  assert.equal(info.chat_template, tokenizer.chatTemplate);
  assert.equal((await ask(server, "/tokenize", { prompt, messages })).http, 400);
  assert.equal((await ask(server, "/tokenize", {})).http, 400);
  assert.equal((await ask(server, "/detokenize", { tokens: [-1] })).http, 400);
});
