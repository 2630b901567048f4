/**
 * Writing a package of random weights by the exporter's own graph, formats and layout.
 * @module
 */
import { DecoderBuilder } from "../../export-tools/architectures/decoder_builder.ts";
import { architectureOf } from "../../export-tools/architectures/registry.ts";
import type { Weights } from "../../export-tools/quantization/recipe.ts";
import {
  checkTarget,
  type ExportProgress,
  MAX_FILE_BYTES,
  writePackage,
  type WrittenPackage,
} from "../../export-tools/write_package.ts";
import { QuantizedPool } from "./pooled_format.ts";
import { RandomCheckpoint } from "./random_checkpoint.ts";
import { normalPool } from "./random_pool.ts";
import type { ShapeConfig } from "./shapes.ts";
import { ZipfRouting } from "./zipf_routing.ts";

/** Options of {@linkcode writeRandomPackage}. */
export interface RandomPackageOptions {
  /** Storage of the weights; `int4` by default. */
  weights?: Weights;
  /** Same seed, same bytes; 1 by default. */
  seed?: number;
  /** Exponent of the law by which routers choose; evenly by default. */
  zipf?: number;
  /** Replace a package that is there already. */
  overwrite?: boolean;
  /** Told of every piece. */
  onProgress?: (progress: ExportProgress) => void;
}

/**
 * Writes a package.
 *
 * @param config The shape.
 * @param folder The folder to be made.
 * @param options Storage, seed.
 * @returns What was written.
 */
export async function writeRandomPackage(
  config: ShapeConfig,
  folder: string,
  options: RandomPackageOptions = {},
): Promise<WrittenPackage> {
  const { weights = "int4", seed = 1, zipf, overwrite = false, onProgress } = options;
  await checkTarget(folder, overwrite);
  const pool = normalPool(seed);
  const random = new RandomCheckpoint(config, pool, seed);
  const checkpoint = zipf === undefined ? random : new ZipfRouting(random, zipf);
  const architecture = architectureOf(checkpoint.config);
  const builder = new DecoderBuilder(checkpoint, { weights, maxTensorBytes: MAX_FILE_BYTES });
  architecture.build(builder);
  const quantized = new QuantizedPool(pool, seed);
  for (const matrix of builder.weights.matrices) quantized.replace(matrix);
  const json = new TextEncoder().encode(JSON.stringify(config, null, 2) + "\n");
  return await writePackage(folder, {
    builder,
    metadata: { architecture: architecture.name, weights },
    companions: new Map([["config.json", json]]),
  }, { overwrite, onProgress });
}
