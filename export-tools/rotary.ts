/**
 * Rotary position embedding: frequencies, YaRN (arXiv 2309.00071; DeepSeek-V2, section 3.1.4) and the
 * factor it puts on the softmax scale.
 * @module
 */
import { InvalidFileError } from "../src/errors.ts";
import type { Rows } from "./checkpoint.ts";
import type { ModelConfig } from "./model_config.ts";

/** Largest table, bytes: it is stored in one piece, in a file below 2 GiB. */
const MAX_TABLE_BYTES = 2 ** 31 - 1;

/** What a config says of rotary embedding. */
export interface Rotary {
  /** Cosines [positions, width/2], computed when they are read. */
  cos: Rows;
  /** Sines [positions, width/2], computed when they are read. */
  sin: Rows;
  /** How many positions. */
  positions: number;
  /** Factor of the softmax scale that `mscale_all_dim` asks for; 1 without YaRN. */
  softmaxFactor: number;
}

/**
 * Computes the tables. Configs come in two dialects: `rope_theta` and `rope_scaling` (hub), or
 * `rope_parameters` (written by transformers 5).
 *
 * @param config config.json.
 * @param width How many elements of a head rotate, even.
 * @returns Tables for `max_position_embeddings` positions, f32.
 * @throws {InvalidFileError} If the config asks for a scaling other than YaRN, or for more positions
 *   than a table can hold.
 */
export function rotary(config: ModelConfig, width: number): Rotary {
  const scaling = config.object("rope_parameters") ?? config.object("rope_scaling");
  const theta = scaling?.has("rope_theta")
    ? scaling.positive("rope_theta")
    : config.positive("rope_theta", 10000);
  const positions = config.integer("max_position_embeddings");
  const most = Math.floor(MAX_TABLE_BYTES / (width / 2 * Float32Array.BYTES_PER_ELEMENT));
  if (positions > most) {
    throw new InvalidFileError(
      config.path,
      `Cannot use ${config.path}: max_position_embeddings is ${positions}, needed is at most ${most}.`,
    );
  }
  const frequencies = Array.from({ length: width / 2 }, (_, i) => theta ** (-2 * i / width));
  let tableFactor = 1;
  let softmaxFactor = 1;
  const type = scaling?.string(scaling.has("rope_type") ? "rope_type" : "type", "default");
  if (scaling && type === "yarn") {
    const factor = scaling.positive("factor");
    const ramp = yarnRamp(config, scaling, theta, width);
    frequencies.forEach((frequency, i) => {
      frequencies[i] = frequency / factor * ramp[i]! + frequency * (1 - ramp[i]!);
    });
    const allDim = mscale(factor, scaling.number("mscale_all_dim", 0));
    tableFactor = scaling.number(
      "attention_factor",
      mscale(factor, scaling.number("mscale", 1)) / allDim,
    );
    softmaxFactor = allDim ** 2;
  } else if (scaling && type !== "default") {
    throw new InvalidFileError(
      scaling.path,
      `Cannot use ${scaling.path}: its type is ${
        JSON.stringify(type)
      }, supported are "yarn" and none.`,
    );
  }
  return { ...tables(frequencies, positions, tableFactor), positions, softmaxFactor };
}

/** 0 where a frequency stays, 1 where it is divided by the factor, between them a ramp. */
function yarnRamp(
  config: ModelConfig,
  scaling: ModelConfig,
  theta: number,
  width: number,
): number[] {
  const original = scaling.integer(
    "original_max_position_embeddings",
    config.integer("original_max_position_embeddings", config.integer("max_position_embeddings")),
  );
  const dimensionOf = (rotations: number) =>
    width * Math.log(original / (rotations * 2 * Math.PI)) / (2 * Math.log(theta));
  let low = dimensionOf(scaling.positive("beta_fast", 32));
  let high = dimensionOf(scaling.positive("beta_slow", 1));
  if (scaling.boolean("truncate", true)) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, width - 1);
  if (low === high) high += 0.001; // as in DeepSeek's code: no division by 0
  return Array.from(
    { length: width / 2 },
    (_, i) => Math.min(Math.max((i - low) / (high - low), 0), 1),
  );
}

/** YaRN's attention temperature: 0.1 m ln s + 1, and 1 where nothing is scaled. */
function mscale(factor: number, weight: number): number {
  return factor > 1 ? 0.1 * weight * Math.log(factor) + 1 : 1;
}

/**
 * Angles are f32 frequency times f32 position rounded to f32, as in transformers: f64 angles would
 * differ by up to 5e-3 at position 160,000.
 */
function tables(
  frequencies: number[],
  positions: number,
  factor: number,
): { cos: Rows; sin: Rows } {
  const columns = frequencies.length;
  const rounded = Float32Array.from(frequencies);
  const table = (wave: (angle: number) => number): Rows => ({
    rows: positions,
    columns,
    read(begin, end) {
      const values = new Float32Array((end - begin) * columns);
      for (let position = begin, at = 0; position < end; position++) {
        for (let i = 0; i < columns; i++, at++) {
          values[at] = wave(Math.fround(rounded[i]! * position)) * factor;
        }
      }
      return Promise.resolve(values);
    },
  });
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
