/**
 * The compiler of the CUDA kernels and what it compiles: nvcc, its headers and FlashInfer's, from the wheels
 * of `gpu/toolchain.txt`, whose hashes pip compares, or all but FlashInfer from a toolkit that is installed.
 * Wheels are unpacked once into a folder of the user's cache, where compiled kernels are kept by the hash of
 * their sources too.
 *
 * About 200 MB are downloaded and 400 MB kept; python3 with pip does it. NVIDIA's wheels come under NVIDIA's
 * licence: nothing of them is part of this repository.
 * @module
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import process from "node:process";
import { BackendError, UnsupportedError } from "../errors.ts";

/** Where the parts of the toolchain are. */
export interface CudaToolchain {
  /** Folder of the toolkit, as CUDA_HOME. */
  cudaHome: string;
  /** Include folders of FlashInfer and what it needs. */
  includes: string[];
  /** FlashInfer's licence. */
  licence: string;
  /** What tells it from others. */
  pins: string;
}

/** A source of CUDA kernels, relative to `gpu/ops`, and what it is compiled to, as nvcc's `-gencode` says. */
export interface CudaSource {
  /** Its path. */
  path: string;
  /** Architectures of PTX and of machine code. */
  targets: readonly string[];
}

const EVERYWHERE = [
  "arch=compute_80,code=[compute_80,sm_80,sm_86,sm_89]",
  "arch=compute_90,code=[compute_90,sm_90]",
];
// FlashInfer's kernels are tuned for one architecture each; the PTX is for later ones, and for the executor.
const SM80 = ["arch=compute_80,code=[compute_80,sm_80]", "arch=compute_90,code=compute_90"];
const SM90 = ["arch=compute_90a,code=[compute_90a,sm_90a]"];

/** The kernels of the op `SparseExperts`. */
export const EXPERT_SOURCES: readonly CudaSource[] = [
  { path: "sparse_experts/sparse_experts.cu", targets: EVERYWHERE },
  { path: "grouped_gemm/weights.cu", targets: EVERYWHERE },
];

/** The kernels of the op `LatentAttention`. */
export const LATENT_SOURCES: readonly CudaSource[] = [
  { path: "latent_attention/plan.cu", targets: ["arch=compute_80,code=sm_80"] },
  { path: "latent_attention/generic.cu", targets: ["arch=compute_80,code=sm_80"] },
  { path: "latent_attention/projections.cu", targets: EVERYWHERE },
  { path: "latent_attention/mla_sm80_bf16.cu", targets: SM80 },
  { path: "latent_attention/mla_sm80_fp8.cu", targets: SM80 },
  {
    path: "latent_attention/mla_sm86_bf16.cu",
    targets: ["arch=compute_80,code=[compute_80,sm_86,sm_89]"],
  },
  { path: "latent_attention/mla_sm90_bf16.cu", targets: SM90 },
  { path: "latent_attention/mla_sm90_fp8.cu", targets: SM90 },
];

/** The kernels of the op `PagedAttention`. */
export const PAGED_SOURCES: readonly CudaSource[] = [
  { path: "paged_attention/flashinfer.cu", targets: SM80 },
  { path: "paged_attention/rows.cu", targets: EVERYWHERE },
];
/** The kernels that both attention ops take for heads of sizes that FlashInfer lacks. */
export const GENERIC_SOURCES: readonly CudaSource[] = [
  { path: "generic_attention/generic_attention.cu", targets: EVERYWHERE },
];

/** The sources of all CUDA kernels. */
export const CUDA_SOURCES: readonly CudaSource[] = [
  ...EXPERT_SOURCES,
  ...LATENT_SOURCES,
  ...PAGED_SOURCES,
  ...GENERIC_SOURCES,
];

/** The folder for what is fetched and built: HYBRIDSEEK_GPU_CACHE, or one in the user's cache. */
export function gpuCache(): string {
  const { HYBRIDSEEK_GPU_CACHE, XDG_CACHE_HOME } = process.env;
  return HYBRIDSEEK_GPU_CACHE || `${XDG_CACHE_HOME || `${homedir()}/.cache`}/hybridseek/gpu`;
}

/**
 * Runs a program and waits for it.
 *
 * @param program Its name.
 * @param args Its arguments.
 * @param env What is added to the environment.
 * @returns What it wrote to standard output.
 * @throws {BackendError} If it fails; the message has what it wrote.
 */
export async function runTool(
  program: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<string> {
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...env },
  });
  let [output, problems] = ["", ""];
  child.stdout.on("data", (part: Uint8Array) => output += new TextDecoder().decode(part));
  child.stderr.on("data", (part: Uint8Array) => problems += new TextDecoder().decode(part));
  const code = await new Promise<number | null>((resolve) => {
    child.on("error", () => resolve(null));
    child.on("close", resolve);
  });
  if (code === 0) return output;
  throw new BackendError(
    "backend_failed",
    `Cannot build the CUDA kernels: ${program} ${args.join(" ")} failed.\n${output}${problems}`,
  );
}

/**
 * Gives the toolchain, which is fetched where the cache does not have it.
 *
 * @param gpu The folder `gpu/`, ending in a slash.
 * @param installed The folder of an installed toolkit of version 13; by default one is fetched.
 * @returns It.
 * @throws {UnsupportedError} If the installed toolkit is none, or of another version.
 * @throws {BackendError} If what is missing can not be fetched.
 */
export async function cudaToolchain(gpu: string, installed?: string): Promise<CudaToolchain> {
  const version = installed === undefined ? "" : await toolkitVersion(installed);
  const wheels = readFileSync(`${gpu}toolchain.txt`, "utf8").split("\n")
    .filter((line) => installed === undefined || line.startsWith("flashinfer")).join("\n");
  const folder = `${gpuCache()}/toolchain-${sha256(wheels).slice(0, 16)}`;
  if (!existsSync(folder)) await fetchInto(folder, wheels);
  const wheel = `${folder}/flashinfer`;
  const facts = readdirSync(wheel).find((name) => name.endsWith(".dist-info"));
  return {
    cudaHome: installed ?? `${folder}/${FETCHED_HOME}`,
    includes: HEADERS.map((name) => `${wheel}/flashinfer/data/${name}`),
    licence: `${wheel}/${facts}/licenses/LICENSE`,
    pins: sha256(wheels) + version,
  };
}

/** What an installed toolkit's nvcc says of its version. */
async function toolkitVersion(cudaHome: string): Promise<string> {
  const nvcc = `${cudaHome}/bin/nvcc`;
  const text = await runTool(nvcc, ["--version"]).catch((cause) => {
    throw new UnsupportedError(
      `Cannot build the CUDA kernels: ${nvcc} does not run; --cuda without a folder fetches a compiler.`,
      { cause },
    );
  });
  const version = /release (\d+)\.\d+, V[\d.]+/.exec(text);
  if (version?.[1] === TOOLKIT) return version[0];
  throw new UnsupportedError(
    `Cannot build the CUDA kernels: ${nvcc} is ${
      version?.[0] ?? "of an unknown version"
    }, needed is ` +
      `release ${TOOLKIT}; --cuda without a folder fetches one.`,
  );
}

/** The toolkit's major version, which is that of the runtime that is opened. */
const TOOLKIT = "13";
/** The toolkit in the folder of the wheels. */
const FETCHED_HOME = `cuda/nvidia/cu${TOOLKIT}`;

/** What is kept of FlashInfer's `data`. */
const HEADERS = ["include", "cutlass/include", "spdlog/include"];
/** Unpacks the parts of a wheel that are named by their beginnings. */
const UNPACK = `
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
for name in archive.namelist():
    if name.startswith(tuple(sys.argv[3:])):
        archive.extract(name, sys.argv[2])
`;

/** Fetches beside the folder and moves there at the end, so that what is there is whole. */
async function fetchInto(folder: string, wheels: string): Promise<void> {
  const work = temporaryFolder();
  try {
    writeFileSync(`${work}/wheels.txt`, wheels);
    await runTool("python3", [
      ...["-m", "pip", "--disable-pip-version-check", "--quiet", "download"],
      ...["--no-deps", "--require-hashes", "--only-binary=:all:"],
      ...["-r", `${work}/wheels.txt`, "-d", `${work}/wheels`],
    ]);
    for (const name of readdirSync(`${work}/wheels`)) {
      const wheel = `${work}/wheels/${name}`;
      if (name.startsWith("flashinfer")) {
        const beginnings = HEADERS.map((name) => `flashinfer/data/${name}/`);
        const parts = [...beginnings, "flashinfer_python-"];
        await runTool("python3", ["-c", UNPACK, wheel, `${work}/flashinfer`, ...parts]);
      } else {
        await runTool("python3", ["-c", UNPACK, wheel, `${work}/cuda`, "nvidia/"]);
      }
    }
    // A zip's rights are not kept by Python.
    for (const bin of ["bin", "nvvm/bin"].map((name) => `${work}/${FETCHED_HOME}/${name}`)) {
      if (!existsSync(bin)) continue;
      for (const entry of readdirSync(bin, { withFileTypes: true })) {
        if (entry.isFile()) chmodSync(`${bin}/${entry.name}`, 0o755);
      }
    }
    rmSync(`${work}/wheels`, { recursive: true });
    renameSync(work, folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/**
 * Compiles a source: host code, PTX and machine code. The CUDA runtime is not linked, and nothing is
 * compressed, so that the executor can read the PTX.
 *
 * @param toolchain With this.
 * @param path The source.
 * @param targets What for, see {@linkcode CudaSource}.
 * @returns The object's path, in the cache.
 * @throws {BackendError} If nvcc refuses it.
 */
export async function compileCuda(
  toolchain: CudaToolchain,
  path: string,
  targets: readonly string[],
): Promise<string> {
  const { cudaHome, includes, pins } = toolchain;
  const options = [
    ...["-c", "-O3", "-std=c++17", "--expt-relaxed-constexpr", "-cudart", "none", "--no-compress"],
    // Warnings are those of FlashInfer's headers.
    ...["-w", "-Xcompiler", "-fPIC"],
    ...targets.flatMap((target) => ["-gencode", target]),
  ];
  const parts = [pins, path, ...options, ...hashesOf(path)];
  const object = `${gpuCache()}/${sha256(parts.join("\n")).slice(0, 24)}.o`;
  if (existsSync(object)) return object;
  const work = temporaryFolder();
  try {
    const searched = includes.flatMap((include) => ["-I", include]);
    const output = `${work}/kernels.o`;
    await runTool(`${cudaHome}/bin/nvcc`, [...options, ...searched, path, "-o", output], {
      CUDA_HOME: cudaHome,
    });
    renameSync(output, object);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return object;
}

/** Hashes of a source and of the files of this repository that it includes. */
function hashesOf(path: string, seen: Set<string> = new Set()): string[] {
  if (seen.has(path)) return [];
  seen.add(path);
  const text = readFileSync(path, "utf8");
  const folder = path.slice(0, path.lastIndexOf("/"));
  const included = [...text.matchAll(/^#include "(.*)"$/gm)].flatMap(([, name]) =>
    hashesOf(`${folder}/${name}`, seen)
  );
  return [sha256(text), ...included];
}

function temporaryFolder(): string {
  mkdirSync(gpuCache(), { recursive: true });
  return mkdtempSync(`${gpuCache()}/work-`);
}

function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}
