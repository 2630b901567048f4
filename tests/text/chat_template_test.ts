import { strict as assert } from "node:assert";
import { InvalidArgumentError, InvalidFileError } from "../../src/errors.ts";
import type { ChatMessage } from "../../src/text/chat_message.ts";
import { ChatTemplate, type ChatTemplateInput } from "../../src/text/chat_template.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { tinyTokenizer } from "./tiny_tokenizer.ts";

const tokens = { bosToken: "<s>", eosToken: "</s>" };
const hi: ChatMessage[] = [{ role: "user", content: "hi" }];

function render(
  source: string,
  messages: readonly ChatMessage[] = hi,
  input: Partial<ChatTemplateInput> = {},
): string {
  return new ChatTemplate(source).render(messages, { ...tokens, ...input });
}

Deno.test("a template sees messages, tokens, the generation flag, tools and variables", () => {
  assert.equal(
    render("{{ bos_token + messages[0].role + messages[0]['content'] + eos_token }}"),
    "<s>userhi</s>",
  );
  assert.equal(render("{{ add_generation_prompt }}"), "false");
  assert.equal(render("{{ add_generation_prompt }}", hi, { addGenerationPrompt: true }), "true");
  assert.equal(render("{{ tools is none }}"), "true");
  assert.equal(render("{{ tools[0].name }}", hi, { tools: [{ name: "f" }] }), "f");
  assert.equal(render("{{ thinking }}", hi, { variables: { thinking: true } }), "true");
  assert.equal(render("{{ thinking is defined }}"), "false");
  assert.equal(render("{{ range(2, 8, 3) | list | tojson }}{{ range(2) | length }}"), "[2, 5]2");
  assert.match(render("{{ strftime_now('%Y-%m') }}"), /^20\d\d-[01]\d$/);
});

Deno.test("content parts of type text are joined", () => {
  const content = [{ type: "text", text: "a" }, { type: "text", text: "b" }];
  assert.equal(render("{{ messages[0].content }}", [{ role: "user", content }]), "ab");
});

Deno.test("content may be null beside tool calls only", () => {
  const calls: ChatMessage = { role: "assistant", content: null, tool_calls: [{ id: "1" }] };
  assert.equal(render("{{ messages[0].content is none }}", [calls]), "true");
  assert.equal(
    render("{{ messages[0].tool_calls[0].id }}", [{
      role: "assistant",
      tool_calls: [{ id: "1" }],
    }]),
    "1",
  );
});

Deno.test("malformed messages are refused, each with the field's name", () => {
  const cyclic: { [field: string]: unknown } = { role: "user", content: "x" };
  cyclic.self = cyclic;
  const cases: [unknown, RegExp][] = [
    ["hi", /`messages` is no list/],
    [[null], /`messages\[0\]` is no object/],
    [["hi"], /`messages\[0\]` is no object/],
    [[{ content: "x" }], /`messages\[0\].role` is no string/],
    [[{ role: 1, content: "x" }], /`messages\[0\].role` is no string/],
    [[{ role: "user" }], /`messages\[0\].content` is missing/],
    [[{ role: "user", content: null }], /`messages\[0\].content` is null/],
    [[{ role: "user", content: 7 }], /`messages\[0\].content` is no text/],
    [
      [{ role: "user", content: [{ type: "image_url" }] }],
      /`messages\[0\].content\[0\]` is no text/,
    ],
    [[{ role: "user", content: ["x"] }], /`messages\[0\].content\[0\]` is no text part/],
    [[{ role: "user", content: "x", f: () => 1 }], /`messages\[0\].f` is a function/],
    [[{ role: "user", content: "x", n: 1n }], /`messages\[0\].n` is a bigint/],
    [[cyclic], /nested too deep/],
  ];
  for (const [messages, message] of cases) {
    assert.throws(
      () => render("x", messages as ChatMessage[]),
      { name: "InvalidArgumentError", message },
    );
  }
});

Deno.test("only the listed variables may be set", () => {
  for (
    const name of ["messages", "bos_token", "add_generation_prompt", "range", "true", "anything"]
  ) {
    assert.throws(
      () => render("x", hi, { variables: { [name]: "x" } }),
      { name: "InvalidArgumentError", message: new RegExp(`variable \`${name}\` is not allowed`) },
    );
  }
  assert.throws(() => render("x", hi, { variables: { thinking: () => 1 } }), InvalidArgumentError);
});

Deno.test("a template's own refusal carries its message", () => {
  assert.throws(
    () => render("{{ raise_exception('roles must alternate') }}"),
    {
      name: "InvalidArgumentError",
      field: "messages",
      message: /refuses the messages: roles must alternate/,
    },
  );
});

Deno.test("a template that fails on the messages says why", () => {
  assert.throws(() => render("{{ messages[0].absent + 'x' }}"), {
    name: "InvalidArgumentError",
    message: /fails on these messages: Cannot perform operation \+ on undefined/,
  });
});

Deno.test("a template with a syntax error is refused: the file's as a file, the argument's as an argument", () => {
  const deep = `{{ ${"(".repeat(50_000)}1${")".repeat(50_000)} }}`;
  for (const source of ["{% if %}", "{{ 'open", "{% for x in y %}", "{{ 1 + }}", deep]) {
    assert.throws(() => new ChatTemplate(source), InvalidArgumentError, source);
    assert.throws(
      () => new ChatTemplate(source, "tokenizer_config.json"),
      InvalidFileError,
      source,
    );
  }
});

Deno.test("a template reaches no object of the host", () => {
  const objects = [
    "messages",
    "messages[0]",
    "messages[0].content",
    "raise_exception",
    "range",
    "1",
    "true",
    "namespace()",
    "messages[0].items",
  ];
  const names = [
    "constructor",
    "__proto__",
    "prototype",
    "__class__",
    "__defineGetter__",
    "toString",
    "valueOf",
    "hasOwnProperty",
    "call",
    "bind",
  ];
  for (const object of objects) {
    for (const name of names) {
      for (const member of [`(${object}).${name}`, `(${object})['${name}']`]) {
        assert.equal(render(`{{ ${member} is defined }}`), "false", member);
      }
    }
  }
  for (
    const name of [
      "globalThis",
      "self",
      "window",
      "Deno",
      "process",
      "Function",
      "eval",
      "this",
      "constructor",
      "arguments",
      "__proto__",
    ]
  ) {
    assert.equal(render(`{{ ${name} is defined }}`), "false", name);
  }
  assert.throws(() => render("{{ messages.constructor('x') }}"), InvalidArgumentError);
  assert.throws(
    () => render("{{ ''.constructor.constructor('return 1')() }}"),
    InvalidArgumentError,
  );
});

Deno.test("a message's fields named like an object's internals are plain fields", () => {
  const message = JSON.parse(
    '{"role":"user","content":"x","__proto__":{"polluted":"yes"},"constructor":"c"}',
  );
  assert.equal(render("{{ messages[0]['constructor'] }}", [message]), "c");
  assert.equal(render("{{ messages[0].polluted is defined }}", [message]), "false");
  assert.equal(({} as { polluted?: string }).polluted, undefined);
});

Deno.test("a template can not change the caller's messages", () => {
  const messages: ChatMessage[] = [{ role: "user", content: "hi", extra: { list: [1] } }];
  const before = structuredClone(messages);
  for (
    const source of [
      "{% set messages = [] %}",
      "{% for m in messages %}{% set m = 1 %}{% endfor %}",
    ]
  ) {
    render(source, messages);
    assert.deepEqual(messages, before);
  }
});

Deno.test("a template that does not end is stopped", () => {
  const sources = [
    "{% for i in range(1000000) %}{% for j in range(1000000) %}{% endfor %}{% endfor %}",
    "{% set r = range(1000000) %}{% for i in r if true %}{% for j in r %}{% endfor %}{% endfor %}",
    "{% for i in range(900) %}{% for j in range(900) %}{% for k in range(900) %}x{% endfor %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(a=[1]) %}{% for i in range(40) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ range(1000000000) | length }}",
    "{{ range(0, 1, 0) }}",
  ];
  for (const source of sources) {
    assert.throws(
      () => render(source),
      { name: "InvalidArgumentError", message: /budget/ },
      source,
    );
  }
});

Deno.test("applyChatTemplate() picks the default template, and tool_use when tools are given", () => {
  const chat_template = [
    { name: "default", template: "{{ bos_token }}ab" },
    { name: "tool_use", template: "{{ bos_token }}abab" },
  ];
  const names = { bos_token: "<s>", eos_token: "</s>", add_bos_token: true };
  const json = JSON.stringify(tinyTokenizer());
  using tokenizer = Tokenizer.fromJson(json, { ...names, chat_template });
  assert.equal(tokenizer.chatTemplate, "{{ bos_token }}ab");
  assert.deepEqual(tokenizer.applyChatTemplate(hi), [258, 256]);
  assert.deepEqual(tokenizer.applyChatTemplate(hi, { tools: [] }), [258, 257]);
  assert.equal(tokenizer.applyChatTemplate(hi, { tokenize: false }), "<s>ab");
  assert.equal(tokenizer.applyChatTemplate(hi, { tokenize: false, chatTemplate: "x" }), "x");
  using single = Tokenizer.fromJson(json, { ...names, chat_template: "{{ eos_token }}" });
  assert.deepEqual(single.applyChatTemplate(hi, { tools: [] }), [259]);
});

Deno.test("applyChatTemplate() without a template, or with a broken one in the file, says so", () => {
  const json = JSON.stringify(tinyTokenizer());
  using none = Tokenizer.fromJson(json);
  assert.throws(() => none.applyChatTemplate(hi), {
    name: "InvalidArgumentError",
    field: "chatTemplate",
  });
  using broken = Tokenizer.fromJson(json, { chat_template: "{% if %}" });
  assert.throws(() => broken.applyChatTemplate(hi), {
    name: "InvalidFileError",
    file: "tokenizer_config.json",
  });
});
