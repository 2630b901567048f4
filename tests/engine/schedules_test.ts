/**
 * Random schedules on a scripted model: whatever comes, ends, forks, waits too long or makes room, in
 * whatever order, the invariants hold after every event and every request gets what it would get alone.
 */
import { strict as assert } from "node:assert";
import fc from "fast-check";
import { checkStepPlan, type StepLimits } from "../../src/backend/step_plan.ts";
import { lookUp } from "../../src/engine/prompt_lookup.ts";
import { Scheduler } from "../../src/engine/scheduler.ts";
import type { ScheduledRequest, Sequence } from "../../src/engine/sequence.ts";
import { CapacityError, OverloadError } from "../../src/errors.ts";
import { checkInvariants, RememberingCache } from "./scheduler_invariants.ts";

/** Few tokens, so that prompts begin alike, choices agree and guesses are right now and then. */
const VOCAB = 3;

/** What a scripted model says next: a function of all tokens before, and of the choice. */
function nextToken(tokenIds: readonly number[], choice: number): number {
  const hash = tokenIds.reduce((sum, token) => Math.imul(sum, 31) + token + 1, 7 + (choice >> 1));
  return (hash >>> 3) % VOCAB;
}

const setups = fc.record({
  blockSize: fc.integer({ min: 1, max: 4 }),
  /** Blocks beyond those of one whole context. */
  spareBlocks: fc.integer({ min: 0, max: 12 }),
  contextLength: fc.integer({ min: 8, max: 40 }),
  tokens: fc.integer({ min: 2, max: 12 }),
  logitRows: fc.integer({ min: 2, max: 8 }),
  maxNumSeqs: fc.integer({ min: 1, max: 6 }),
  maxQueuedRequests: fc.constantFrom(undefined, 0, 3),
  enablePrefixCaching: fc.boolean(),
  numTokens: fc.constantFrom(0, 3),
  pools: fc.constantFrom(1, 1, 3),
});

const arrivals = fc.record({
  kind: fc.constant("add" as const),
  /** Begins a prompt that others share. */
  shared: fc.integer({ min: 0, max: 20 }),
  own: fc.array(fc.nat(VOCAB - 1), { minLength: 1, maxLength: 8 }),
  choices: fc.constantFrom(1, 1, 2, 5),
  maxNewTokens: fc.integer({ min: 0, max: 9 }),
  /** Every how many prompt positions logits are wanted; 0 for none. */
  scored: fc.constantFrom(0, 0, 1, 3),
  priority: fc.constantFrom(0, 0, -1, 2),
  cacheSalt: fc.constantFrom("", "", "a"),
  timeout: fc.constantFrom(Infinity, Infinity, 5, 30),
});
const events = fc.array(
  fc.oneof(
    { weight: 5, arbitrary: fc.constant({ kind: "step" as const, removed: undefined }) },
    /** Somebody gives up while the step runs. */
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("step" as const), removed: fc.nat() }) },
    { weight: 3, arbitrary: arrivals },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("remove" as const), which: fc.nat() }) },
  ),
  { minLength: 20, maxLength: 80, size: "max" },
);

/** A request of the scripted model: what it got so far. */
interface Request extends ScheduledRequest {
  outputs: number[][];
  /** Prompt positions whose logits were handed over. */
  scored: number[];
}

/** Runs events; its methods are what the engine does between steps. */
class Run {
  readonly scheduler: Scheduler<Request>;
  readonly live = new Set<Request>();
  ended = 0;
  readonly #limits: StepLimits;
  readonly #lookup: { numTokens: number; ngramMin: number; ngramMax: number };
  readonly #cache: RememberingCache;
  #clock = 0;

  constructor(
    { spareBlocks, numTokens, pools, ...setup }: Parameters<Parameters<typeof setups.map>[0]>[0],
  ) {
    const { blockSize, contextLength, tokens, logitRows } = setup;
    const blocks = pools * (1 + Math.ceil(contextLength / blockSize) + spareBlocks);
    this.#limits = { tokens, sequences: 8, logitRows, contextLength, blocks, blockSize, pools };
    this.#lookup = { numTokens, ngramMin: 1, ngramMax: 3 };
    this.#cache = new RememberingCache(blocks, blockSize);
    this.scheduler = new Scheduler(this.#limits, setup);
  }

  add({ shared, own, ...arrival }: Parameters<Parameters<typeof arrivals.map>[0]>[0]) {
    const { maxNewTokens, scored, priority, cacheSalt, timeout } = arrival;
    const prompt = [...Array.from({ length: shared }, (_, i) => (i * i) % VOCAB), ...own];
    const choices = maxNewTokens === 0 ? 1 : arrival.choices;
    const request: Request = {
      promptTokenIds: prompt,
      maxNewTokens,
      choices,
      terms: { priority, cacheSalt, deadline: this.#clock + timeout },
      wantsLogits: (position) =>
        scored > 0 && position < prompt.length - 1 && position % scored === 0,
      draft: (tokenIds, most) =>
        this.#lookup.numTokens === 0 ? [] : lookUp(tokenIds, most, this.#lookup),
      outputs: Array.from({ length: choices }, () => []),
      scored: [],
    };
    try {
      this.scheduler.add(request);
      this.live.add(request);
    } catch (error) {
      assert(error instanceof CapacityError || error instanceof OverloadError, String(error));
    }
  }

  remove(which: number) {
    const request = [...this.live][which % Math.max(this.live.size, 1)];
    if (request) this.#end(request);
  }

  /** Runs a step. @param removed Which request ends meanwhile. @returns False if there was none. */
  step(removed?: number): boolean {
    this.#clock++;
    for (const request of this.scheduler.expired(this.#clock)) this.#end(request);
    const before = this.scheduler.running.length;
    const preemptions = this.scheduler.counts.preemptions;
    const step = this.scheduler.next();
    if (!step) return false;
    const { plan, parts, copies } = step;
    checkStepPlan(plan, this.#limits, VOCAB);
    const inStep = new Set(parts.map(({ sequence }) => sequence));
    assert(this.scheduler.running.every((sequence) => inStep.has(sequence)), "one was left out");
    if (this.scheduler.counts.preemptions === preemptions) assert(parts.length >= before);
    assert(parts.every(({ count }) => count > 0));
    this.#cache.copy(copies);
    this.#cache.run(plan, parts.map(({ sequence, drafts }) => [...sequence.tokenIds, ...drafts]));
    if (removed !== undefined) this.remove(removed);
    this.scheduler.commit(step);
    for (const { sequence, begin, count, drafts, wanted } of parts) {
      if (sequence.state === "ended") continue;
      for (const position of wanted) {
        if (position < sequence.request.promptTokenIds.length - 1) {
          sequence.request.scored.push(position);
          continue;
        }
        this.#extend(sequence);
        const guess = drafts[position + 1 - begin - count];
        if (sequence.state !== "running" || sequence.tokenIds[position + 1] !== guess) break;
        this.scheduler.accept(sequence);
      }
      const { request } = sequence;
      if (request.maxNewTokens === 0 && sequence.cached === sequence.tokenIds.length) {
        this.#finish(sequence);
      }
    }
    return true;
  }

  check() {
    const snapshot = this.scheduler.snapshot();
    checkInvariants(snapshot);
    this.#cache.checkIndex(snapshot);
  }

  #extend(sequence: Sequence<Request>) {
    const group = [sequence];
    if (sequence.generated === 0) {
      for (let choice = 1; choice < sequence.request.choices; choice++) {
        group.push(this.scheduler.fork(sequence, choice));
      }
    }
    for (const member of group) {
      const { tokenIds, choice, request } = member;
      tokenIds.push(nextToken(tokenIds, choice));
      request.outputs[choice]!.push(tokenIds.at(-1)!);
      const full = tokenIds.length >= this.#limits.contextLength;
      if (full || member.generated >= request.maxNewTokens) this.#finish(member);
    }
  }

  #finish(sequence: Sequence<Request>) {
    const { request, choice } = sequence;
    this.scheduler.finish(sequence);
    const { promptTokenIds, maxNewTokens, outputs, scored, wantsLogits } = request;
    const room = this.#limits.contextLength - promptTokenIds.length;
    const want = [...promptTokenIds];
    // A context that is full still yields the token behind it.
    const tokens = maxNewTokens === 0 ? 0 : Math.max(1, Math.min(maxNewTokens, room));
    for (let i = 0; i < tokens; i++) want.push(nextToken(want, choice));
    assert.deepEqual(outputs[choice], want.slice(promptTokenIds.length), "not what it gets alone");
    const positions = promptTokenIds.map((_, i) => i).filter(wantsLogits);
    assert.deepEqual(scored, positions, "logits were not handed over once each, in order");
    const others = [...this.scheduler.running, ...this.scheduler.waiting];
    if (others.some((other) => other.request === request)) return;
    this.live.delete(request);
    this.ended++;
  }

  #end(request: Request) {
    this.scheduler.remove(request);
    this.live.delete(request);
  }
}

Deno.test("in random schedules the invariants hold after every event, and all get what they get alone", () => {
  const seen = { runs: 0, steps: 0, ended: 0, preemptions: 0, found: 0, accepted: 0 };
  fc.assert(
    fc.property(setups, events, (setup, events) => {
      const run = new Run(setup);
      const step = (removed?: number) => {
        const ran = run.step(removed);
        if (ran) seen.steps++;
        run.check();
        return ran;
      };
      for (const event of events) {
        if (event.kind === "add") run.add(event);
        else if (event.kind === "remove") run.remove(event.which);
        else step(event.removed);
        run.check();
      }
      // Whatever is left ends by itself.
      for (let i = 0; step(); i++) assert(i < 2000, "it never ends");
      assert.equal(run.live.size, 0, "a request was forgotten");
      for (const pool of run.scheduler.pools) assert.equal(pool.available, pool.capacity);
      const { preemptions, cachedPromptTokens, acceptedTokens } = run.scheduler.counts;
      seen.runs++;
      seen.ended += run.ended;
      seen.preemptions += preemptions;
      seen.found += cachedPromptTokens;
      seen.accepted += acceptedTokens;
    }),
    { numRuns: 2000, seed: 20261124 },
  );
  // The schedules do meet what they are meant to meet.
  console.log(seen);
  const { ended, preemptions, found, accepted } = seen;
  assert(Math.min(ended, preemptions, found, accepted) > 1000);
});
