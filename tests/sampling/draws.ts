/**
 * Calls of the sampler for its tests: short for what every test needs, and a view of what top-k,
 * top-p and min-p kept, which the public sampler does not show.
 * @module
 */
import { resolveSamplingParams, type SamplingParams } from "../../src/sampling_params.ts";
import { Sampler, type SamplingRequest } from "../../src/sampling/sampler.ts";
import { wasmModule } from "../../src/wasm_module.ts";
import type { Settings } from "./reference.ts";
import { embedded } from "../../wasm/dist/sampler.ts";

/** A request with parameters as the user writes them; seed 7, no history, choice and position 0. */
export function request(
  params: SamplingParams = {},
  rest: Partial<Omit<SamplingRequest, "params">> = {},
): SamplingRequest {
  return {
    params: resolveSamplingParams({ seed: 7, ...params }),
    history: [],
    promptLength: 0,
    choiceIndex: 0,
    position: 0,
    ...rest,
  };
}

/** The token that a new sampler chooses. */
export function tokenOf(logits: ArrayLike<number>, request: SamplingRequest): number {
  return new Sampler(logits.length).sample(Float32Array.from(logits), request).tokenId;
}

/** What the module exports, as far as the tests look inside. */
export interface Internals {
  memory: WebAssembly.Memory;
  logits: WebAssembly.Global<"i32">;
  weights: WebAssembly.Global<"i32">;
  candidateIds: WebAssembly.Global<"i32">;
  candidateCount: WebAssembly.Global<"i32">;
  initialize(vocabSize: number): void;
  begin(): number;
  draw(
    temperature: number,
    minP: number,
    topK: number,
    topP: number,
    seed: bigint,
    choice: number,
    position: number,
  ): number;
  uniform(seed: bigint, position: number, choice: number): number;
}

/** The compiled module. */
export function samplerModule(): WebAssembly.Module {
  return wasmModule("sampler", embedded);
}

/** A new instance of the module that has read the logits. */
export function internalsWith(logits: ArrayLike<number>): Internals {
  const instance = new WebAssembly.Instance(samplerModule());
  const internals = instance.exports as unknown as Internals;
  internals.initialize(logits.length);
  new Float32Array(internals.memory.buffer, internals.logits.value, logits.length).set(logits);
  if (internals.begin() !== -1) throw new Error("The logits of a test must be usable.");
  return internals;
}

/** The ids that the filters keep, ascending; at least one filter must be on. */
export function keptIds(logits: ArrayLike<number>, filters: Settings): number[] {
  const { temperature = 1, minP = 0, topK = 0, topP = 1 } = filters;
  const internals = internalsWith(logits);
  internals.draw(temperature, minP, topK, topP, 0n, 0, 0);
  const { memory, candidateIds, candidateCount } = internals;
  return Array.from(new Uint32Array(memory.buffer, candidateIds.value, candidateCount.value));
}
