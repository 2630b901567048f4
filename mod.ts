/**
 * hybridseek runs the DeepSeek-V2 family (Multi-head Latent Attention, DeepSeekMoE) from one ONNX file
 * wherever JavaScript runs: Deno, Node, Bun, browsers, edge workers.
 *
 * @example Generate text with the model that comes with the library
 * ```ts
 * import { LLM } from "@hybridseek/hybridseek";
 * import assert from "node:assert/strict";
 *
 * await using llm = await LLM.open();
 * const params = { temperature: 0, maxTokens: 16 };
 * const [result] = await llm.generate("Once upon a time there was", params);
 * assert(result!.outputs[0]!.text.length > 10);
 * ```
 * @module
 */
export * from "./src/errors.ts";
export * from "./src/generation_config.ts";
export * from "./src/inspect.ts";
export * from "./src/llm.ts";
export * from "./src/outputs.ts";
export * from "./src/sampling_params.ts";
export { provideWasmModule, type WasmModuleName } from "./src/wasm_module.ts";
