/**
 * The model families that can be exported. Adding one means a file beside this one and a row here.
 * @module
 */
import { UnsupportedError } from "../../src/errors.ts";
import type { ModelConfig } from "../model_config.ts";
import type { DecoderBuilder } from "./decoder_builder.ts";
import { deepseek } from "./deepseek.ts";
import { deepseekV2 } from "./deepseek_v2.ts";
import { llama } from "./llama.ts";

/** How one family becomes a graph. */
export interface Architecture {
  /** Its name, kept in the package. */
  readonly name: string;
  /** The models it covers, for people. */
  readonly covers: string;
  /**
   * Whether a checkpoint is of this family.
   * @param config config.json.
   * @returns True if it is.
   */
  accepts(config: ModelConfig): boolean;
  /**
   * Builds the graph.
   * @param builder Takes the nodes, weights, inputs and outputs.
   */
  build(builder: DecoderBuilder): void;
}

/** Every family. */
export const architectures: readonly Architecture[] = [deepseekV2, deepseek, llama];

/**
 * The family of a checkpoint.
 *
 * @param config config.json.
 * @returns The family.
 * @throws {UnsupportedError} If none accepts it.
 */
export function architectureOf(config: ModelConfig): Architecture {
  const found = architectures.find((architecture) => architecture.accepts(config));
  if (found) return found;
  const type = JSON.stringify(config.raw("model_type") ?? null);
  const supported = architectures.map(({ name, covers }) => `${name} (${covers})`).join(", ");
  throw new UnsupportedError(
    `Cannot export ${config.path}: model_type ${type} is not supported, supported are ${supported}.`,
  );
}
