/**
 * Many requests on one model: who goes first, who is refused, what is found in the cache, what is counted.
 */
import { strict as assert } from "node:assert";
import { LLM, OverloadError, type SamplingParams } from "../../mod.ts";
import { assertSameBytes } from "../same_bytes.ts";

const STORY = "Once upon a time there was a kind boy named Theo, and every day he went to";
const greedy: SamplingParams = { temperature: 0, maxTokens: 24, ignoreEos: true };

Deno.test("a prompt that was computed is found, and counted in the output and in stats()", async () => {
  await using llm = await LLM.open();
  const [first] = await llm.generate(STORY, greedy);
  const [second] = await llm.generate(STORY, greedy);
  const tokens = first!.promptTokenIds.length;
  assert(tokens > 17);
  assert.deepEqual([first!.cachedTokens, second!.cachedTokens], [0, 16]);
  assert.deepEqual(second!.outputs, first!.outputs);
  const longer = { promptTokenIds: [...first!.promptTokenIds, ...first!.outputs[0]!.tokenIds] };
  const [third] = await llm.generate(longer, greedy);
  assert.equal(third!.cachedTokens, Math.floor((longer.promptTokenIds.length - 1) / 16) * 16);
  const { promptTokens, cachedPromptTokens, generatedTokens, running, waiting, ...stats } = llm
    .stats();
  assert.equal(promptTokens, 2 * tokens + longer.promptTokenIds.length);
  assert.equal(cachedPromptTokens, 16 + third!.cachedTokens);
  assert.deepEqual([generatedTokens, running, waiting, stats.heldBlocks], [72, 0, 0, 0]);
  assert(stats.cachedBlocks > 3 && stats.blocks >= 2048 / 16);
});

Deno.test("a salt keeps what one has asked from another, enablePrefixCaching: false from all", async () => {
  await using llm = await LLM.open();
  const found = async (llm: LLM, cacheSalt?: string) =>
    (await llm.generate(STORY, greedy, { cacheSalt }))[0]!.cachedTokens;
  assert.equal(await found(llm, "a"), 0);
  assert.deepEqual([await found(llm, "b"), await found(llm), await found(llm, "a")], [0, 0, 16]);
  await using off = await LLM.open(undefined, { enablePrefixCaching: false });
  assert.deepEqual([await found(off), await found(off)], [0, 0]);
  assert.equal(off.stats().cachedBlocks, 0);
});

Deno.test("prompt log-probabilities and forward() are those without a cache, on a prompt that is in it", async () => {
  await using llm = await LLM.open();
  const params = { ...greedy, maxTokens: 1, promptLogprobs: 1 };
  const [fresh] = await llm.generate(STORY, params);
  const { logits } = await llm.forward(fresh!.promptTokenIds);
  const [again] = await llm.generate(STORY, params);
  assert.equal(again!.cachedTokens, 0);
  assert.deepEqual(again, { ...fresh!, seed: again!.seed });
  assertSameBytes((await llm.forward(fresh!.promptTokenIds)).logits, logits);
});

Deno.test("the request with the lower priority number ends first where one runs at a time", async () => {
  await using llm = await LLM.open(undefined, { maxNumSeqs: 1 });
  const order: number[] = [];
  await Promise.all([3, 1, 2, 1].map(async (priority) => {
    await llm.generate(STORY, greedy, { priority });
    order.push(priority);
  }));
  assert.deepEqual(order, [1, 1, 2, 3]);
});

Deno.test("more requests than may wait are refused with queue_full, and the others go on", async () => {
  await using llm = await LLM.open(undefined, { maxNumSeqs: 2, maxQueuedRequests: 3 });
  const results = await Promise.allSettled(
    Array.from({ length: 8 }, () => llm.generate(STORY, greedy)),
  );
  assert.deepEqual(results.map(({ status }) => status), [
    ...new Array<string>(5).fill("fulfilled"),
    ...new Array<string>(3).fill("rejected"),
  ]);
  const { reason } = results[7] as PromiseRejectedResult;
  assert(reason instanceof OverloadError);
  assert.deepEqual([reason.name, reason.code], ["OverloadError", "queue_full"]);
  await llm.generate(STORY, greedy);
});

Deno.test("a request whose time is over ends with deadline_exceeded, waiting or running", async () => {
  await using llm = await LLM.open(undefined, { maxNumSeqs: 1 });
  const forever = { ...greedy, maxTokens: 1800 };
  const over = { name: "OverloadError", code: "deadline_exceeded" };
  const events: (string | undefined)[] = [];
  const running = async () => {
    for await (const { finishReason } of llm.stream(STORY, forever, { timeoutMs: 60 })) {
      events.push(finishReason);
    }
  };
  await Promise.all([
    assert.rejects(running(), over),
    assert.rejects(llm.generate(STORY, forever, { timeoutMs: 30 }), over),
    assert.rejects(llm.forward([1, 2], { timeoutMs: 0.001 }), over),
  ]);
  assert.equal(events.at(-1), "abort");
  assert(events.length > 1);
  assert.equal((await llm.generate(STORY, greedy, { timeoutMs: 1e6 })).length, 1);
  assert.equal(llm.stats().heldBlocks, 0);
});

Deno.test("guessing ahead gives the same tokens in fewer steps, greedy or drawn", async () => {
  await using plain = await LLM.open();
  await using guessing = await LLM.open(undefined, { speculative: { method: "ngram" } });
  const text = "The cat sat on the mat. The dog sat on the mat. The cat sat on";
  for (
    const params of [
      { ...greedy, maxTokens: 60 },
      { temperature: 0.8, topP: 0.9, seed: 3, maxTokens: 60, ignoreEos: true },
      { ...greedy, maxTokens: 60, frequencyPenalty: 0.2, logprobs: 2 },
      { temperature: 0.8, seed: 4, maxTokens: 60, n: 3, ignoreEos: true },
    ]
  ) {
    const results = await Promise.all([plain, guessing].map((llm) => llm.generate(text, params)));
    assert.deepEqual(results[1]![0]!.outputs, results[0]![0]!.outputs);
  }
  const [without, ahead] = [plain.stats(), guessing.stats()];
  assert.equal(ahead.generatedTokens, without.generatedTokens);
  assert(ahead.acceptedTokens > 0 && ahead.acceptedTokens <= ahead.draftedTokens);
  assert(ahead.steps < without.steps, `${ahead.steps} steps, ${without.steps} without`);
});

Deno.test("a guess does not run past a stop string, an end token or maxTokens", async () => {
  await using plain = await LLM.open();
  await using guessing = await LLM.open(undefined, {
    speculative: { method: "ngram", numTokens: 8, ngramMin: 1 },
  });
  const text = "one two three four one two three four one two three four one";
  const [result] = await plain.generate(text, { ...greedy, maxTokens: 40 });
  const whole = result!.outputs[0]!;
  const cases: SamplingParams[] = [
    ...[1, 2, 3, 4, 5, 6, 7].map((maxTokens) => ({ ...greedy, maxTokens })),
    { ...greedy, maxTokens: 40, stop: whole.text.slice(8, 13) },
    { ...greedy, maxTokens: 40, stopTokenIds: [whole.tokenIds[5]!] },
  ];
  for (const params of cases) {
    const results = await Promise.all([plain, guessing].map((llm) => llm.generate(text, params)));
    assert.deepEqual(results[1]![0]!.outputs, results[0]![0]!.outputs);
  }
});

Deno.test("options of sharing and of requests are refused by name when out of range", async () => {
  for (
    const [field, options] of [
      ["maxNumSeqs", { maxNumSeqs: 0 }],
      ["maxNumBatchedTokens", { maxNumBatchedTokens: 1.5 }],
      ["maxQueuedRequests", { maxQueuedRequests: -1 }],
      ["enablePrefixCaching", { enablePrefixCaching: "yes" as unknown as boolean }],
      ["speculative.method", { speculative: { method: "draft" as "ngram" } }],
      ["speculative.numTokens", { speculative: { method: "ngram" as const, numTokens: 33 } }],
      ["speculative.ngramMax", {
        speculative: { method: "ngram" as const, ngramMin: 3, ngramMax: 2 },
      }],
    ] as const
  ) {
    const refused = { name: "InvalidArgumentError", field };
    await assert.rejects(LLM.open(undefined, options), refused, field);
  }
  await using llm = await LLM.open();
  for (
    const [field, options] of [
      ["priority", { priority: 0.5 }],
      ["cacheSalt", { cacheSalt: 5 as unknown as string }],
      ["timeoutMs", { timeoutMs: 0 }],
      ["timeoutMs", { timeoutMs: NaN }],
    ] as const
  ) {
    const refused = { name: "InvalidArgumentError", field };
    await assert.rejects(llm.generate(STORY, greedy, options), refused, field);
    await assert.rejects(llm.forward([1], options), refused, field);
  }
});
