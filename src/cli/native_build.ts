/**
 * Building the native library (`gpu/`) with the tools of this machine.
 * @module
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { BackendError, UnsupportedError } from "../errors.ts";
import { VERSION } from "../version.ts";

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
const SOURCES = ["gpu/CMakeLists.txt", "gpu/abi", "gpu/ops", "gpu/runtime"];
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
    for (const name of readdirSync(folder + path)) collect(`${path}/${name}`);
  };
  [...SOURCES, ...KERNEL_SOURCES.map((path) => `wasm/${path}`)].forEach(collect);
  const hash = createHash("sha256");
  for (const file of files.sort()) hash.update(`${file}\0`).update(readFileSync(folder + file));
  return hash.digest("hex");
}

/**
 * Builds the library to `gpu/build/hybridseek.node`; what has not changed is not built again.
 *
 * @throws {UnsupportedError} If a tool or the sources are missing.
 * @throws {BackendError} If a tool fails; it has said why.
 */
export async function buildNative(): Promise<void> {
  const folder = sourceFolder();
  const missing = TOOLS.filter((tool) => toolVersion(tool) === undefined);
  if (missing.length > 0) {
    const list = missing.map(({ name, advice }) => `${name} (${advice})`).join(", ");
    throw new UnsupportedError(`Cannot build the native library: missing are ${list}.`);
  }
  const [source, build] = [`${folder}gpu`, `${folder}gpu/build`];
  const definitions = { HYBRIDSEEK_VERSION: VERSION, HYBRIDSEEK_SOURCES: sourcesHash(folder) };
  await run("cmake", [
    ...["-S", source, "-B", build],
    ...Object.entries(definitions).map(([name, value]) => `-D${name}=${value}`),
  ]);
  await run("cmake", ["--build", build, "--parallel", `${availableParallelism()}`]);
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
