/**
 * The cache's blocks: who holds which, and which are kept for whoever comes with the same tokens.
 * @module
 */
import { PrefixIndex } from "./prefix_index.ts";

/**
 * Blocks with reference counts. A block that nobody holds is free, or idle if its contents are indexed:
 * idle ones are found again until they are handed out, those unused longest first. The first block is the
 * backend's scratch block and is never handed out.
 *
 * Whoever holds a block holds all before it, and lets go of the last one first; so a block is handed out
 * anew before those that it follows, and nothing that is indexed ever misses what stands before it.
 */
export class BlockPool {
  /** What the blocks hold, as far as it is known. */
  readonly prefixes: PrefixIndex = new PrefixIndex();
  readonly #first: number;
  readonly #references: Int32Array;
  /** Free blocks; the last one is handed out next. */
  readonly #free: number[];
  /** Idle blocks, the one unused longest first. */
  readonly #idle = new Set<number>();

  /**
   * @param blocks How many there are, the scratch block included.
   * @param first Number of the scratch block.
   */
  constructor(blocks: number, first = 0) {
    this.#first = first;
    this.#references = new Int32Array(blocks);
    this.#free = Array.from({ length: blocks - 1 }, (_, i) => first + blocks - 1 - i);
  }

  /** How many blocks sequences can hold in all. */
  get capacity(): number {
    return this.#references.length - 1;
  }

  /** Blocks without contents. */
  get free(): readonly number[] {
    return this.#free;
  }

  /** Blocks that nobody holds but whose contents are indexed, the next to give way first. */
  get idle(): ReadonlySet<number> {
    return this.#idle;
  }

  /** How many can be handed out. */
  get available(): number {
    return this.#free.length + this.#idle.size;
  }

  /** Hands out a block, see {@linkcode available}. @returns Its number; the caller is its only holder. */
  allocate(): number {
    let block = this.#free.pop();
    if (block === undefined) {
      const [oldest] = this.#idle;
      if (oldest === undefined) throw new RangeError("every block is held");
      this.#idle.delete(oldest);
      this.prefixes.remove(oldest);
      block = oldest;
    }
    this.#references[block - this.#first] = 1;
    return block;
  }

  /** Adds a holder. @param block A block that is held or idle. */
  share(block: number): void {
    if (this.#references[block - this.#first]!++ === 0) this.#idle.delete(block);
  }

  /** Drops a holder; with the last one the block is free or idle. @param block A block that is held. */
  release(block: number): void {
    if (--this.#references[block - this.#first]! > 0) return;
    if (this.prefixes.has(block)) this.#idle.add(block);
    else this.#free.push(block);
  }

  /** How many hold a block. @param block Its number. @returns 0 if it is free or idle. */
  holders(block: number): number {
    return this.#references[block - this.#first]!;
  }

  /** Whether a block may be written to. @param block A held one. @returns If nobody else reads it. */
  isWritable(block: number): boolean {
    return this.holders(block) === 1 && !this.prefixes.has(block);
  }
}
