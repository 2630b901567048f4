/**
 * The scheduler alone: what is in each step, which blocks it uses, who waits and who makes room.
 */
import { strict as assert } from "node:assert";
import { checkStepPlan, type StepLimits } from "../../src/backend/step_plan.ts";
import type { CapacityError } from "../../src/errors.ts";
import { BlockPool } from "../../src/engine/block_pool.ts";
import type { ScheduledStep } from "../../src/engine/scheduled_step.ts";
import { Scheduler } from "../../src/engine/scheduler.ts";
import type { ScheduledRequest, Sequence } from "../../src/engine/sequence.ts";

const VOCAB = 100;
const limits: StepLimits = {
  tokens: 8,
  sequences: 4,
  logitRows: 4,
  contextLength: 24,
  blocks: 21,
  blockSize: 4,
};

interface Request extends ScheduledRequest {
  name: string;
}

const terms = (terms: Partial<Request["terms"]>) => ({
  terms: { priority: 0, cacheSalt: "", deadline: Infinity, ...terms },
});

/** Names of sequences. */
const names = (sequences: readonly Sequence<Request>[]) =>
  sequences.map(({ request }) => request.name);

function request(name: string, prompt: number, more: Partial<Request> = {}): Request {
  return {
    name,
    promptTokenIds: Array.from({ length: prompt }, (_, i) => i % VOCAB),
    maxNewTokens: 4,
    choices: 1,
    terms: { priority: 0, cacheSalt: "", deadline: Infinity },
    wantsLogits: () => false,
    ...more,
  };
}

/** Runs a step as the engine would, with token 7 for every sequence whose last logits are there. */
function run(scheduler: Scheduler<Request>): ScheduledStep<Request> | undefined {
  const step = scheduler.next();
  if (!step) return undefined;
  checkStepPlan(step.plan, limits, VOCAB);
  scheduler.commit(step);
  for (const { sequence } of step.parts) {
    if (sequence.cached < sequence.tokenIds.length) continue;
    if (sequence.request.maxNewTokens === 0) scheduler.finish(sequence);
    else extend(scheduler, sequence);
  }
  return step;
}

function extend(scheduler: Scheduler<Request>, sequence: Sequence<Request>) {
  const { request } = sequence;
  const group = [sequence];
  if (sequence.generated === 0) {
    for (let choice = 1; choice < request.choices; choice++) {
      group.push(scheduler.fork(sequence, choice));
    }
  }
  for (const member of group) {
    member.tokenIds.push(7);
    const full = member.tokenIds.length >= limits.contextLength;
    if (full || member.generated >= request.maxNewTokens) scheduler.finish(member);
  }
}

Deno.test("a prompt is computed in chunks of the token budget, then a token at a time", () => {
  const scheduler = new Scheduler<Request>(limits);
  scheduler.add(request("long", 19));
  const counts: number[] = [];
  for (let step = run(scheduler); step; step = run(scheduler)) {
    counts.push(step.plan.tokenIds.length);
  }
  assert.deepEqual(counts, [8, 8, 3, 1, 1, 1]);
  assert.equal(scheduler.pools[0]!.available, scheduler.pools[0]!.capacity);
});

Deno.test("every step holds all running sequences: decodes ride beside a prompt's chunks", () => {
  const scheduler = new Scheduler<Request>(limits);
  scheduler.add(request("short", 2));
  scheduler.add(request("long", 20));
  const steps: string[] = [];
  for (let step = run(scheduler); step; step = run(scheduler)) {
    steps.push(step.parts.map(({ sequence, count }) => `${sequence.request.name} ${count}`).join());
  }
  assert.deepEqual(steps, [
    "short 2,long 6",
    "short 1,long 7",
    "short 1,long 7",
    "short 1,long 1",
    "long 1",
    "long 1",
  ]);
});

Deno.test("a plan's slots, tables and rows are those of the sequences' blocks", () => {
  const scheduler = new Scheduler<Request>(limits);
  scheduler.add(request("a", 3));
  scheduler.add(request("b", 5));
  const { plan, parts } = scheduler.next()!;
  const [a, b] = parts.map(({ sequence }) => sequence.blocks);
  assert.deepEqual([...plan.queryStarts], [0, 3, 8]);
  assert.deepEqual([...plan.contextLengths], [3, 5]);
  assert.deepEqual([...plan.positions], [0, 1, 2, 0, 1, 2, 3, 4]);
  assert.deepEqual([...plan.blockTables], [a![0], 0, b![0], b![1]]);
  const slot = (blocks: number[], position: number) => blocks[position >> 2]! * 4 + position % 4;
  assert.deepEqual([...plan.slots], [
    ...[0, 1, 2].map((i) => slot(a!, i)),
    ...[0, 1, 2, 3, 4].map((i) => slot(b!, i)),
  ]);
  assert.deepEqual([...plan.logitRows], [2, 7]);
});

Deno.test("choices share the prompt's blocks and copy the one they both write to", () => {
  const scheduler = new Scheduler<Request>(limits);
  scheduler.add(request("pair", 6, { choices: 2 }));
  run(scheduler);
  const [first, second] = scheduler.running;
  assert.deepEqual(first!.blocks, second!.blocks);
  const [full, partial] = first!.blocks as [number, number];
  const step = scheduler.next()!;
  assert.deepEqual(step.copies, [{ from: partial, to: first!.blocks[1] }]);
  assert.equal(second!.blocks[1], partial, "the last holder writes in place");
  assert.equal(scheduler.pools[0]!.holders(full), 2);
  assert.notEqual(step.plan.slots[0], step.plan.slots[1]);
});

Deno.test("a request waits until there are blocks for its tokens, and others behind it wait too", () => {
  const scheduler = new Scheduler<Request>({ ...limits, blocks: 14 });
  const apart = (name: string, first: number) =>
    request(name, 20, { promptTokenIds: Array.from({ length: 20 }, (_, i) => first + i) });
  scheduler.add(apart("first", 0)); // 5 blocks and 1 for what it writes
  scheduler.add(apart("second", 20));
  scheduler.add(apart("third", 40)); // 13 blocks hold two
  scheduler.add(request("small", 1));
  run(scheduler);
  assert.deepEqual(names(scheduler.running), ["first", "second"]);
  assert.deepEqual(names(scheduler.waiting), ["third", "small"]);
  scheduler.remove(scheduler.running[0]!.request);
  run(scheduler);
  assert.deepEqual(names(scheduler.running), ["second", "third", "small"]);
});

Deno.test("a prompt finds the full blocks of those that began alike, running or ended", () => {
  const scheduler = new Scheduler<Request>(limits);
  scheduler.add(request("first", 10));
  run(scheduler);
  run(scheduler);
  const again = request("again", 11);
  scheduler.add(again);
  const { parts } = scheduler.next()!;
  assert.deepEqual(parts.map(({ begin, count }) => [begin, count]), [[10, 1], [8, 3]]);
  const [first, second] = scheduler.running;
  assert.deepEqual(second!.blocks.slice(0, 2), first!.blocks.slice(0, 2));
  assert.equal(scheduler.cachedTokens(again), 8);
  while (run(scheduler));
  // The last token's logits are wanted: it is computed even where its block is known.
  const whole = request("whole", 8);
  scheduler.add(whole);
  assert.deepEqual(scheduler.next()!.parts.map(({ begin, count }) => [begin, count]), [[4, 4]]);
  assert.deepEqual(
    [scheduler.counts.promptTokens, scheduler.counts.cachedPromptTokens],
    [29, 12],
  );
});

Deno.test("of several pools the one with the fewest sequences takes the next; known blocks decide a tie", () => {
  const scheduler = new Scheduler<Request>({ ...limits, blocks: 21 * 3, pools: 3 });
  const poolsOf = () => scheduler.running.map(({ pool, blocks }) => [pool, blocks[0]]);
  const begins = (first: number) => ({ promptTokenIds: [first, 1, 2, 3, 4] });
  const requests = ["a", "b", "c", "d"].map((name, i) => request(name, 5, begins(i)));
  for (const added of requests) scheduler.add(added);
  let step = scheduler.next()!;
  assert.deepEqual(poolsOf(), [[0, 1], [1, 22], [2, 43], [0, 3]]);
  for (let i = 0; i < 3; i++) {
    scheduler.commit(step);
    step = scheduler.next()!;
  }
  for (const added of requests) scheduler.remove(added);
  scheduler.add(request("again", 5, begins(2)));
  assert.equal(scheduler.next()!.parts[0]!.begin, 4);
  assert.deepEqual(poolsOf(), [[2, 43]]);
  assert.equal(scheduler.pools[0]!.available, 20);
});

Deno.test("with another salt, or turned off, nothing is found; logits that are wanted are computed", () => {
  const begins = (scheduler: Scheduler<Request>, added: Request) => {
    scheduler.add(request("first", 12, terms({ cacheSalt: "a" })));
    while (run(scheduler));
    scheduler.add(added);
    return scheduler.next()!.parts[0]!.begin;
  };
  const salted = terms({ cacheSalt: "a" });
  assert.equal(begins(new Scheduler(limits), request("same", 12, salted)), 8);
  assert.equal(begins(new Scheduler(limits), request("other", 12, terms({ cacheSalt: "b" }))), 0);
  assert.equal(begins(new Scheduler(limits), request("none", 12)), 0);
  const off = new Scheduler<Request>(limits, { enablePrefixCaching: false });
  assert.equal(begins(off, request("same", 12, salted)), 0);
  const scored = { ...salted, wantsLogits: (position: number) => position >= 6 };
  assert.equal(begins(new Scheduler(limits), request("scored", 12, scored)), 4);
});

Deno.test("blocks that were found last stay longest, and none outlives what it follows", () => {
  const scheduler = new Scheduler<Request>({ ...limits, blocks: 9 });
  const apart = (name: string, first: number) =>
    request(name, 12, {
      promptTokenIds: Array.from({ length: 12 }, (_, i) => first + i),
      maxNewTokens: 1,
    });
  const cached = (added: Request) => {
    scheduler.add(added);
    while (run(scheduler));
    return scheduler.cachedTokens(added);
  };
  assert.equal(cached(apart("a", 0)), 0);
  assert.equal(cached(apart("b", 50)), 0);
  assert.equal(cached(apart("a again", 0)), 8);
  // 8 blocks: 2 of them are free, "c" takes the third from the end of "b".
  assert.equal(cached(apart("c", 20)), 0);
  const found = (first: number) =>
    scheduler.pools[0]!.prefixes.find(apart("", first).promptTokenIds, "", 4, 3).length;
  assert.deepEqual([found(0), found(50), found(20)], [3, 2, 3]);
});

Deno.test("when blocks run out the last sequence makes room, and finds its blocks again", () => {
  const scheduler = new Scheduler<Request>({ ...limits, blocks: 8, contextLength: 28 });
  const long = (name: string, first: number) =>
    request(name, 8, {
      promptTokenIds: Array.from({ length: 8 }, (_, i) => first + i),
      maxNewTokens: 12,
    });
  scheduler.add(long("old", 0));
  scheduler.add(long("new", 50));
  const steps: string[] = [];
  for (let step = run(scheduler); step; step = run(scheduler)) {
    steps.push(
      step.parts.map(({ sequence, begin, count }) => `${sequence.request.name} ${begin}+${count}`)
        .join(),
    );
  }
  // 7 blocks: 4 for the old one at 13 tokens, 4 for the new one.
  const preempted = steps.findIndex((step) => !step.includes("new") && step.startsWith("old 1"));
  assert.deepEqual(steps.slice(preempted - 1, preempted + 1), ["old 11+1,new 11+1", "old 12+1"]);
  const back = steps.find((step, i) => i > preempted && step.includes("new"))!;
  assert.equal(back, "new 8+5", "its 2 first blocks are found again, the third is gone");
  assert.equal(scheduler.counts.preemptions, 1);
  assert.equal(scheduler.pools[0]!.available, scheduler.pools[0]!.capacity);
});

Deno.test("the lower number goes first: in the queue, and by making others wait", () => {
  const scheduler = new Scheduler<Request>(limits, { maxNumSeqs: 2 });
  const ranked = (name: string, priority: number) => request(name, 6, terms({ priority }));
  for (const [name, priority] of [["a", 5], ["b", 5], ["c", 5]] as const) {
    scheduler.add(ranked(name, priority));
  }
  run(scheduler);
  assert.deepEqual([names(scheduler.running), names(scheduler.waiting)], [["a", "b"], ["c"]]);
  scheduler.add(ranked("urgent", 0));
  run(scheduler);
  assert.deepEqual([names(scheduler.running), names(scheduler.waiting)], [["urgent", "a"], [
    "b",
    "c",
  ]]);
  assert.equal(scheduler.counts.preemptions, 1);
});

Deno.test("more choices than a step holds wait for their turn", () => {
  const scheduler = new Scheduler<Request>(limits, { maxNumSeqs: 2 });
  scheduler.add(request("many", 6, { choices: 5 }));
  run(scheduler);
  assert.equal(scheduler.running.length, 2);
  assert.deepEqual(scheduler.waiting.map(({ choice }) => choice), [2, 3, 4]);
  const ends: number[] = [];
  while (run(scheduler)) ends.push(scheduler.running.length + scheduler.waiting.length);
  assert.equal(ends.at(-1), 0);
  assert.equal(scheduler.pools[0]!.available, scheduler.pools[0]!.capacity);
});

Deno.test("as many wait as may, further ones are refused; the full model counts, not the burst", () => {
  const scheduler = new Scheduler<Request>(limits, { maxNumSeqs: 2, maxQueuedRequests: 1 });
  for (const name of ["a", "b", "c"]) scheduler.add(request(name, 2));
  const full = { name: "OverloadError", code: "queue_full", message: /3 wait already/ };
  assert.throws(() => scheduler.add(request("d", 2)), full);
  run(scheduler);
  assert.throws(() => scheduler.add(request("d", 2)), { code: "queue_full" });
  scheduler.remove(scheduler.waiting[0]!.request);
  scheduler.add(request("d", 2));
  const none = new Scheduler<Request>(limits, { maxNumSeqs: 1, maxQueuedRequests: 0 });
  none.add(request("a", 2));
  run(none);
  assert.throws(() => none.add(request("b", 2)), { code: "queue_full" });
});

Deno.test("requests whose time is over are named, waiting or running", () => {
  const scheduler = new Scheduler<Request>(limits, { maxNumSeqs: 1 });
  scheduler.add(request("a", 2, terms({ deadline: 10 })));
  scheduler.add(request("b", 2, terms({ deadline: 5 })));
  scheduler.add(request("c", 2));
  run(scheduler);
  assert.deepEqual(scheduler.expired(4).map(({ name }) => name), []);
  assert.deepEqual(scheduler.expired(5).map(({ name }) => name), ["b"]);
  assert.deepEqual(scheduler.expired(10).map(({ name }) => name), ["a", "b"]);
});

Deno.test("guesses take only what is left of a step, and never another's block", () => {
  const draft = (_: readonly number[], most: number) => Array.from({ length: most }, () => 7);
  const scheduler = new Scheduler<Request>({ ...limits, tokens: 6, blocks: 7 });
  scheduler.add(request("guessing", 3, { draft, maxNewTokens: 9 }));
  scheduler.add(request("plain", 3));
  const first = run(scheduler)!; // the prompts fill the step
  assert.deepEqual(first.parts.map(({ drafts }) => drafts.length), [0, 0]);
  const second = scheduler.next()!;
  assert.deepEqual(second.parts.map(({ drafts }) => drafts.length), [2, 0]);
  assert.deepEqual([...second.plan.logitRows], [0, 1, 2, 3], "4 rows are all there are");
  assert.deepEqual([...second.plan.contextLengths], [6, 4]);
  scheduler.commit(second);
  const [guessing] = scheduler.running as [Sequence<Request>];
  guessing.tokenIds.push(7);
  scheduler.accept(guessing); // the first guess was right
  guessing.tokenIds.push(8); // the second was not
  assert.deepEqual([guessing.cached, guessing.tokenIds.length], [5, 6]);
  assert.equal(scheduler.next()!.parts[0]!.begin, 5);
});

Deno.test("rows of logits are cut to the budget, a row for each running sequence", () => {
  const scheduler = new Scheduler<Request>(limits);
  const scored = { maxNewTokens: 0, wantsLogits: () => true };
  scheduler.add(request("scored", 9, scored));
  scheduler.add(request("written", 1));
  const rows: number[][] = [];
  for (let step = run(scheduler); step; step = run(scheduler)) {
    rows.push(step.parts.map(({ wanted }) => wanted.length));
    if (rows.length > 20) break;
  }
  assert.deepEqual(rows.slice(0, 3), [[3, 1], [3, 1], [3, 1]]);
});

Deno.test("what can never run is refused with the figures", () => {
  const scheduler = new Scheduler<Request>(limits);
  const refuses = (request: Request, code: string, message: RegExp) =>
    assert.throws(() => scheduler.add(request), (error: CapacityError) => {
      assert.equal(error.code, code);
      assert.match(error.message, message);
      return true;
    });
  refuses(request("prompt", 25), "context_length_exceeded", /it has 25 tokens, the context is 24/);
  const small = new Scheduler<Request>({ ...limits, blocks: 5 });
  assert.throws(() => small.add(request("wide", 15)), {
    code: "out_of_memory",
    message: /15 prompt tokens and up to 4 new ones need 20 tokens of cache, it holds 16/,
  });
});

Deno.test("the pool hands out every block but the scratch block, known ones last", () => {
  const pool = new BlockPool(4);
  assert.deepEqual([pool.allocate(), pool.allocate(), pool.allocate()], [1, 2, 3]);
  assert.throws(() => pool.allocate(), RangeError);
  pool.prefixes.add(2, undefined, "", [5, 6], 0, 2);
  pool.share(2);
  pool.release(2);
  assert.equal(pool.available, 0);
  pool.release(2);
  pool.release(3);
  assert.deepEqual([pool.free, [...pool.idle]], [[3], [2]]);
  assert.deepEqual(pool.prefixes.find([5, 6], "", 2, 1), [2]);
  assert.deepEqual([pool.allocate(), pool.allocate()], [3, 2]);
  assert.deepEqual(pool.prefixes.find([5, 6], "", 2, 1), []);
});
