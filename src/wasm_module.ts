/**
 * Where the WebAssembly modules come from. Each is embedded as compressed text and compiled when first
 * used; a runtime that compiles no bytes (workerd) is handed compiled modules instead.
 * @module
 */
import { embeddedBytes } from "./embedded_bytes.ts";

/** The WebAssembly modules of this library. */
export type WasmModuleName =
  | "engine"
  | "engine_relaxed"
  | "engine_threads"
  | "engine_threads_relaxed"
  | "engine_memory64"
  | "constraints"
  | "sampler"
  | "tokenizer";

const modules = new Map<WasmModuleName, WebAssembly.Module>();

/**
 * Hands over a compiled module, for runtimes that refuse to compile bytes (Cloudflare Workers):
 * import `wasm/dist/<name>.wasm` there as a module and pass it before anything else is called.
 *
 * @param name Which module it is.
 * @param module The compiled `wasm/dist/<name>.wasm`.
 * @example
 * ```ts
 * import { provideWasmModule, type WasmModuleName } from "@hybridseek/hybridseek";
 * // A Worker passes what it imported: `import engine from "….wasm"`.
 * function provideAll(imported: Record<WasmModuleName, WebAssembly.Module>) {
 *   for (const [name, module] of Object.entries(imported)) {
 *     provideWasmModule(name as WasmModuleName, module);
 *   }
 * }
 * ```
 */
export function provideWasmModule(name: WasmModuleName, module: WebAssembly.Module): void {
  modules.set(name, module);
}

/**
 * The module that was provided, or compiled already.
 *
 * @param name Which module.
 * @returns The module, if there is one.
 */
export function providedModule(name: WasmModuleName): WebAssembly.Module | undefined {
  return modules.get(name);
}

/**
 * The compiled module: the one provided, else compiled from the embedded bytes, once.
 *
 * @param name Which module.
 * @param embedded The text of `wasm/dist/<name>.ts`.
 * @returns The compiled module, shared by all callers.
 */
export function wasmModule(name: WasmModuleName, embedded: string): WebAssembly.Module {
  let module = providedModule(name);
  if (!module) {
    module = new WebAssembly.Module(embeddedBytes(embedded));
    modules.set(name, module);
  }
  return module;
}
