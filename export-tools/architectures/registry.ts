/**
 * The model families that can be exported. Adding one means a file beside this one and a row here.
 * @module
 */
import { UnsupportedError } from "../../src/errors.ts";
import type { ModelConfig } from "../model_config.ts";
import type { Architecture } from "./architecture.ts";
import { deepseek } from "./deepseek.ts";
import { deepseekV2 } from "./deepseek_v2.ts";
import { llama } from "./llama.ts";

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
