/**
 * /v1/chat/completions and /v1/responses on the embedded model.
 */
import { strict as assert } from "node:assert";
import { ask, errorOf, model, serverOf, stream } from "./serving.ts";

const messages = [{ role: "user", content: "Who are you?" }];
const path = "/v1/chat/completions";

Deno.test("a conversation is answered as llm.chat does", async () => {
  const llm = await model();
  const server = await serverOf();
  const [want] = await llm.chat(messages, { temperature: 0, maxTokens: 200 });
  const { text, tokenIds, finishReason } = want!.outputs[0]!;
  assert.equal(finishReason, "stop");
  const body = { messages, temperature: 0 }; // without max_tokens: to the end of the context
  const answer = await ask(server, path, body);
  assert.equal(answer.object, "chat.completion");
  assert.match(answer.id, /^chatcmpl-[0-9a-f]{32}$/);
  const [choice] = answer.choices;
  assert.deepEqual(choice.message, { role: "assistant", content: text, refusal: null });
  assert.deepEqual([choice.index, choice.finish_reason, choice.logprobs], [0, "stop", null]);
  const prompt = want!.promptTokenIds.length;
  assert.deepEqual(answer.usage, {
    prompt_tokens: prompt,
    completion_tokens: tokenIds.length,
    total_tokens: prompt + tokenIds.length,
    prompt_tokens_details: { cached_tokens: answer.usage.prompt_cache_hit_tokens },
    prompt_cache_hit_tokens: answer.usage.prompt_cache_hit_tokens,
    prompt_cache_miss_tokens: prompt - answer.usage.prompt_cache_hit_tokens,
  });
  const parts = [{
    role: "user",
    content: [{ type: "text", text: "Who are" }, { type: "text", text: " you?" }],
  }];
  assert.equal(
    (await ask(server, path, { ...body, messages: parts })).choices[0].message.content,
    text,
  );
  const developer = [{ role: "developer", content: "Be kind." }, ...messages];
  const system = [{ role: "system", content: "Be kind." }, ...messages];
  const [one, two] = await Promise.all(
    [developer, system].map((messages) => ask(server, path, { ...body, messages })),
  );
  assert.deepEqual(one.choices, two.choices);
});

Deno.test("a stream begins with the role, and ends each choice once with a chunk that has the reason", async () => {
  const server = await serverOf();
  const body = { messages, n: 2, seed: 3, temperature: 1, max_tokens: 12 };
  const whole = await ask(server, path, body);
  const events = await stream(server, path, { ...body, stream_options: { include_usage: true } });
  assert.equal(events.pop()!.data, "[DONE]");
  const { choices, usage } = events.pop()!.data;
  assert.deepEqual([choices, usage], [[], whole.usage]);
  const contents: string[] = [];
  const ends = new Map<number, string>();
  const id = events[0]!.data.id;
  for (const { event, data } of events) {
    assert.equal(event, undefined);
    assert.deepEqual([data.id, data.object, data.usage], [id, "chat.completion.chunk", null]);
    assert.equal(data.choices.length, 1);
    const [{ index, delta, finish_reason }] = data.choices;
    assert(!ends.has(index), "a choice goes on after its end");
    if (contents[index] === undefined) {
      assert.deepEqual([delta, finish_reason], [{ role: "assistant", content: "" }, null]);
      contents[index] = "";
    } else if (finish_reason === null) {
      assert.deepEqual(Object.keys(delta), ["content"]);
      assert(delta.content.length > 0);
      contents[index] += delta.content;
    } else {
      assert.deepEqual(delta, {});
      ends.set(index, finish_reason);
    }
  }
  for (const { index, message, finish_reason } of whole.choices) {
    assert.deepEqual([contents[index], ends.get(index)], [message.content, finish_reason]);
  }
  const plain = await stream(server, path, body);
  assert(plain.every(({ data }) => data === "[DONE]" || !("usage" in data)));
});

Deno.test("a stop string ends the text before it and is reported, streamed or not", async () => {
  const server = await serverOf();
  const body = { messages, temperature: 0, stop: ["language"] };
  const { choices: [choice] } = await ask(server, path, body);
  assert(!choice.message.content.includes("language"));
  assert.deepEqual([choice.finish_reason, choice.stop_reason], ["stop", "language"]);
  const events = await stream(server, path, body);
  const text = events.map(({ data }) => data.choices?.[0].delta.content ?? "").join("");
  assert.equal(text, choice.message.content);
});

Deno.test("logprobs are those of llm.chat, with bytes", async () => {
  const llm = await model();
  const server = await serverOf();
  const body = { messages, temperature: 0, max_tokens: 3, logprobs: true, top_logprobs: 2 };
  const [want] = await llm.chat(messages, { temperature: 0, maxTokens: 3, logprobs: 2 });
  const { content } = (await ask(server, path, body)).choices[0].logprobs;
  assert.equal(content.length, 3);
  for (const [i, { token, logprob, top }] of want!.outputs[0]!.logprobs!.entries()) {
    assert.deepEqual([content[i].token, content[i].logprob], [token, logprob]);
    assert.deepEqual(content[i].bytes, [...new TextEncoder().encode(token)]);
    const tops = content[i].top_logprobs.map((
      top: { token: string; logprob: number },
    ) => [top.token, top.logprob]);
    assert.deepEqual(tops, top.map(({ token, logprob }) => [token, logprob]));
  }
  const events = await stream(server, path, body);
  const streamed = events.flatMap(({ data }) => data.choices?.[0].logprobs?.content ?? []);
  assert.deepEqual(streamed, content);
});

Deno.test("an answer goes on with the last message, in vLLM's words and in DeepSeek's", async () => {
  const server = await serverOf();
  const body = { temperature: 0, max_tokens: 8 };
  const begun = [...messages, { role: "assistant", content: "I am" }];
  const prefixed = [...messages, { role: "assistant", content: "I am", prefix: true }];
  // The reference model's template is this text; nothing is said of the last message's end.
  const question = "User: Who are you?\n\n";
  const cases: [string, object][] = [
    [`${question}Assistant: I am`, { messages: begun, continue_final_message: true }],
    [`${question}Assistant: I am`, {
      ...{ messages: begun, continue_final_message: true, add_generation_prompt: false },
    }],
    [`${question}Assistant: I am`, { messages: prefixed }],
    [question, { messages, add_generation_prompt: false }],
    [`${question}Assistant:`, { messages, add_generation_prompt: true }],
  ];
  for (const [prompt, fields] of cases) {
    const want = await ask(server, "/v1/completions", { ...body, prompt });
    const answer = await ask(server, path, { ...body, ...fields });
    assert.equal(answer.choices[0].message.content, want.choices[0].text);
    assert.equal(answer.usage.prompt_tokens, want.usage.prompt_tokens);
  }
});

Deno.test("what is not supported and would change the answer is 400 and names the field", async () => {
  const server = await serverOf();
  const tools = [{ type: "function", function: { name: "f", parameters: {} } }];
  const call = { id: "c", type: "function", function: { name: "f", arguments: "{}" } };
  const cases: [string, object][] = [
    ["messages", { messages: [] }],
    ["messages", { messages: "Hi" }],
    ["messages[0].role", { messages: [{ content: "Hi" }] }],
    ["messages[0].role", { messages: [{ role: "tool", content: "42", tool_call_id: "c" }] }],
    ["messages[0].content", { messages: [{ role: "user" }] }],
    ["messages[0].content[0]", { messages: [{ role: "user", content: [{ type: "image_url" }] }] }],
    ["messages[0].prefix", {
      messages: [{ role: "assistant", content: "I", prefix: true }, ...messages],
    }],
    ["messages[0].tool_calls", {
      messages: [{ role: "assistant", content: "", tool_calls: [call] }],
    }],
    ["response_format", { response_format: { type: "json_schema", json_schema: {} } }],
    ["tools", { tools }],
    ["tools", { tools, tool_choice: "auto" }],
    ["tool_choice", { tool_choice: "required" }],
    ["functions", { functions: [{}] }],
    ["suffix", { suffix: "end" }],
    ["modalities", { modalities: ["text", "audio"] }],
    ["web_search_options", { web_search_options: {} }],
    ["continue_final_message", { continue_final_message: true, add_generation_prompt: true }],
    ["messages[0].prefix", { messages: [{ role: "user", content: "I", prefix: true }] }],
    ["messages[0].prefix", { messages: [{ role: "assistant", content: "I", prefix: 1 }] }],
    ["top_logprobs", { top_logprobs: 2 }],
    ["top_logprobs", { logprobs: true, top_logprobs: 21 }],
    ["max_tokens", { max_tokens: 0 }],
    ["n", { n: 1000 }],
  ];
  for (const [param, fields] of cases) {
    const refusal = errorOf(await ask(server, path, { messages, ...fields }));
    assert.deepEqual([refusal.status, refusal.param], [400, param], JSON.stringify(fields));
  }
});

Deno.test("what clients send by habit is passed over", async () => {
  const server = await serverOf();
  const answer = await ask(server, path, {
    messages: messages.map((message) => ({ ...message, name: "ann" })),
    ...{
      max_completion_tokens: 2,
      tools: [],
      tool_choice: "auto",
      response_format: { type: "text" },
    },
    ...{ parallel_tool_calls: true, reasoning_effort: "low", store: false, user: "u", seed: 1 },
    ...{ functions: null, modalities: ["text"], prediction: null, stream_options: null },
  });
  assert.equal(answer.http, 200);
  assert.equal(answer.usage.completion_tokens, 2);
  const tools = [{ type: "function", function: { name: "f" } }];
  assert.equal(
    (await ask(server, path, { messages, max_tokens: 1, tools, tool_choice: "none" })).http,
    200,
  );
});

Deno.test("a conversation longer than the context is refused with the counts", async () => {
  const content = "word ".repeat(3000);
  const refusal = errorOf(
    await ask(await serverOf(), path, { messages: [{ role: "user", content }] }),
  );
  assert.deepEqual([refusal.status, refusal.code], [400, "context_length_exceeded"]);
  assert.match(refusal.message, /it has \d{4} tokens, the context is 2048/);
});

Deno.test("responses answer texts and conversations and keep nothing", async () => {
  const server = await serverOf();
  const chat = await ask(server, path, { messages, temperature: 0, max_tokens: 6 });
  const body = { temperature: 0, max_output_tokens: 6 };
  const inputs = ["Who are you?", messages, [
    { type: "message", role: "user", content: [{ type: "input_text", text: "Who are you?" }] },
  ]];
  for (const input of inputs) {
    const answer = await ask(server, "/v1/responses", { ...body, input });
    assert.deepEqual([answer.object, answer.status, answer.store], [
      "response",
      "incomplete",
      false,
    ]);
    assert.deepEqual(answer.incomplete_details, { reason: "max_output_tokens" });
    const [item] = answer.output;
    assert.deepEqual([item.type, item.role], ["message", "assistant"]);
    assert.equal(item.content[0].text, chat.choices[0].message.content);
    assert.equal(answer.usage.output_tokens, 6);
  }
  const system = await ask(server, path, {
    ...{ messages: [{ role: "system", content: "Be kind." }, ...messages] },
    ...{ temperature: 0, max_tokens: 6 },
  });
  const instructed = await ask(server, "/v1/responses", {
    ...{ ...body, input: "Who are you?", instructions: "Be kind." },
  });
  assert.equal(instructed.output[0].content[0].text, system.choices[0].message.content);
  for (
    const [param, fields] of [
      ["previous_response_id", { previous_response_id: "r" }],
      ["tools", { tools: [{ type: "web_search" }] }],
      ["text.format", { text: { format: { type: "json_schema" } } }],
      ["truncation", { truncation: "auto" }],
      ["background", { background: true }],
    ] as const
  ) {
    const refusal = errorOf(await ask(server, "/v1/responses", { input: "x", ...fields }));
    assert.deepEqual([refusal.status, refusal.param], [400, param]);
  }
});

Deno.test("a streamed response has OpenAI's events, numbered, and ends as the whole one", async () => {
  const server = await serverOf();
  const body = { input: "Who are you?", temperature: 0 };
  const whole = await ask(server, "/v1/responses", body);
  const events = await stream(server, "/v1/responses", body);
  assert(events.every(({ event, data }, i) => event === data.type && data.sequence_number === i));
  const types = events.map(({ data }) => data.type);
  const deltas = types.filter((type) => type === "response.output_text.delta").length;
  assert.deepEqual(types, [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    ...Array(deltas).fill("response.output_text.delta"),
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
  ]);
  const text = events.map(({ data }) => data.delta ?? "").join("");
  assert.equal(text, whole.output[0].content[0].text);
  const { response } = events.at(-1)!.data;
  assert.deepEqual(response.output[0].content, whole.output[0].content);
  assert.deepEqual(response.usage, whole.usage);
});
