/**
 * The contract of a model family that can be exported.
 * @module
 */
import type { ModelConfig } from "../model_config.ts";
import type { DecoderBuilder } from "./decoder_builder.ts";

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
