// deno-lint-ignore-file no-explicit-any
/**
 * Tools in /v1/chat/completions and in `llm.chat`: a scripted model answers in tokens, what comes of them is
 * OpenAI's.
 */
import { strict as assert } from "node:assert";
import { Ajv2020 } from "npm:ajv@8.17.1/dist/2020.js";
import { createServer } from "../../src/server/mod.ts";
import type { FunctionTool } from "../../mod.ts";
import { ask, errorOf, model, serverOf, stream } from "./serving.ts";
import { toolTemplate, withToolTokens } from "../text/tool_tokens.ts";
import { scriptedModel } from "./scripted_model.ts";
import { callOf, CALLS, CALLS_END, toolModel } from "./tool_model.ts";

const path = "/v1/chat/completions";
const messages = [{ role: "user", content: "What's the weather like in Tokyo and Paris?" }];
const tools: FunctionTool[] = [{
  type: "function",
  function: { name: "get_weather", parameters: { type: "object", properties: {} } },
}];
const places = ['{"location": "Tokyo"}', '{"location": "Paris"}'];
const twoCalls = CALLS + places.map((json) => callOf("get_weather", json)).join("\n") + CALLS_END;

const serverThatSays = (answer: string) => createServer(toolModel(() => answer).llm);

/** Puts a stream's deltas together as clients do. */
async function streamed(server: ReturnType<typeof createServer>, body: object) {
  const events = await stream(server, path, { messages, tools, ...body });
  assert.equal(events.pop()!.data, "[DONE]");
  const message: any = { content: "", tool_calls: [] };
  let [reason, first] = [null, true];
  for (const { data } of events) {
    const [{ delta, finish_reason }] = data.choices;
    assert.equal(reason, null, "a choice goes on after its end");
    if (first) assert.deepEqual(delta, { role: "assistant", content: "" });
    first = false;
    message.content += delta.content ?? "";
    for (
      const { index, id, type, function: { name, arguments: piece } } of delta.tool_calls ?? []
    ) {
      const call = message.tool_calls[index];
      if (call === undefined) {
        assert.equal(index, message.tool_calls.length);
        assert.deepEqual([type, piece, typeof id, typeof name], [
          "function",
          "",
          "string",
          "string",
        ]);
        message.tool_calls.push({ id, type, function: { name, arguments: "" } });
      } else {
        assert.deepEqual([id, type, name], [undefined, undefined, undefined]);
        assert(piece.length > 0);
        call.function.arguments += piece;
      }
    }
    reason = finish_reason;
  }
  return { message, reason };
}

const withoutIds = (calls: any[] | undefined) =>
  calls?.map(({ id, ...call }) => {
    assert.match(id, /^call_[0-9a-f]{32}$/);
    return call;
  });
const called = (json: string, name = "get_weather") => ({
  type: "function",
  function: { name, arguments: json },
});

Deno.test("calls are OpenAI's, whole and streamed, and the reason is tool_calls", async () => {
  const server = serverThatSays(twoCalls);
  const { choices: [choice] } = await ask(server, path, { messages, tools });
  const { tool_calls, ...message } = choice.message;
  assert.deepEqual(message, { role: "assistant", content: null, refusal: null });
  assert.deepEqual(withoutIds(tool_calls), places.map((json) => called(json)));
  assert.deepEqual([choice.finish_reason, choice.stop_reason], ["tool_calls", null]);
  const { message: grown, reason } = await streamed(server, {});
  assert.deepEqual([grown.content, reason], ["", "tool_calls"]);
  assert.deepEqual(withoutIds(grown.tool_calls), places.map((json) => called(json)));
});

Deno.test("a text before calls is content; n choices have calls of their own; logprobs cover all tokens", async () => {
  const server = serverThatSays(`I look.${twoCalls}`);
  const body = { messages, tools, n: 2, logprobs: true };
  const answer = await ask(server, path, body);
  for (const { message, finish_reason } of answer.choices) {
    assert.deepEqual([message.content, finish_reason], ["I look.", "tool_calls"]);
    assert.deepEqual(withoutIds(message.tool_calls), places.map((json) => called(json)));
  }
  const [one, two] = answer.choices.map(({ message }: any) => message.tool_calls[0].id);
  assert.notEqual(one, two);
  const { length } = answer.choices[0].logprobs.content;
  assert.equal(2 * length, answer.usage.completion_tokens);
  const { message } = await streamed(server, {});
  assert.equal(message.content, "I look.");
});

Deno.test("parallel_tool_calls: false ends with the first call", async () => {
  const server = serverThatSays(twoCalls);
  const body = { parallel_tool_calls: false };
  const { choices: [choice] } = await ask(server, path, { messages, tools, ...body });
  assert.deepEqual(withoutIds(choice.message.tool_calls), [called(places[0]!)]);
  assert.deepEqual([choice.finish_reason, choice.stop_reason], ["tool_calls", null]);
  const { message, reason } = await streamed(server, body);
  assert.deepEqual(withoutIds(message.tool_calls), [called(places[0]!)]);
  assert.equal(reason, "tool_calls");
});

Deno.test("a call that is cut off has its arguments so far and the reason length; stop strings are kept to", async () => {
  const server = serverThatSays(twoCalls);
  const whole = await ask(server, path, { messages, tools });
  const { choices: [cut] } = await ask(server, path, { messages, tools, max_tokens: 14 });
  const [{ function: { name, arguments: begun } }] = cut.message.tool_calls;
  assert.deepEqual([name, cut.finish_reason], ["get_weather", "length"]);
  assert(places[0]!.startsWith(begun) && begun.length < places[0]!.length, begun);
  assert(whole.usage.completion_tokens > 14);
  const stopped = await ask(server, path, { messages, tools, stop: "Tokyo" });
  assert.deepEqual(
    [stopped.choices[0].finish_reason, stopped.choices[0].stop_reason],
    ["stop", "Tokyo"],
  );
});

Deno.test("a function that there is not, and arguments that are no JSON, are given as the model wrote them", async () => {
  const server = serverThatSays(CALLS + callOf("get_moon", "{oops") + CALLS_END);
  const { choices: [choice] } = await ask(server, path, { messages, tools });
  assert.deepEqual(withoutIds(choice.message.tool_calls), [called("{oops", "get_moon")]);
  const { message } = await streamed(server, {});
  assert.deepEqual(withoutIds(message.tool_calls), [called("{oops", "get_moon")]);
});

Deno.test("without tools, or with tool_choice none, nothing is parsed and nothing is said of tools", async () => {
  const prompts: string[] = [];
  const { llm } = toolModel((prompt) => {
    prompts.push(prompt);
    return "No.";
  });
  const server = createServer(llm);
  for (const fields of [{}, { tools, tool_choice: "none" }, { tools: [] }]) {
    const { choices: [choice] } = await ask(server, path, { messages, ...fields });
    assert.deepEqual(choice.message, { role: "assistant", content: "No.", refusal: null });
    assert.equal(choice.finish_reason, "stop");
  }
  assert(prompts.every((prompt) => !prompt.includes("Tools")));
  const said = await ask(server, path, { messages, tools, tool_choice: "auto" });
  assert.deepEqual(said.choices[0].message, {
    ...{ role: "assistant", content: "No.", refusal: null },
  });
  assert.match(prompts.at(-1)!, /## Tools\n\n### Function\n\n.*\n\n- `get_weather`:\n```json\n/);
});

Deno.test("a call that must be made is begun in the prompt, and is the answer's", async () => {
  // It would say something else, but goes on with what is begun.
  const answered = (prompt: string) =>
    prompt.endsWith("<｜Assistant｜>") ? twoCalls : "It is never asked.";
  const server = createServer(toolModel(answered).llm);
  const free = await ask(server, path, { messages, tools });
  const get_weather = { type: "function", function: { name: "get_weather" } };
  for (
    const [tool_choice, calls] of [
      ["required", places],
      [get_weather, places.slice(0, 1)],
    ] as const
  ) {
    const answer = await ask(server, path, { messages, tools, tool_choice });
    const { choices: [{ message, finish_reason }], usage } = answer;
    assert.deepEqual(withoutIds(message.tool_calls), calls.map((json) => called(json)));
    assert.deepEqual([message.content, finish_reason], [null, "tool_calls"]);
    assert(usage.prompt_tokens > free.usage.prompt_tokens);
    const grown = await streamed(server, { tool_choice });
    assert.deepEqual(withoutIds(grown.message.tool_calls), calls.map((json) => called(json)));
    assert.equal(grown.reason, "tool_calls");
  }
});

/** Strict functions that any text under them ends soon. */
const strictTools = [
  {
    name: "get_weather",
    parameters: {
      type: "object",
      properties: {
        location: { enum: ["Tokyo", "Paris"] },
        days: { type: "integer", maximum: 9, minimum: 1 },
      },
      required: ["location", "days"],
      additionalProperties: false,
    },
  },
  { name: "get_weather.now", parameters: undefined },
].map((called) => ({ type: "function", function: { ...called, strict: true } }));

/** Whether a call keeps to its function, by another's judgement. */
function checkStrictCall({ function: { name, arguments: json } }: ReturnType<typeof called>) {
  const tool = strictTools.find((tool) => tool.function.name === name);
  assert(tool, `no function is named ${name}`);
  const schema = tool.function.parameters ?? { type: "object", maxProperties: 0 };
  assert(new Ajv2020().validate(schema, JSON.parse(json)), `${name}: ${json}`);
}

Deno.test("strict functions hold a call to its name and schema, whatever the model wants", async () => {
  const wild = scriptedModel({
    ...{ tokenizerJson: withToolTokens, chatTemplate: toolTemplate },
    next: (tokenIds) => (tokenIds.length * 7919 + tokenIds.at(-1)! * 31) % 4096,
  });
  const server = createServer(wild.llm);
  const named = { type: "function", function: { name: "get_weather.now" } };
  const names = new Set<string>();
  for (const tool_choice of ["required", named]) {
    for (let seed = 0; seed < 8; seed++) {
      const sampled = { temperature: 1, seed, max_tokens: 400, parallel_tool_calls: false };
      const fields = { messages, tools: strictTools, tool_choice, ...sampled };
      const { choices: [{ message, finish_reason }] } = await ask(server, path, fields);
      assert.deepEqual([message.tool_calls?.length, finish_reason], [1, "tool_calls"]);
      checkStrictCall(message.tool_calls[0]);
      names.add(message.tool_calls[0].function.name);
    }
  }
  assert.equal(names.size, 2);
  // A call that the model begins by itself, with a function that there is not.
  const wrong = CALLS + callOf("get_moon", '{"phase": 5}') + CALLS_END;
  const { choices: [{ message }] } = await ask(serverThatSays(wrong), path, {
    ...{ messages, tools: strictTools, max_tokens: 400 },
  });
  assert.equal(message.tool_calls.length, 1);
  checkStrictCall(message.tool_calls[0]);
});

Deno.test("strict functions change nothing of calls that keep to them", async () => {
  const parameters = { type: "object", properties: { location: { type: "string" } } };
  const strict = [{
    type: "function",
    function: { name: "get_weather", parameters, strict: true },
  }];
  const lax = [...strict, { type: "function", function: { name: "other" } }];
  for (
    const fields of [{ tools: strict }, { tools: lax }, { tools: strict, tool_choice: "required" }]
  ) {
    const server = createServer(
      toolModel((prompt) => prompt.endsWith("<｜Assistant｜>") ? twoCalls : "").llm,
    );
    const { choices: [{ message }] } = await ask(server, path, { messages, ...fields });
    assert.deepEqual(withoutIds(message.tool_calls), places.map((json) => called(json)));
  }
});

Deno.test("a result comes back as a message with role tool", async () => {
  const prompts: string[] = [];
  const { llm } = toolModel((prompt) => {
    prompts.push(prompt);
    return prompt.includes("10 degrees") ? "It is cold." : twoCalls;
  });
  const server = createServer(llm);
  const { choices: [{ message }] } = await ask(server, path, { messages, tools });
  const dialogue = [
    ...messages,
    message,
    ...message.tool_calls.map(({ id }: { id: string }) => ({
      ...{ role: "tool", tool_call_id: id, content: [{ type: "text", text: "10 degrees" }] },
    })),
  ];
  const answer = await ask(server, path, { messages: dialogue, tools });
  assert.equal(answer.choices[0].message.content, "It is cold.");
  assert(prompts.at(-1)!.includes(
    twoCalls + llm.tokenizer.eosToken +
      "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>10 degrees" +
      "<｜tool▁output▁end｜>\n<｜tool▁output▁begin｜>10 degrees<｜tool▁output▁end｜><｜tool▁outputs▁end｜>",
  ));
});

Deno.test("llm.chat and llm.stream give typed calls", async () => {
  const { llm } = toolModel(() => `Well.${twoCalls}`);
  const [result] = await llm.chat(messages, { maxTokens: 200 }, { tools });
  const { text, toolCalls, finishReason } = result!.outputs[0]!;
  assert.deepEqual([text, finishReason], ["Well.", "tool_calls"]);
  assert.deepEqual(withoutIds(toolCalls), places.map((json) => called(json)));
  const [one] = await llm.chat([messages], { maxTokens: 200 }, { tools, parallelToolCalls: false });
  assert.equal(one!.outputs[0]!.toolCalls!.length, 1);
  const names: string[] = [];
  let json = "";
  for await (const event of llm.stream({ messages, tools }, { maxTokens: 200 })) {
    for (const { name, arguments: piece } of event.toolCalls ?? []) {
      if (name !== undefined) names.push(name);
      json += piece;
    }
  }
  assert.deepEqual([names, json], [["get_weather", "get_weather"], places.join("")]);
  await assert.rejects(llm.chat(messages, {}, { tools: [{} as FunctionTool] }), {
    field: "tools[0]",
  });
  const wrong = [["messages", "Hi"], ["messages[0]", [null]], ["messages[0].content", [
    { role: "system", content: 5 },
  ]]] as const;
  for (const [field, messages] of wrong) {
    const prompt = { messages: messages as unknown as [], tools };
    await assert.rejects(llm.generate(prompt), { name: "InvalidArgumentError", field });
  }
});

Deno.test("what can not be held to, and tools of a model that knows none, are 400 by name", async () => {
  const server = createServer(toolModel(() => "").llm);
  const strict = (parameters: object) => [{
    type: "function",
    function: { name: "f", strict: true, parameters },
  }];
  const cases: [string, object][] = [
    ["tool_choice", { tool_choice: "required" }],
    ["tool_choice", { tools, tool_choice: "any" }],
    ["tool_choice", { tools, tool_choice: { type: "function", function: { name: "get_moon" } } }],
    ["tools[0].function.strict", {
      tools: [{ type: "function", function: { name: "f", strict: 1 } }],
    }],
    ["tools[0].function.parameters", { tools: strict({ enum: Array(9000).fill(1) }) }],
    ["tools", { tools: strict({ type: "object", not: {} }) }],
    ["tools[0].type", { tools: [{ type: "web_search" }] }],
    ["tools[0].function.name", { tools: [{ type: "function", function: { name: "a b" } }] }],
    ["tools[1].function.name", { tools: [...tools, ...tools] }],
    ["tools", { tools: Array(129).fill(tools[0]) }],
    ["messages[0].tool_calls[0].id", {
      messages: [{ role: "assistant", content: "", tool_calls: [{}] }],
    }],
    ["functions", { functions: [{ name: "f" }] }],
  ];
  for (const [param, fields] of cases) {
    const refusal = errorOf(await ask(server, path, { messages, ...fields }));
    assert.deepEqual([refusal.status, refusal.param], [400, param], JSON.stringify(fields));
  }
  const embedded = await serverOf();
  const calls = [{ id: "c", ...called("{}") }];
  for (
    const [param, fields] of [
      ["tools", { tools }],
      ["messages[0].role", { messages: [{ role: "tool", content: "42", tool_call_id: "c" }] }],
      ["messages[0].tool_calls", {
        messages: [{ role: "assistant", content: null, tool_calls: calls }],
      }],
    ] as const
  ) {
    const refusal = errorOf(await ask(embedded, path, { messages, ...fields }));
    assert.deepEqual([refusal.status, refusal.param], [400, param]);
    assert.match(refusal.message, /knows no tools/);
  }
  await assert.rejects((await model()).chat(messages, {}, { tools }), { field: "tools" });
});
