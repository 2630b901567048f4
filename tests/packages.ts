/**
 * Packages for tests: checkpoints of the shared data, exported once per test file into a temporary folder.
 * @module
 */
import { exportCheckpoint, type ExportOptions } from "../export-tools/export_checkpoint.ts";
import { LLM } from "../src/llm.ts";
import type { OpenOptions } from "../src/open_model.ts";

/** The shared checkpoints with goldens. */
export const fixtures: readonly string[] = [
  "deepseek-v2",
  "deepseek-v2-lite",
  "deepseek-moe",
  "deepseek-llm-mha",
  "deepseek-llm-gqa",
  "deepseek-v2-wide",
];

/** Every way a package is run in the tests. */
export const ways: Readonly<Record<string, OpenOptions>> = {
  "wasm, relaxed SIMD": { backend: "wasm", build: "relaxed-simd" },
  "wasm, plain SIMD": { backend: "wasm", build: "simd" },
  "wasm, expanded attention": { backend: "wasm", exact: false },
  "stock onnxruntime-node": { backend: "ort" },
  "onnxruntime with our kernels": { backend: "ort-native" },
};

const folder = Deno.makeTempDirSync({ prefix: "hybridseek-test-" });
addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const exported = new Map<string, Promise<string>>();

/** The folder of a shared checkpoint. */
export function checkpointFolder(name: string): string {
  const path = name === "reference-model" ? name : `fixtures/${name}`;
  return new URL(`../../shared/${path}`, import.meta.url).pathname;
}

/** A new path in this test file's temporary folder. */
export function temporaryPath(name: string): string {
  return `${folder}/${crypto.randomUUID()}-${name}`;
}

/** A shared checkpoint as a package. */
export function packageOf(name: string, options: ExportOptions = {}): Promise<string> {
  const key = JSON.stringify([name, options]);
  let path = exported.get(key);
  if (!path) {
    path = exportCheckpoint(checkpointFolder(name), temporaryPath(name), options)
      .then(({ folder }) => folder);
    exported.set(key, path);
  }
  return path;
}

/** Opens a shared checkpoint. */
export async function openFixture(
  name: string,
  options: OpenOptions = {},
  exporting: ExportOptions = { weights: "f32" },
): Promise<LLM> {
  return await LLM.open(await packageOf(name, exporting), options);
}
