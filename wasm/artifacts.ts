/**
 * The WebAssembly modules that are committed under `wasm/dist`: what each is made of and how.
 * One list for the build (`build.ts`) and for the check of the hashes (`tests/wasm_dist_test.ts`).
 * @module
 */

/** One committed module. `<name>.wasm`, the same as text, `<name>.ts`, and the sidecar `<name>.json`. */
export interface Artifact {
  /** The file's stem under `wasm/dist`. */
  name: string;
  /** Files and folders, relative to `wasm/`, whose bytes decide the module's. */
  sources: string[];
  /** How it is built. */
  tool:
    | { kind: "cargo"; crate: string; addressBits: 32 | 64; threads: boolean; relaxed: boolean }
    | { kind: "cargo-std"; crate: string; memoryBytes: number }
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

/** A build of the engine. */
function engine(
  name: string,
  build: { addressBits: 32 | 64; threads: boolean; relaxed: boolean },
): Artifact {
  const sources = [...rust, "engine/Cargo.toml", "engine/src"];
  return { name, sources, tool: { kind: "cargo", crate: "hybridseek-engine", ...build } };
}

/** Every committed module. */
export const artifacts: Artifact[] = [
  engine("engine", { addressBits: 32, threads: false, relaxed: false }),
  engine("engine_relaxed", { addressBits: 32, threads: false, relaxed: true }),
  engine("engine_threads", { addressBits: 32, threads: true, relaxed: false }),
  engine("engine_threads_relaxed", { addressBits: 32, threads: true, relaxed: true }),
  engine("engine_memory64", { addressBits: 64, threads: true, relaxed: true }),
  {
    name: "tokenizer",
    sources: [...rust, "tokenizer/Cargo.toml", "tokenizer/src"],
    tool: { kind: "wasm-pack", crate: "tokenizer" },
  },
  {
    name: "constraints",
    sources: ["constraints/Cargo.toml", "constraints/Cargo.lock", "constraints/src"],
    tool: { kind: "cargo-std", crate: "constraints", memoryBytes: 64 * 2 ** 20 },
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
