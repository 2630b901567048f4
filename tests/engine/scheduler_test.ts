/**
 * The scheduler alone: what is in each step, which blocks it uses, and that none is lost.
 */
import { strict as assert } from "node:assert";
import fc from "fast-check";
import { checkStepPlan, type StepLimits } from "../../src/backend/step_plan.ts";
import { CapacityError } from "../../src/errors.ts";
import { BlockPool } from "../../src/engine/block_pool.ts";
import { type ScheduledStep, Scheduler } from "../../src/engine/scheduler.ts";
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

function request(name: string, prompt: number, more: Partial<Request> = {}): Request {
  return {
    name,
    promptTokenIds: Array.from({ length: prompt }, (_, i) => i % VOCAB),
    maxNewTokens: 4,
    choices: 1,
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
  assert.equal(scheduler.pool.free, scheduler.pool.capacity);
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
  assert.equal(scheduler.pool.holders(full), 2);
  assert.notEqual(step.plan.slots[0], step.plan.slots[1]);
});

Deno.test("a request waits until its blocks can be promised, and others behind it wait too", () => {
  const scheduler = new Scheduler<Request>(limits);
  scheduler.add(request("first", 20)); // 6 blocks
  scheduler.add(request("second", 20)); // 6
  scheduler.add(request("third", 20)); // 6: 20 blocks hold three
  scheduler.add(request("fourth", 20));
  run(scheduler);
  assert.equal(scheduler.running.length, 3);
  assert.deepEqual(scheduler.waiting.map(({ name }) => name), ["fourth"]);
  scheduler.remove(scheduler.running[0]!.request);
  run(scheduler);
  assert.deepEqual(scheduler.running.map(({ request }) => request.name), [
    "second",
    "third",
    "fourth",
  ]);
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
  const wide = request("wide", 20, { choices: 20 });
  refuses(
    wide,
    "out_of_memory",
    /20 prompt tokens and 20 × up to 4 new ones need 100 tokens of cache, it holds 80/,
  );
  refuses(
    request("many", 1, { choices: 5 }),
    "out_of_memory",
    /n is 5, a step of this model holds 4/,
  );
});

Deno.test("the pool hands out every block but the scratch block, and takes promises back", () => {
  const pool = new BlockPool(4);
  assert.deepEqual([pool.allocate(), pool.allocate(), pool.allocate()], [1, 2, 3]);
  assert.throws(() => pool.allocate(), RangeError);
  pool.share(2);
  pool.release(2);
  assert.equal(pool.free, 0);
  pool.release(2);
  assert.equal(pool.allocate(), 2);
  assert.equal(pool.reserve(3), true);
  assert.equal(pool.reserve(1), false);
  pool.unreserve(2);
  assert.equal(pool.reserve(2), true);
});

Deno.test("in any order of arrivals, ends and steps no block is lost, shared by mistake or written twice", () => {
  const arrival = fc.record({
    kind: fc.constant("add" as const),
    prompt: fc.integer({ min: 1, max: 24 }),
    choices: fc.integer({ min: 1, max: 4 }),
    maxNewTokens: fc.integer({ min: 0, max: 9 }),
    scored: fc.boolean(),
  });
  const end = fc.record({ kind: fc.constant("remove" as const), which: fc.nat() });
  const step = fc.record({ kind: fc.constant("step" as const) });
  fc.assert(
    fc.property(fc.array(fc.oneof(step, step, step, arrival, end), { maxLength: 60 }), (events) => {
      const scheduler = new Scheduler<Request>(limits);
      const live = new Set<Request>();
      for (const event of events) {
        if (event.kind === "add") {
          const { prompt, maxNewTokens, scored } = event;
          const choices = maxNewTokens === 0 ? 1 : event.choices;
          const added = request("", prompt, { choices, maxNewTokens, wantsLogits: () => scored });
          try {
            scheduler.add(added);
            live.add(added);
          } catch (error) {
            assert(error instanceof CapacityError);
          }
        } else if (event.kind === "remove") {
          const removed = [...live][event.which % Math.max(live.size, 1)];
          if (removed) scheduler.remove(removed);
        } else {
          const before = [...scheduler.running];
          const ran = run(scheduler);
          if (ran) {
            const inStep = new Set(ran.parts.map(({ sequence }) => sequence));
            assert(
              before.every((sequence) => inStep.has(sequence)),
              "a running sequence was left out",
            );
          }
        }
        checkInvariants(scheduler);
      }
      // Whatever is left ends by itself.
      for (let i = 0; run(scheduler); i++) assert(i < 1000, "it never ends");
      assert.equal(scheduler.waiting.length, 0);
      assert.equal(scheduler.pool.free, scheduler.pool.capacity);
      assert.equal(scheduler.pool.reserved, 0);
    }),
    { numRuns: 300, seed: 20261122 },
  );
});

function checkInvariants({ pool, running }: Scheduler<Request>) {
  const holders = new Map<number, number>();
  for (const { blocks, cached } of running) {
    assert.equal(new Set(blocks).size, blocks.length, "a sequence holds a block twice");
    assert(blocks.length * limits.blockSize >= cached, "tokens without a block");
    for (const block of blocks) holders.set(block, (holders.get(block) ?? 0) + 1);
  }
  assert(!holders.has(0), "the scratch block was handed out");
  for (const [block, count] of holders) assert.equal(pool.holders(block), count);
  assert.equal(pool.free + holders.size, pool.capacity, "a block was lost");
  assert(holders.size <= pool.reserved, "more blocks than were promised");
}
