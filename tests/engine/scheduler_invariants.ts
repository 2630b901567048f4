/**
 * What must hold of a scheduler after every event, checked on its snapshot; and a cache that remembers which
 * tokens its rows were computed from, so that a step that reads wrong rows is found out.
 * @module
 */
import { strict as assert } from "node:assert";
import type { BlockCopies } from "../../src/backend/backend.ts";
import type { StepPlan } from "../../src/backend/step_plan.ts";
import type { SchedulerSnapshot } from "../../src/engine/scheduler.ts";

/**
 * Checks a snapshot.
 *
 * @param snapshot It.
 */
export function checkInvariants(snapshot: SchedulerSnapshot): void {
  const { blockSize, pools, holders, free, idle, indexed, sequences } = snapshot;
  const perPool = holders.length / pools;
  const poolOf = (block: number) => Math.floor(block / perPool);
  const counted = new Array<number>(holders.length).fill(0);
  for (const { state, blocks, cached, tokenIds } of sequences) {
    assert.notEqual(state, "ended", "an ended sequence is kept");
    if (state === "waiting") assert.equal(blocks.length + cached, 0, "one that waits holds blocks");
    assert.equal(new Set(blocks).size, blocks.length, "a sequence holds a block twice");
    assert(cached <= tokenIds.length, "more cached than known");
    assert(blocks.length * blockSize >= cached, "cached tokens without a block");
    for (const block of blocks) {
      counted[block]!++;
      assert.equal(poolOf(block), poolOf(blocks[0]!), "a sequence's blocks are of two pools");
    }
  }
  assert.deepEqual(holders, counted, "reference counts are not the holders");

  const byBlock = new Map(indexed.map((node) => [node.block, node]));
  assert.equal(byBlock.size, indexed.length, "a block is indexed twice");
  const [freeSet, idleSet] = [new Set(free), new Set(idle)];
  assert.equal(freeSet.size, free.length, "a block is free twice");
  for (let block = 0; block < holders.length; block++) {
    if (block % perPool === 0) {
      assert.equal(counted[block], 0, "a scratch block was handed out");
      continue;
    }
    const states = [counted[block]! > 0, freeSet.has(block), idleSet.has(block)];
    assert.equal(states.filter(Boolean).length, 1, `block ${block} is lost or in two places`);
    if (freeSet.has(block)) assert(!byBlock.has(block), "a free block is indexed");
    if (idleSet.has(block)) assert(byBlock.has(block), "an idle block is not indexed");
  }
  const contents = new Set<string>();
  for (const { block, before, salt, tokenIds } of indexed) {
    assert.equal(tokenIds.length, blockSize, "an indexed block is not full");
    if (before !== 0) {
      assert.equal(byBlock.get(before)?.salt, salt, "what stands before an indexed block is not");
    }
    const key = `${poolOf(block)}|${before}|${salt}|${tokenIds}`;
    assert(!contents.has(key), "two blocks are indexed with the same contents");
    contents.add(key);
  }
  // Whatever gives way first is followed by nothing that stays.
  const place = new Map(idle.map((block, i) => [block, i]));
  for (const { block, before } of indexed) {
    if (!place.has(before)) continue;
    assert(place.has(block), "a held block follows an idle one");
    assert(place.get(block)! < place.get(before)!, "a block gives way before what follows it");
  }
  // The indexed blocks of a sequence spell its tokens.
  for (const { blocks, tokenIds, cached, salt } of sequences) {
    const full = blocks.slice(0, Math.floor(cached / blockSize));
    for (const [i, block] of full.entries()) {
      const node = byBlock.get(block);
      if (!node) continue;
      assert.deepEqual(node.tokenIds, tokenIds.slice(i * blockSize, (i + 1) * blockSize));
      assert.equal(node.before, blocks[i - 1] ?? 0);
      assert.equal(node.salt, salt, "a block is shared with another salt");
    }
  }
}

/**
 * A cache whose rows remember the tokens that they were computed from: each row holds the number of its
 * prefix, which stands for all tokens up to it.
 */
export class RememberingCache {
  readonly #blockSize: number;
  readonly #rows: Int32Array;
  /** Number of each prefix, by the number of the one before and the token; 0 is the empty one. */
  readonly #numbers = new Map<string, number>();

  /**
   * @param blocks How many.
   * @param blockSize Tokens of a block.
   */
  constructor(blocks: number, blockSize: number) {
    this.#blockSize = blockSize;
    this.#rows = new Int32Array(blocks * blockSize).fill(-1);
  }

  /** The number of some tokens behind others. @param tokenIds They. @param before Of the others. */
  numberOf(tokenIds: Iterable<number>, before = 0): number {
    for (const token of tokenIds) {
      const key = `${before} ${token}`;
      before = this.#numbers.get(key) ?? this.#numbers.size + 1;
      this.#numbers.set(key, before);
    }
    return before;
  }

  /** Copies blocks. @param copies From and to, in order. */
  copy(copies: BlockCopies): void {
    const size = this.#blockSize;
    for (const { from, to } of copies) {
      this.#rows.copyWithin(to * size, from * size, (from + 1) * size);
    }
  }

  /**
   * Runs a step as a model would: writes all rows, then reads those of each context.
   *
   * @param plan The step.
   * @param tokensOf All tokens of each sequence, those of this step included.
   */
  run(plan: StepPlan, tokensOf: readonly (readonly number[])[]): void {
    const { tokenIds, positions, slots, queryStarts, contextLengths, blockTables } = plan;
    assert.equal(new Set(slots).size, slots.length, "a slot is written twice in a step");
    const width = blockTables.length / contextLengths.length;
    const size = this.#blockSize;
    for (const [row, slot] of slots.entries()) {
      const b = queryStarts.findIndex((start) => start > row) - 1;
      const before = tokensOf[b]!.slice(0, positions[row]!);
      this.#rows[slot] = this.numberOf([...before, tokenIds[row]!]);
    }
    for (const [b, context] of contextLengths.entries()) {
      let number = 0;
      for (const [position, token] of tokensOf[b]!.slice(0, context).entries()) {
        number = this.numberOf([token], number);
        const block = blockTables[b * width + Math.floor(position / size)]!;
        const row = this.#rows[block * size + position % size];
        assert.equal(row, number, `sequence ${b} reads a wrong row at position ${position}`);
      }
    }
  }

  /** Checks that indexed blocks hold what the index says. @param snapshot Of the scheduler. */
  checkIndex({ indexed, blockSize }: SchedulerSnapshot): void {
    for (const { block, before, tokenIds } of indexed) {
      let number = before === 0 ? 0 : this.#rows[(before + 1) * blockSize - 1]!;
      for (const [i, token] of tokenIds.entries()) {
        number = this.numberOf([token], number);
        assert.equal(
          this.#rows[block * blockSize + i],
          number,
          `block ${block} holds other tokens`,
        );
      }
    }
  }
}
