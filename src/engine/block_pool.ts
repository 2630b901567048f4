/**
 * The cache's blocks: who holds which, and how many are promised.
 * @module
 */

/** Blocks with reference counts. Block 0 is the backend's scratch block and is never handed out. */
export class BlockPool {
  readonly #references: Int32Array;
  /** Free blocks; the last one is handed out next. */
  readonly #free: number[];
  #reserved = 0;

  /** @param blocks How many the cache has, the scratch block included. */
  constructor(blocks: number) {
    this.#references = new Int32Array(blocks);
    this.#free = Array.from({ length: blocks - 1 }, (_, i) => blocks - 1 - i);
  }

  /** How many blocks sequences can hold in all. */
  get capacity(): number {
    return this.#references.length - 1;
  }

  /** How many nobody holds. */
  get free(): number {
    return this.#free.length;
  }

  /** How many are promised to admitted requests, held or not. */
  get reserved(): number {
    return this.#reserved;
  }

  /**
   * Promises blocks to a request, so that it can never run dry half-way.
   *
   * @param count How many it may hold at most.
   * @returns False, and nothing is promised, if there are not as many.
   */
  reserve(count: number): boolean {
    if (this.#reserved + count > this.capacity) return false;
    this.#reserved += count;
    return true;
  }

  /** Takes a promise back. @param count How many were promised. */
  unreserve(count: number): void {
    this.#reserved -= count;
  }

  /** Hands out a block. @returns Its number; the caller is its only holder. */
  allocate(): number {
    const block = this.#free.pop();
    if (block === undefined) throw new RangeError("no block is free: more were used than reserved");
    this.#references[block] = 1;
    return block;
  }

  /** Adds a holder. @param block A block in use. */
  share(block: number): void {
    this.#references[block]!++;
  }

  /** Drops a holder; with the last one the block is free. @param block A block in use. */
  release(block: number): void {
    if (--this.#references[block]! === 0) this.#free.push(block);
  }

  /** How many hold a block. @param block Its number. @returns 0 if it is free. */
  holders(block: number): number {
    return this.#references[block]!;
  }
}
