/**
 * Building the native library (`gpu/`) with the tools of this machine.
 * @module
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { BackendError, UnsupportedError } from "../errors.ts";
import { VERSION } from "../version.ts";
import { compileCuda, CUDA_SOURCES, type CudaToolchain, cudaToolchain } from "./cuda_toolchain.ts";

/** A program that the build needs. */
export interface Tool {
  /** What it is for. */
  name: string;
  /** Its names, the first that is there counts. */
  programs: readonly string[];
  /** What brings it. */
  advice: string;
}

/** The programs that the build needs. */
export const TOOLS: readonly Tool[] = [
  { name: "cmake", programs: ["cmake"], advice: "apt-get install cmake" },
  { name: "C++", programs: ["c++", "g++", "clang++"], advice: "apt-get install g++" },
  { name: "cargo", programs: ["cargo"], advice: "apt-get install cargo, or https://rustup.rs" },
];

/** The first line that a tool says of itself. @param tool The tool. @returns `undefined`: not there. */
export function toolVersion({ programs }: Tool): string | undefined {
  for (const program of programs) {
    const { status, stdout } = spawnSync(program, ["--version"], { encoding: "utf8" });
    if (status === 0) return stdout.split("\n")[0];
  }
  return undefined;
}

/** What the library is made of, relative to the repository. */
const SOURCES = [
  "gpu/CMakeLists.txt",
  "gpu/abi",
  "gpu/exports.map",
  "gpu/ops",
  "gpu/runtime",
  "gpu/toolchain.txt",
];
const KERNEL_SOURCES = ["Cargo.toml", "Cargo.lock", "engine/Cargo.toml", "engine/src"];

/**
 * The folder with `gpu/` and `wasm/`.
 *
 * @returns Its path, ending in a slash.
 * @throws {UnsupportedError} If the sources are not on a disk.
 */
export function sourceFolder(): string {
  const root = new URL("../../", import.meta.url);
  const folder = root.protocol === "file:" ? fileURLToPath(root) : undefined;
  if (folder !== undefined && existsSync(`${folder}gpu/CMakeLists.txt`)) return folder;
  throw new UnsupportedError(
    `Cannot build the native library: its sources are not on this disk (${root.href}); use a checkout ` +
      "or the npm package.",
  );
}

/** Hash of the sources of the library. @param folder {@linkcode sourceFolder}. @returns Hex sha256. */
export function sourcesHash(folder: string): string {
  const files: string[] = [];
  const collect = (path: string) => {
    if (!statSync(folder + path).isDirectory()) return files.push(path);
    for (const name of readdirSync(folder + path)) {
      if (name !== "tests") collect(`${path}/${name}`);
    }
  };
  [...SOURCES, ...KERNEL_SOURCES.map((path) => `wasm/${path}`)].forEach(collect);
  const hash = createHash("sha256");
  for (const file of files.sort()) hash.update(`${file}\0`).update(readFileSync(folder + file));
  return hash.digest("hex");
}

/** What else than the library itself a build may be for. */
export interface NativeBuildOptions {
  /**
   * With CUDA kernels, compiled by the toolkit in this folder; `true`: by one that is fetched where the cache
   * does not have it.
   */
  cuda?: boolean | string;
  /** For tests: a folder for a library whose CUDA kernels serve CPU sessions, on the emulated runtime. */
  emulated?: string;
}

/**
 * Builds the library to `gpu/build/hybridseek.node`; what has not changed is not built again.
 *
 * @param options With what.
 * @throws {UnsupportedError} If a tool or the sources are missing.
 * @throws {BackendError} If a tool fails; it has said why.
 */
export async function buildNative(options: NativeBuildOptions = {}): Promise<void> {
  const folder = sourceFolder();
  const missing = TOOLS.filter((tool) => toolVersion(tool) === undefined);
  if (missing.length > 0) {
    const list = missing.map(({ name, advice }) => `${name} (${advice})`).join(", ");
    throw new UnsupportedError(`Cannot build the native library: missing are ${list}.`);
  }
  const [source, build] = [`${folder}gpu`, options.emulated ?? `${folder}gpu/build`];
  const toolchain = options.cuda || options.emulated
    ? await cudaToolchain(`${source}/`, typeof options.cuda === "string" ? options.cuda : undefined)
    : undefined;
  const objects = toolchain ? await cudaObjects(`${source}/`, toolchain) : [];
  const definitions = {
    HYBRIDSEEK_VERSION: VERSION,
    HYBRIDSEEK_SOURCES: sourcesHash(folder),
    HYBRIDSEEK_CUDA_OBJECTS: objects.join(";"),
    HYBRIDSEEK_EMULATED_CUDA: options.emulated ? "ON" : "OFF",
  };
  await run("cmake", [
    ...["-S", source, "-B", build],
    ...Object.entries(definitions).map(([name, value]) => `-D${name}=${value}`),
  ]);
  await run("cmake", ["--build", build, "--parallel", `${availableParallelism()}`]);
  if (!toolchain) return;
  // The library holds code of others now.
  copyFileSync(toolchain.licence, `${build}/LICENSE.flashinfer`);
  copyFileSync(`${source}/NOTICE`, `${build}/NOTICE`);
}

/** The compiled kernels, one after another: each takes up to a minute, once. */
async function cudaObjects(gpu: string, toolchain: CudaToolchain): Promise<string[]> {
  const objects: string[] = [];
  for (const { path, targets } of CUDA_SOURCES) {
    process.stderr.write(`CUDA kernels: ${path}\n`);
    objects.push(await compileCuda(toolchain, `${gpu}ops/${path}`, targets));
  }
  return objects;
}

/** Runs a program, whose output goes to standard error. */
async function run(program: string, args: string[]): Promise<void> {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  child.stdout.pipe(process.stderr, { end: false });
  const code = await new Promise<number | null>((resolve) => {
    child.on("error", () => resolve(null));
    child.on("close", resolve);
  });
  if (code === 0) return;
  throw new BackendError(
    "backend_failed",
    `Cannot build the native library: ${program} ${args.join(" ")} failed.`,
  );
}
