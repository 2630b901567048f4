/**
 * Text alone: the tokenizer, chat templates, incremental detokenizer and stop strings, without a model.
 * @module
 */
export * from "../errors.ts";
export * from "./chat_message.ts";
export * from "./chat_template.ts";
export * from "./detokenizer.ts";
export * from "./stop_strings.ts";
export * from "./tokenizer.ts";
export * from "./tokenizer_config.ts";
export { provideWasmModule, type WasmModuleName } from "../wasm_module.ts";
