/**
 * Builds the emulated CUDA runtime and, on it, kernels of this repository as ordinary host programs.
 * What is built lies in the cache by the hash of its sources.
 * @module
 */
import { gpuCache, run, sha256, toolchain } from "./toolchain.ts";

const gpu = new URL(".", import.meta.url).pathname;

/** What the CMake build of `gpu/emu` gives. */
export interface Emulator {
  folder: string;
  /** The executor, its C interface and the emulated runtime. */
  runtime: string;
  nccl: string;
  ptxrun: string;
}

/** One object of nvcc: a source, with the architecture of its PTX. */
export interface Source {
  path: string;
  architecture: string;
}

/** Builds the executor with CMake in a folder of the cache; what is up to date is not built again. */
export async function buildEmulator(): Promise<Emulator> {
  const folder = `${gpuCache()}/emu-${(await sha256(new TextEncoder().encode(gpu))).slice(0, 16)}`;
  await run("cmake", ["-S", `${gpu}emu`, "-B", folder]);
  await run("cmake", ["--build", folder, "--parallel", "2"]);
  return {
    folder,
    runtime: `${folder}/libhybridseek_emu.so`,
    nccl: `${folder}/libnccl.so.2`,
    ptxrun: `${folder}/ptxrun`,
  };
}

/** The hash of all files of a folder and of its options. */
async function hashOf(folder: string, ...options: string[]): Promise<string> {
  const parts = [...options];
  for (
    const { name, isFile } of [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1)
  ) {
    if (isFile) parts.push(name, await sha256(await Deno.readFile(`${folder}/${name}`)));
  }
  return (await sha256(new TextEncoder().encode(parts.join("\n")))).slice(0, 24);
}

/** Compiles a source for the emulated runtime: host code and uncompressed PTX, no machine code. */
async function compile({ path, architecture }: Source): Promise<string> {
  const { nvcc, cudaHome, includes } = await toolchain();
  const folder = path.slice(0, path.lastIndexOf("/"));
  const pins = await Deno.readTextFile(new URL("toolchain.txt", import.meta.url));
  const object = `${gpuCache()}/${await hashOf(folder, path, architecture, pins)}.o`;
  if (await Deno.stat(object).catch(() => undefined)) return object;
  const partial = await Deno.makeTempFile({ dir: gpuCache(), suffix: ".o" });
  await run(nvcc, [
    ...["-c", "-O3", "-w", "-std=c++17", "-Xcompiler", "-fPIC", "--expt-relaxed-constexpr"],
    ...["-cudart", "none", "--no-compress"],
    ...["-gencode", `arch=compute_${architecture},code=compute_${architecture}`],
    ...includes.flatMap((include) => ["-I", include]),
    ...[path, "-o", partial],
  ], { env: { CUDA_HOME: cudaHome } });
  await Deno.rename(partial, object);
  return object;
}

/** Compiles sources, one after another, and links them with the emulated runtime. */
export async function buildEmulated(
  sources: Source[],
  output: string,
  emulator: Emulator,
  shared: boolean,
): Promise<string> {
  const objects: string[] = [];
  for (const source of sources) objects.push(await compile(source));
  const link = [`-L${emulator.folder}`, "-lhybridseek_emu", `-Wl,-rpath,${emulator.folder}`];
  await run("g++", [...(shared ? ["-shared"] : []), "-o", output, ...objects, ...link]);
  return output;
}

/** The MLA kernels of `gpu/ops/latent_attention` as a library on the emulated runtime. */
export async function buildLatentAttention(emulator: Emulator): Promise<string> {
  const folder = `${gpu}ops/latent_attention`;
  return await buildEmulated(
    [
      { path: `${folder}/plan.cu`, architecture: "80" },
      { path: `${folder}/mla_sm80_bf16.cu`, architecture: "80" },
      { path: `${folder}/mla_sm80_fp8.cu`, architecture: "80" },
      { path: `${folder}/mla_sm90_bf16.cu`, architecture: "90a" },
      { path: `${folder}/mla_sm90_fp8.cu`, architecture: "90a" },
    ],
    `${emulator.folder}/liblatent_attention.so`,
    emulator,
    true,
  );
}
