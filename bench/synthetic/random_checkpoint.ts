/**
 * A checkpoint that lies nowhere: its tensors are random and have whatever name and shape the graph asks
 * for.
 * @module
 */
import type { CheckpointTensors, Rows } from "../../export-tools/checkpoint.ts";
import { ModelConfig } from "../../export-tools/model_config.ts";
import { pieces, seedOf, Uniform } from "./random_pool.ts";
import type { ShapeConfig } from "./shapes.ts";

/** Spread of the weights of norms around 1. */
const NORM_SPREAD = 0.05;

/**
 * Standard deviation of a matrix: outputs are about as large as inputs, so that logits stay finite.
 *
 * @param columns Elements of a row.
 * @returns It.
 */
export function spreadOf(columns: number): number {
  return columns ** -0.5;
}

/** Random tensors of any name. */
export class RandomCheckpoint implements CheckpointTensors {
  /** For messages. */
  readonly folder = "a random model";
  /** The shape. */
  readonly config: ModelConfig;
  readonly #pool: Float32Array;
  readonly #seed: number;

  /**
   * @param config The shape.
   * @param pool Normal numbers.
   * @param seed Of the model.
   */
  constructor(config: ShapeConfig, pool: Float32Array, seed: number) {
    this.config = new ModelConfig("config.json of a random model", config);
    this.#pool = pool;
    this.#seed = seed;
  }

  /** None: there is no tensor that a graph could leave out. */
  names(): Iterable<string> {
    return [];
  }

  /** See {@linkcode CheckpointTensors.rows}. */
  rows(name: string, shape: number[]): Rows {
    const columns = shape.at(-1)!;
    const isNorm = shape.length === 1;
    return {
      rows: shape.slice(0, -1).reduce((product, size) => product * size, 1),
      columns,
      read: (begin, end) => Promise.resolve(this.#draw(name, begin, end, columns, isNorm)),
    };
  }

  #draw(name: string, begin: number, end: number, columns: number, isNorm: boolean): Float32Array {
    const values = new Float32Array((end - begin) * columns);
    const [mean, spread] = isNorm ? [1, NORM_SPREAD] : [0, spreadOf(columns)];
    for (let row = begin; row < end; row++) {
      const uniform = new Uniform(seedOf(name, this.#seed) + row);
      for (const piece of pieces(columns)) {
        const from = uniform.place(piece.length);
        const to = (row - begin) * columns + piece.begin;
        for (let i = 0; i < piece.length; i++) {
          values[to + i] = mean + spread * this.#pool[from + i]!;
        }
      }
    }
    return values;
  }
}
