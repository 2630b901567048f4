/**
 * Sampling alone: parameters in vLLM's terms and the sampler, without a model.
 * @module
 */
export * from "../errors.ts";
export * from "../sampling_params.ts";
export * from "./sampler.ts";
export { provideWasmModule, type WasmModuleName } from "../wasm_module.ts";
