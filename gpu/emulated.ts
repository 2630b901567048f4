/**
 * Builds the emulated CUDA runtime and, on it, kernels of this repository as ordinary host programs.
 * @module
 */
import {
  compileCuda,
  type CudaSource,
  cudaToolchain,
  EXPERT_SOURCES,
  GENERIC_SOURCES,
  gpuCache,
  LATENT_SOURCES,
  PAGED_SOURCES,
  runTool,
} from "../src/cli/cuda_toolchain.ts";

const gpu = new URL(".", import.meta.url).pathname;

/** What the CMake build of `gpu/emu` gives. */
export interface Emulator {
  folder: string;
  /** The executor, its C interface and the emulated runtime. */
  runtime: string;
  nccl: string;
  ptxrun: string;
}

/** Builds the executor with CMake in a folder of the cache; what is up to date is not built again. */
export async function buildEmulator(): Promise<Emulator> {
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(gpu));
  const folder = `${gpuCache()}/emu-${new Uint8Array(bytes, 0, 8).toHex()}`;
  await runTool("cmake", ["-S", `${gpu}emu`, "-B", folder]);
  await runTool("cmake", ["--build", folder, "--parallel", "2"]);
  return {
    folder,
    runtime: `${folder}/libhybridseek_emu.so`,
    nccl: `${folder}/libnccl.so.2`,
    ptxrun: `${folder}/ptxrun`,
  };
}

/** Compiles sources of `gpu/ops`, one after another. */
export async function compileKernels(sources: readonly CudaSource[]): Promise<string[]> {
  const toolchain = await cudaToolchain(gpu);
  const objects: string[] = [];
  for (const { path, targets } of sources) {
    objects.push(await compileCuda(toolchain, `${gpu}ops/${path}`, targets));
  }
  return objects;
}

/** Links objects with the emulated runtime. */
export async function linkEmulated(
  objects: readonly string[],
  output: string,
  emulator: Emulator,
  shared: boolean,
): Promise<string> {
  const link = [`-L${emulator.folder}`, "-lhybridseek_emu", `-Wl,-rpath,${emulator.folder}`];
  await runTool("g++", [...(shared ? ["-shared"] : []), "-o", output, ...objects, ...link]);
  return output;
}

/** An op with CUDA kernels. */
export type CudaOp = "latent_attention" | "paged_attention" | "sparse_experts";

const SOURCES: Readonly<Record<CudaOp, readonly CudaSource[]>> = {
  latent_attention: [...LATENT_SOURCES, ...GENERIC_SOURCES],
  paged_attention: [...PAGED_SOURCES, ...GENERIC_SOURCES],
  sparse_experts: EXPERT_SOURCES,
};

/** The kernels of an op as a library on the emulated runtime. */
export async function buildEmulated(op: CudaOp, emulator: Emulator): Promise<string> {
  const objects = await compileKernels(SOURCES[op]);
  return await linkEmulated(objects, `${emulator.folder}/lib${op}.so`, emulator, true);
}
