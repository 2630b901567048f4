/**
 * A pool of standard normal numbers that matrices are cut from: drawing every weight of a large model by
 * itself would take an hour.
 * @module
 */

/** Numbers in the pool. Matrices repeat it, but at another place for each piece of each row. */
export const POOL_ELEMENTS: number = 2 ** 20;
/** Rows are cut in pieces of at most so many elements, a multiple of every format's block. */
export const PIECE_ELEMENTS = 512;
/** Pieces begin at multiples of this, a block of the quantized formats. */
export const PIECE_ALIGNMENT = 32;

/** Uniform numbers below 1 (mulberry32): the same in every runtime. */
export class Uniform {
  #state: number;

  /** @param seed Any whole number of 32 bits. */
  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** The next number. @returns 0 to below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A place in the pool where a piece can begin. @param length Its elements. @returns The place. */
  place(length: number): number {
    const places = (POOL_ELEMENTS - length) / PIECE_ALIGNMENT;
    return Math.floor(this.next() * places) * PIECE_ALIGNMENT;
  }
}

/** Pieces of a row. @param columns Its elements. @returns Begin and length of each. */
export function pieces(columns: number): { begin: number; length: number }[] {
  const list = [];
  for (let begin = 0; begin < columns; begin += PIECE_ELEMENTS) {
    list.push({ begin, length: Math.min(PIECE_ELEMENTS, columns - begin) });
  }
  return list;
}

/** Draws the pool. @param seed Its seed. @returns Standard normal numbers, by Box and Muller's way. */
export function normalPool(seed: number): Float32Array {
  const uniform = new Uniform(seed);
  const pool = new Float32Array(POOL_ELEMENTS);
  for (let i = 0; i < POOL_ELEMENTS; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform.next()));
    const angle = 2 * Math.PI * uniform.next();
    pool[i] = radius * Math.cos(angle);
    pool[i + 1] = radius * Math.sin(angle);
  }
  return pool;
}

/** A seed of a name. @param name Of a tensor. @param seed Of the model. @returns 32 bits (FNV-1a). */
export function seedOf(name: string, seed: number): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash;
}
