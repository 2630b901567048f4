/**
 * The WebAssembly modules that are committed under `wasm/dist`: what each is made of and how.
 * One list for the build (`build.ts`) and for the check of the hashes (`tests/wasm_dist_test.ts`).
 * @module
 */

/** One committed module. `<name>.wasm`, its base64 twin `<name>.ts` and the sidecar `<name>.json`. */
export interface Artifact {
  /** The file's stem under `wasm/dist`. */
  name: string;
  /** Files and folders, relative to `wasm/`, whose bytes decide the module's. */
  sources: string[];
  /** How it is built. */
  tool:
    | { kind: "cargo"; crate: string; features: string }
    | { kind: "wasm-pack"; crate: string }
    | { kind: "asc"; entry: string };
}

/** What the sidecar `<name>.json` holds: hex sha256 of the sources and of the module. */
export interface Sidecar {
  /** Over the sorted list of `<path> <sha256 of the file>` lines, see {@linkcode sourceHash}. */
  sourceSha256: string;
  /** Over the bytes of `<name>.wasm`. */
  wasmSha256: string;
}

const rust = ["Cargo.toml", "Cargo.lock"];

/** Every committed module. */
export const artifacts: Artifact[] = [
  {
    name: "engine",
    sources: [...rust, "engine/Cargo.toml", "engine/src"],
    tool: { kind: "cargo", crate: "hybridseek-engine", features: "+simd128" },
  },
  {
    name: "engine_relaxed",
    sources: [...rust, "engine/Cargo.toml", "engine/src"],
    tool: { kind: "cargo", crate: "hybridseek-engine", features: "+simd128,+relaxed-simd" },
  },
  {
    name: "tokenizer",
    sources: [...rust, "tokenizer/Cargo.toml", "tokenizer/src"],
    tool: { kind: "wasm-pack", crate: "tokenizer" },
  },
  {
    name: "sampler",
    sources: ["sampling"],
    tool: { kind: "asc", entry: "sampling/sampler.ts" },
  },
];

/** `wasm/` and `wasm/dist/` of this checkout. */
export const wasmFolder: URL = new URL("./", import.meta.url);
/** `wasm/dist/` of this checkout. */
export const distFolder: URL = new URL("dist/", wasmFolder);

/**
 * Hex sha256 of bytes.
 *
 * @param bytes What to hash.
 * @returns 64 hex digits.
 */
export async function sha256Hex(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/**
 * Hash of the sources of an artifact: any change of a source's name or bytes changes it.
 *
 * @param artifact Which one.
 * @returns Hex sha256 over sorted lines `<path relative to wasm/> <sha256>`.
 */
export async function sourceHash(artifact: Artifact): Promise<string> {
  const files: string[] = [];
  const collect = (path: string) => {
    const url = new URL(path, wasmFolder);
    if (!Deno.statSync(url).isDirectory) return files.push(path);
    for (const entry of Deno.readDirSync(url)) collect(`${path}/${entry.name}`);
  };
  artifact.sources.forEach(collect);
  const lines = files.sort().map(async (path) =>
    `${path} ${await sha256Hex(Deno.readFileSync(new URL(path, wasmFolder)))}\n`
  );
  return await sha256Hex(new TextEncoder().encode((await Promise.all(lines)).join("")));
}
