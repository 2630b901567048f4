/**
 * The tokenizer's WebAssembly module: compiled when first used, one memory for all tokenizers.
 * @module
 */
import { embedded } from "../../wasm/dist/tokenizer.ts";
import { initSync, NativeTokenizer, Refusal } from "../../wasm/dist/tokenizer_glue.js";
import { CapacityError, InvalidFileError, UnsupportedError } from "../errors.ts";
import { wasmModule } from "../wasm_module.ts";

export type { NativeTokenizer };

const encoder = new TextEncoder();

/**
 * Reads a tokenizer.json inside the module.
 *
 * @param json The file's text.
 * @returns A tokenizer that the caller must `free()`, or leave to the garbage collector.
 * @throws {InvalidFileError} If the file is broken or contradicts itself.
 * @throws {UnsupportedError} If a field asks for something whose result would differ here.
 * @throws {CapacityError} If the module's memory can not grow far enough.
 */
export function openNativeTokenizer(json: string): NativeTokenizer {
  initSync({ module: wasmModule("tokenizer", embedded) });
  try {
    return withinMemory("read tokenizer.json", () => new NativeTokenizer(encoder.encode(json)));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const { unsupported, message } = error;
    error.free();
    if (unsupported) throw new UnsupportedError(message);
    const wayOut = "get the file anew from the model's page";
    throw new InvalidFileError("tokenizer.json", message.replace(/\.$/, `; ${wayOut}.`));
  }
}

/**
 * The UTF-8 of a text; a lone surrogate becomes U+FFFD.
 *
 * @param text Any string.
 * @returns Its bytes, owned by the caller.
 */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/**
 * Runs a call into the module. The module traps only where its memory can not grow.
 *
 * @param action What the call does, for the message: "encode text".
 * @param call The call.
 * @returns What the call returns.
 * @throws {CapacityError} If the module trapped.
 */
export function withinMemory<T>(action: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    throw new CapacityError(
      "out_of_memory",
      `Cannot ${action}: the tokenizer's memory can not grow any further, pass less text at a time.`,
      { cause: error },
    );
  }
}
