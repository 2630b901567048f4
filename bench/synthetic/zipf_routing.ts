/**
 * Routers that choose as trained ones may: some experts often, most of them rarely.
 * @module
 */
import type { CheckpointTensors, Rows } from "../../export-tools/checkpoint.ts";
import type { ModelConfig } from "../../export-tools/model_config.ts";
import { spreadOf } from "./random_checkpoint.ts";
import { seedOf, Uniform } from "./random_pool.ts";

/** Standard deviation of a token's embedding: what layers add is small beside it. */
const EMBEDDING_SPREAD = 4;
/** The first element of every token's embedding, in standard deviations. */
const CONSTANT = 8;
/** Standard deviation of the noise: that of Gumbel's distribution, with which choices were in proportion. */
const NOISE = Math.PI / Math.sqrt(6);

/**
 * A random checkpoint with routers after Zipf's law: an expert's score is the logarithm of
 * rank ** -exponent, and noise. Ranks differ from layer to layer. Every hidden state has nearly the same
 * first element, by which routers prefer; the rest of it, which is mostly the token's own embedding, is the
 * noise.
 */
export class ZipfRouting implements CheckpointTensors {
  /** For messages. */
  readonly folder: string;
  /** The shape. */
  readonly config: ModelConfig;
  readonly #random: CheckpointTensors;
  readonly #exponent: number;

  /**
   * @param random Everything else.
   * @param exponent Of the law, 0 or more.
   */
  constructor(random: CheckpointTensors, exponent: number) {
    this.folder = random.folder;
    this.config = random.config;
    this.#random = random;
    this.#exponent = exponent;
  }

  /** See {@linkcode CheckpointTensors.names}. */
  names(): Iterable<string> {
    return this.#random.names();
  }

  /** See {@linkcode CheckpointTensors.rows}. */
  rows(name: string, shape: number[]): Rows {
    const rows = this.#random.rows(name, shape);
    if (name === "model.embed_tokens.weight") {
      const factor = EMBEDDING_SPREAD / spreadOf(rows.columns);
      return changed(rows, factor, () => EMBEDDING_SPREAD * CONSTANT);
    }
    if (!name.endsWith(".mlp.gate.weight")) return rows;
    const ranks = shuffled(rows.rows, seedOf(name, 0));
    return changed(rows, NOISE, (row) => -this.#exponent * Math.log(ranks[row]! + 1) / CONSTANT);
  }
}

/** Rows times a factor, and with other first elements. */
function changed(rows: Rows, factor: number, first: (row: number) => number): Rows {
  const { columns } = rows;
  const read = async (begin: number, end: number) => {
    const values = (await rows.read(begin, end)).map((value) => value * factor);
    for (let row = begin; row < end; row++) values[(row - begin) * columns] = first(row);
    return values;
  };
  return { ...rows, read };
}

/** The numbers below a count in random order. */
function shuffled(count: number, seed: number): number[] {
  const uniform = new Uniform(seed);
  const keyed = Array.from({ length: count }, (_, value) => ({ value, key: uniform.next() }));
  return keyed.sort((a, b) => a.key - b.key).map(({ value }) => value);
}
