/**
 * The API on the embedded model: what a caller sees of generate, stream, chat and forward.
 */
import { strict as assert } from "node:assert";
import {
  BackendError,
  CapacityError,
  InvalidArgumentError,
  LLM,
  type SamplingParams,
  type StreamEvent,
  UnsupportedError,
} from "../../mod.ts";
import { openFixture, temporaryPath } from "../packages.ts";
import { needsShared } from "../shared.ts";
import { assertSameBytes } from "../same_bytes.ts";

const STORY = "Once upon a time there was";
const greedy: SamplingParams = { temperature: 0, maxTokens: 24 };

let opened: Promise<LLM> | undefined;
/** The embedded model, opened once. */
function model(): Promise<LLM> {
  return opened ??= LLM.open();
}

Deno.test("generate() takes a text, tokens, messages or a list of them and answers in order", async () => {
  const llm = await model();
  const promptTokenIds = llm.tokenizer.encode(STORY);
  const messages = [{ role: "user", content: "Who are you?" }];
  const [byText] = await llm.generate(STORY, greedy);
  assert.equal(byText!.prompt, STORY);
  assert.deepEqual(byText!.promptTokenIds, promptTokenIds);
  const results = await llm.generate([{ messages }, { promptTokenIds }, STORY], greedy);
  assert.equal(results.length, 3);
  assert.equal(results[1]!.prompt, undefined);
  assert.deepEqual(results[1]!.outputs, byText!.outputs);
  assert.deepEqual(results[2]!.outputs, byText!.outputs);
  assert.match(results[0]!.prompt!, /User: Who are you\?\n\nAssistant:$/);
});

Deno.test("BOS stands once before every prompt, whatever way it came", async () => {
  const llm = await model();
  const { tokenizer } = llm;
  const messages = [{ role: "user", content: "Hi" }];
  const options = { addGenerationPrompt: true };
  const rendered = tokenizer.applyChatTemplate(messages, { ...options, tokenize: false });
  const ids = tokenizer.applyChatTemplate(messages, options);
  const bare = tokenizer.encode("Hi", { addSpecialTokens: false });
  const prompts = ["Hi", tokenizer.bosToken + "Hi", { messages }, rendered, {
    promptTokenIds: bare,
  }];
  const results = await llm.generate(prompts, { maxTokens: 1 });
  const given = results.map(({ promptTokenIds }) => promptTokenIds);
  const bos = tokenizer.bosTokenId!;
  assert.deepEqual(given, [[bos, ...bare], [bos, ...bare], ids, ids, bare]);
  assert.equal(ids.filter((id) => id === bos).length, 1);
});

Deno.test("parameters may be given for each prompt", async () => {
  const llm = await model();
  const params = [{ ...greedy, maxTokens: 3 }, { ...greedy, maxTokens: 5 }];
  const results = await llm.generate([STORY, STORY], params);
  assert.deepEqual(results.map(({ outputs }) => outputs[0]!.tokenIds.length), [3, 5]);
  await assert.rejects(llm.generate([STORY, STORY], [greedy]), { field: "params" });
});

Deno.test("a text ends at maxTokens, at the end token, or at a stop token or string", async () => {
  const llm = await model();
  const one = async (params: SamplingParams, prompt = STORY) =>
    (await llm.generate(prompt, params))[0]!.outputs[0]!;
  const whole = await one(greedy);
  assert.equal(whole.finishReason, "length");
  assert.equal(whole.tokenIds.length, 24);
  assert.equal(whole.text, llm.tokenizer.decode(whole.tokenIds));

  const question = "What is 2 + 2?";
  const chat = (params: SamplingParams) =>
    llm.chat([{ role: "user", content: question }], params).then(([result]) => result!.outputs[0]!);
  const ended = await chat({ temperature: 0, maxTokens: 100 });
  assert.equal(ended.finishReason, "stop");
  assert.equal(ended.stopReason, undefined);
  assert.equal(ended.tokenIds.at(-1), llm.tokenizer.eosTokenId);
  assert(!ended.text.includes("<"), ended.text);
  const ignored = await chat({ temperature: 0, maxTokens: 100, ignoreEos: true });
  assert.equal(ignored.tokenIds.length, 100);
  const least = await chat({
    temperature: 0,
    maxTokens: 100,
    minTokens: ended.tokenIds.length + 5,
  });
  assert(least.tokenIds.length >= ended.tokenIds.length + 5);

  const stopToken = whole.tokenIds[6]!;
  const byToken = await one({ ...greedy, stopTokenIds: [stopToken] });
  assert.deepEqual(
    byToken.tokenIds,
    whole.tokenIds.slice(0, whole.tokenIds.indexOf(stopToken) + 1),
  );
  assert.deepEqual([byToken.finishReason, byToken.stopReason], ["stop", stopToken]);
  assert.equal(byToken.text, llm.tokenizer.decode(byToken.tokenIds.slice(0, -1)));

  const stop = whole.text.slice(9, 14);
  const byText = await one({ ...greedy, stop });
  assert.equal(byText.text, whole.text.slice(0, whole.text.indexOf(stop)));
  assert.deepEqual([byText.finishReason, byText.stopReason], ["stop", stop]);
  const including = await one({ ...greedy, stop, includeStopStrInOutput: true });
  assert.equal(including.text, whole.text.slice(0, whole.text.indexOf(stop) + stop.length));
});

Deno.test("logprobs are those of the logits that forward() computes", async () => {
  const llm = await model();
  const params = { ...greedy, maxTokens: 5, logprobs: 3, promptLogprobs: 2 };
  const [result] = await llm.generate(STORY, params);
  const { tokenIds, logprobs, cumulativeLogprob } = result!.outputs[0]!;
  const tokens = [...result!.promptTokenIds, ...tokenIds];
  const { logits, shape: [, vocab] } = await llm.forward(tokens);
  /** Log-softmax in f64. */
  const logSoftmax = (position: number) => {
    const row = [...logits.subarray(position * vocab, (position + 1) * vocab)];
    const largest = Math.max(...row);
    const total = Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
    return row.map((value) => value - largest - total);
  };
  const near = (a: number, b: number) => assert(Math.abs(a - b) < 1e-5, `${a}, ${b}`);
  let sum = 0;
  const all = [...result!.promptLogprobs!, ...logprobs!];
  assert.equal(all[0], null);
  for (const [position, entry] of all.entries()) {
    if (entry === null) continue;
    const want = logSoftmax(position - 1);
    const token = tokens[position]!;
    assert.equal(entry.tokenId, token);
    near(entry.logprob, want[token]!);
    assert.equal(entry.rank, 1 + want.filter((value) => value > want[token]!).length);
    assert.equal(entry.token, llm.tokenizer.decode([token]));
    const likeliest = want.map((value, id) => [value, id] as const).sort(([a], [b]) => b - a);
    const generated = position >= result!.promptTokenIds.length;
    assert.deepEqual(
      entry.top.map(({ tokenId }) => tokenId),
      likeliest.slice(0, generated ? 3 : 2).map(([, id]) => id),
    );
    const own = entry.top.find(({ tokenId }) => tokenId === token);
    if (own) assert.equal(own.logprob, entry.logprob);
    if (generated) sum += entry.logprob;
  }
  near(cumulativeLogprob!, sum);
  const [plain] = await llm.generate(STORY, { ...greedy, maxTokens: 2 });
  assert.equal(plain!.outputs[0]!.logprobs, undefined);
  assert.equal(plain!.promptLogprobs, undefined);
});

Deno.test("the same seed gives the same text, alone or among others; a drawn seed is reported", async () => {
  const llm = await model();
  const params = { temperature: 1.2, seed: 42, maxTokens: 20 };
  const [alone] = await llm.generate(STORY, params);
  const [, among] = await llm.generate(["The", STORY, "A dog"], params);
  assert.deepEqual(among!.outputs, alone!.outputs);
  assert.equal(alone!.seed, 42);
  const [drawn] = await llm.generate(STORY, { temperature: 1.2, maxTokens: 20 });
  const [again] = await llm.generate(STORY, { temperature: 1.2, maxTokens: 20, seed: drawn!.seed });
  assert.deepEqual(again!.outputs, drawn!.outputs);
});

Deno.test("n choices differ from one another and each is what a fork of the prompt gives", async () => {
  const llm = await model();
  const params = { temperature: 1.2, seed: 7, maxTokens: 16 };
  const [one] = await llm.generate(STORY, params);
  const [four] = await llm.generate(STORY, { ...params, n: 4 });
  assert.deepEqual(four!.outputs.map(({ index }) => index), [0, 1, 2, 3]);
  assert.deepEqual(four!.outputs[0], one!.outputs[0]);
  assert.equal(new Set(four!.outputs.map(({ text }) => text)).size, 4);
});

Deno.test("stream() yields the text of generate() piece by piece and returns the result", async () => {
  const llm = await model();
  const params = { temperature: 0.8, seed: 3, maxTokens: 30, n: 2, logprobs: 1 };
  const [want] = await llm.generate(STORY, params);
  const events: StreamEvent[] = [];
  const stream = llm.stream(STORY, params);
  let next = await stream.next();
  for (; !next.done; next = await stream.next()) events.push(next.value);
  assert.deepEqual(next.value, want);
  for (const { index, text, tokenIds, logprobs, finishReason } of want!.outputs) {
    const own = events.filter((event) => event.index === index);
    assert.equal(own.map((event) => event.text).join(""), text);
    assert.deepEqual(own.flatMap((event) => event.tokenIds), tokenIds);
    assert.deepEqual(own.flatMap((event) => event.logprobs ?? []), logprobs);
    assert.equal(own.at(-1)!.finishReason, finishReason);
    assert(own.slice(0, -1).every((event) => event.finishReason === undefined));
  }
});

Deno.test("an abort signal stops generate() and stream() with its reason, and others go on", async () => {
  const llm = await model();
  const forever: SamplingParams = { temperature: 0, maxTokens: 1500, ignoreEos: true };
  const controller = new AbortController();
  const stopped = llm.generate(STORY, forever, { signal: controller.signal });
  const other = llm.generate(STORY, greedy);
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(stopped, { name: "AbortError" });
  assert.equal((await other)[0]!.outputs[0]!.tokenIds.length, 24);

  const reason = new Error("enough");
  const again = new AbortController();
  const events: StreamEvent[] = [];
  const read = async () => {
    for await (const event of llm.stream(STORY, forever, { signal: again.signal })) {
      events.push(event);
      if (events.length === 4) again.abort(reason);
    }
  };
  await assert.rejects(read(), reason);
  assert(events.length < 10, "it stopped within a step");
  assert.equal(events.at(-1)!.finishReason, "abort");
  await assert.rejects(llm.generate(STORY, greedy, { signal: AbortSignal.abort() }), {
    name: "AbortError",
  });
  await assert.rejects(llm.forward([1, 2], { signal: AbortSignal.abort(reason) }), reason);
});

Deno.test("one prompt that can not run fails the call, and the model goes on", async () => {
  const llm = await model();
  const long = { promptTokenIds: Array.from({ length: 2049 }, () => 300) };
  await assert.rejects(llm.generate([STORY, long], greedy), (error: CapacityError) => {
    assert.equal(error.code, "context_length_exceeded");
    assert.match(error.message, /it has 2049 tokens, the context is 2048/);
    return true;
  });
  assert.equal((await llm.generate(STORY, greedy))[0]!.outputs[0]!.tokenIds.length, 24);
});

Deno.test("a prompt that fills the context yields a token and ends", async () => {
  const llm = await model();
  const promptTokenIds = Array.from({ length: 2046 }, (_, i) => 300 + i % 3000);
  const params = { temperature: 0, maxTokens: 50, ignoreEos: true };
  const [result] = await llm.generate({ promptTokenIds }, params);
  const { tokenIds, finishReason } = result!.outputs[0]!;
  assert.deepEqual([tokenIds.length, finishReason], [2, "length"]);
  const [full] = await llm.generate({ promptTokenIds: [...promptTokenIds, 5, 6] }, params);
  assert.equal(full!.outputs[0]!.tokenIds.length, 1);
});

Deno.test("forward() gives the rows asked for, in their order", async () => {
  const llm = await model();
  const tokens = llm.tokenizer.encode("The cat sat on the mat.");
  const all = await llm.forward(tokens);
  assert.deepEqual(all.shape, [tokens.length, 4096]);
  const some = await llm.forward(tokens, { rows: [4, 0] });
  assert.deepEqual(some.shape, [2, 4096]);
  assertSameBytes(some.logits.subarray(0, 4096), all.logits.subarray(4 * 4096, 5 * 4096));
  assertSameBytes(some.logits.subarray(4096), all.logits.subarray(0, 4096));
  assert.deepEqual((await llm.forward(tokens, { rows: [] })).shape, [0, 4096]);
});

Deno.test("what is out of range is refused by its name", async () => {
  const llm = await model();
  const refused: [call: () => Promise<unknown>, field: string, message: RegExp][] = [
    [() => llm.generate(STORY, { temperature: NaN }), "temperature", /NaN/],
    [() => llm.generate({ promptTokenIds: [] }), "promptTokenIds", /at least one token/],
    [() => llm.generate({ promptTokenIds: [4096] }), "promptTokenIds", /token id 4096 is not one/],
    [() => llm.generate({ promptTokenIds: [1.5] }), "promptTokenIds", /token id 1.5/],
    [() => llm.generate(undefined as unknown as string), "prompt", /must be a text/],
    [() => llm.generate(STORY, { stopTokenIds: [9999] }), "stopTokenIds", /below 4096/],
    [() => llm.forward([1, 2], { rows: [2] }), "rows", /row 2 of 2 tokens/],
    [() => llm.forward([1, 2], { rows: [0, 0] }), "rows", /each once/],
    [() => llm.forward([-1]), "tokenIds", /token id -1/],
    [() => LLM.open(undefined, { contextLength: 4096 }), "contextLength", /it can be 1 to 2048/],
    [() => LLM.open(undefined, { cacheTokens: 100 }), "cacheTokens", /it can be 2048 to/],
    [() => LLM.open(undefined, { backend: "tpu" as "wasm" }), "backend", /"tpu"/],
    [() => LLM.open("https://"), "location", /https:\/\/: it is neither a folder's path nor/],
    [() => LLM.open("file:///%zz"), "location", /write an address as/],
    [() => LLM.open(5 as unknown as string), "location", /Cannot open 5/],
    [() => llm.chat(null as unknown as []), "conversations", /must be a list of messages/],
  ];
  for (const [call, field, message] of refused) {
    await assert.rejects(call, (error: InvalidArgumentError) => {
      assert(error instanceof InvalidArgumentError, String(error));
      assert.equal(error.field, field);
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("a cache that no memory holds is refused with its size, on both backends", async () => {
  const cacheTokens = 2 ** 31 - 1; // times 1,600 bytes: 3.1 TiB
  for (const backend of ["wasm", "ort"] as const) {
    await assert.rejects(LLM.open(undefined, { backend, cacheTokens }), (error: CapacityError) => {
      assert(error instanceof CapacityError, `${backend}: ${error}`);
      assert.match(error.message, /lower contextLength or cacheTokens/);
      return true;
    });
  }
});

Deno.test("generation_config.json gives the defaults unless it is turned off", async () => {
  const prompt = { promptTokenIds: [4088, 300] };
  // The reference model's file: sampling at 0.3, so two seeds seldom differ; without it 1.0.
  const texts = async (llm: LLM) => {
    const seeds = Array.from({ length: 12 }, (_, seed) => ({ seed, maxTokens: 6 }));
    const results = await llm.generate(seeds.map(() => prompt), seeds);
    return new Set(results.map(({ outputs }) => outputs[0]!.tokenIds.join())).size;
  };
  await using plain = await LLM.open(undefined, { generationConfig: false });
  assert(await texts(await model()) < await texts(plain));
});

Deno.test("a closed model refuses, and what was running ends", async () => {
  const llm = await LLM.open();
  const running = llm.generate(STORY, { maxTokens: 1500, ignoreEos: true });
  const ended = assert.rejects(running, { name: "BackendError", code: "closed" });
  await new Promise((resolve) => setTimeout(resolve, 10));
  await llm.close();
  await ended;
  await assert.rejects(llm.generate({ promptTokenIds: [1] }), BackendError);
  await llm.close(); // again is fine
});

Deno.test("the information says what was chosen", async () => {
  const { info, spec } = await model();
  assert.equal(info.backend, "wasm");
  assert.equal(info.threads, 1);
  assert(info.threadsReason.length > 0);
  assert(info.bytes.weights! > 5e6 && info.bytes.cache! > 1e6);
  assert.deepEqual([spec.vocabSize, spec.contextLength], [4096, 2048]);
});

Deno.test(
  needsShared("a package without a tokenizer works with tokens and says so for text"),
  async () => {
    await using llm = await openFixture("deepseek-v2-lite");
    const [result] = await llm.generate({ promptTokenIds: [5, 6] }, {
      temperature: 0,
      maxTokens: 4,
    });
    assert.equal(result!.outputs[0]!.tokenIds.length, 4);
    assert.equal(result!.outputs[0]!.text, "");
    for (
      const call of [() => llm.generate("text"), () => llm.chat([{ role: "user", content: "x" }])]
    ) {
      await assert.rejects(call, (error: Error) => {
        assert(error instanceof UnsupportedError);
        assert.match(error.message, /no tokenizer\.json; give prompts as \{ promptTokenIds \}/);
        return true;
      });
    }
    await assert.rejects(llm.generate({ promptTokenIds: [5] }, { stop: "x" }), UnsupportedError);
  },
);

Deno.test("a folder that is no package is refused with the way out", async () => {
  const folder = temporaryPath("empty");
  await Deno.mkdir(folder);
  await assert.rejects(LLM.open(folder), /has no manifest\.json, so it is no package; make one of/);
  await assert.rejects(LLM.open(folder + "/missing"), { code: "not_found" });
  await assert.rejects(LLM.open("ftp://example.com/model"), /opened from folders, file:, http:/);
});

addEventListener("unload", () => void opened?.then((llm) => llm.close()));
