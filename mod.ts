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
export type { BackendInfo, BackendName, ExpertStats } from "./src/backend/backend.ts";
export { followRanks } from "./src/backend/native/ranks_backend.ts";
export type { OrtModule, OrtSession, OrtTensor } from "./src/backend/ort.ts";
export type { EngineBuild } from "./src/backend/wasm/engine_module.ts";
export type { BackendTrial } from "./src/backend/trials.ts";
export type { CacheType } from "./src/backend/wasm/opcodes.ts";
export type { EngineStats } from "./src/engine/engine.ts";
export type { ExpertLoadEntropy } from "./src/engine/expert_load.ts";
export type {
  EngineOptions,
  RequestOptions,
  SpeculativeOptions,
} from "./src/engine/engine_options.ts";
export type { PromptLookup } from "./src/engine/prompt_lookup.ts";
export type { SchedulerCounts, SchedulerOptions } from "./src/engine/scheduler.ts";
export type { FinishReason } from "./src/engine/generation.ts";
export * from "./src/errors.ts";
export type { DirectoryHandle } from "./src/files/handle_source.ts";
export type { ModelLocation } from "./src/files/open_source.ts";
export * from "./src/inspect.ts";
export * from "./src/llm.ts";
export type { CacheSpec, ExpertLayer, ModelSpec } from "./src/model_spec.ts";
export type { ExpertsPlace } from "./src/backend/native/placement.ts";
export type { OpenOptions } from "./src/open_model.ts";
export type { DataType } from "./src/onnx/data_type.ts";
export * from "./src/outputs.ts";
export * from "./src/sampling_params.ts";
export { Sampler } from "./src/sampling/sampler.ts";
export type { ChatContentPart, ChatMessage } from "./src/text/chat_message.ts";
export * from "./src/text/detokenizer.ts";
export * from "./src/text/stop_strings.ts";
export * from "./src/text/tokenizer.ts";
export type { ToolCallDelta } from "./src/text/tool_call_text.ts";
export type { FunctionTool, ToolCall, ToolChoice } from "./src/text/tool_format.ts";
export type { TokenizerConfig } from "./src/text/tokenizer_config.ts";
export { provideWasmModule, type WasmModuleName } from "./src/wasm_module.ts";
