/**
 * Which matrix of a model is stored how, for each value of `--weights`.
 * @module
 */
import { f16 } from "./f16.ts";
import { f32 } from "./f32.ts";
import { int4 } from "./int4.ts";
import { int8 } from "./int8.ts";
import type { MatrixFormat } from "./matrix_format.ts";

/** What a matrix is for. Norms, router and rotary tables are f32 always. */
export type Role = "linear" | "experts" | "head" | "embedding" | "latentUp";

/** Values of `--weights`. */
export type Weights = "f32" | "f16" | "int8" | "int4";

/**
 * The formats by role. Embedding rows are looked up and the latent's up-projection is used from both
 * sides, so that blocks along one axis would not serve it: both stay half precision, 1 % of a large
 * model. The head keeps 8 bits: its error goes straight into the logits.
 */
export const recipes: Record<Weights, Record<Role, MatrixFormat>> = {
  f32: { linear: f32, experts: f32, head: f32, embedding: f32, latentUp: f32 },
  f16: { linear: f16, experts: f16, head: f16, embedding: f16, latentUp: f16 },
  int8: { linear: int8, experts: int8, head: int8, embedding: f16, latentUp: f16 },
  int4: { linear: int4, experts: int4, head: int8, embedding: f16, latentUp: f16 },
};
