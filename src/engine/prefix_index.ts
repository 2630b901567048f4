/**
 * Which blocks of the cache hold which tokens, so that a prompt finds the part of it that is computed.
 * @module
 */

/**
 * A full block whose contents are known, or the root of all prompts with one salt. A node's place in the
 * tree spells out every token before it: two prefixes can not be taken for one another.
 */
export interface PrefixNode {
  /** The block; 0 for a root. */
  readonly block: number;
  /** What stands before it; `undefined` for a root. */
  readonly parent: PrefixNode | undefined;
  /** Its tokens, joined by commas; the salt for a root. */
  readonly key: string;
  /** What may follow, by key. */
  readonly children: Map<string, PrefixNode>;
}

/** A tree of full blocks for each salt. */
export class PrefixIndex {
  readonly #roots = new Map<string, PrefixNode>();
  readonly #nodes = new Map<number, PrefixNode>();

  /** All blocks that are indexed. */
  get nodes(): Iterable<PrefixNode> {
    return this.#nodes.values();
  }

  /** Whether a block's contents are known. @param block Its number. @returns True if so. */
  has(block: number): boolean {
    return this.#nodes.has(block);
  }

  /**
   * The blocks that hold the beginning of a sequence.
   *
   * @param tokenIds The sequence.
   * @param salt Only blocks that were added with the same one are found.
   * @param blockSize Tokens of a block.
   * @param most How many blocks at most.
   * @returns The blocks, in order.
   */
  find(tokenIds: readonly number[], salt: string, blockSize: number, most: number): number[] {
    const blocks: number[] = [];
    let node = this.#roots.get(salt);
    while (node && blocks.length < most) {
      const begin = blocks.length * blockSize;
      node = node.children.get(keyOf(tokenIds, begin, begin + blockSize));
      if (node) blocks.push(node.block);
    }
    return blocks;
  }

  /**
   * Takes note of what a block holds, unless another holds the same.
   *
   * @param block The block.
   * @param before The block before it, indexed; `undefined` for the first.
   * @param salt Of the sequence.
   * @param tokenIds The sequence.
   * @param begin Position of the block's first token.
   * @param end Behind its last.
   * @returns The block that is indexed: this one, or the other with the same contents.
   */
  add(
    block: number,
    before: number | undefined,
    salt: string,
    tokenIds: readonly number[],
    begin: number,
    end: number,
  ): number {
    const parent = before === undefined ? this.#root(salt) : this.#nodes.get(before)!;
    const key = keyOf(tokenIds, begin, end);
    const known = parent.children.get(key);
    if (known) return known.block;
    const node: PrefixNode = { block, parent, key, children: new Map() };
    parent.children.set(key, node);
    this.#nodes.set(block, node);
    return block;
  }

  /** Forgets a block that none follows. @param block Its number. */
  remove(block: number): void {
    const { parent, key } = this.#nodes.get(block)!;
    this.#nodes.delete(block);
    parent!.children.delete(key);
    if (!parent!.parent && parent!.children.size === 0) this.#roots.delete(parent!.key);
  }

  #root(salt: string): PrefixNode {
    let root = this.#roots.get(salt);
    if (!root) {
      root = { block: 0, parent: undefined, key: salt, children: new Map() };
      this.#roots.set(salt, root);
    }
    return root;
  }
}

function keyOf(tokenIds: readonly number[], begin: number, end: number): string {
  return tokenIds.slice(begin, end).join();
}
