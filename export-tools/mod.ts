/**
 * Export: Hugging Face checkpoints become packages that every backend opens. Needs a file system: Deno, Node
 * or Bun.
 * @module
 */
export * from "../src/errors.ts";
export {
  exportCheckpoint,
  type ExportOptions,
  type ExportProgress,
  type ExportResult,
} from "./export_checkpoint.ts";
export type { Weights } from "./quantization/recipe.ts";
