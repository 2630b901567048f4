/**
 * What ptxas made of the CUDA kernels: registers, memory, and instructions of tensor cores.
 *
 *     HYBRIDSEEK_GPU_TOOLCHAIN=1 deno run -A tests/gpu/kernel_facts.ts    writes kernel_facts.json
 * @module
 */
import { compileKernels } from "../../gpu/emulated.ts";
import {
  cudaToolchain,
  EXPERT_SOURCES,
  LATENT_SOURCES,
  runTool,
} from "../../src/cli/cuda_toolchain.ts";

/** Of one kernel for one architecture; all by thread or block. */
export interface KernelFacts {
  registers: number;
  /** Bytes of stack, which is where spilled registers are. */
  stack: number;
  /** Bytes of shared memory that the kernel itself declares. */
  shared: number;
  /** Instructions HMMA, HGMMA, … in its code. */
  tensor: number;
}

/** The facts of a source by architecture and kernel, and the architectures of its PTX. */
export interface SourceFacts {
  ptx: string[];
  kernels: Record<string, KernelFacts>;
}

/** The committed table. */
export const FACTS: URL = new URL("kernel_facts.json", import.meta.url);

/** Reads them off the compiled objects. */
export async function kernelFacts(): Promise<Record<string, SourceFacts>> {
  const sources = [...EXPERT_SOURCES, ...LATENT_SOURCES];
  const objects = await compileKernels(sources);
  const facts: Record<string, SourceFacts> = {};
  for (const [at, { path }] of sources.entries()) facts[path] = await factsOf(objects[at]!);
  return facts;
}

async function factsOf(object: string): Promise<SourceFacts> {
  const { cudaHome } = await cudaToolchain(new URL("../../gpu/", import.meta.url).pathname);
  const read = async (option: string) => {
    const env = { NVDISASM_PATH: `${cudaHome}/bin` };
    return (await runTool(`${cudaHome}/bin/cuobjdump`, [option, object], env)).split("\n");
  };
  const ptx = (await read("-lptx")).flatMap((line) => /\.(sm_\w+)\.ptx/.exec(line)?.[1] ?? []);
  const found = new Map<string, KernelFacts>();
  const mangled: string[] = [];
  let [architecture, name] = ["", ""];
  for (const line of await read("-res-usage")) {
    architecture = /^arch = (\S+)/.exec(line)?.[1] ?? architecture;
    name = /^ Function (\S+):/.exec(line)?.[1] ?? name;
    const usage = /REG:(\d+) STACK:(\d+) SHARED:(\d+)/.exec(line)?.slice(1).map(Number);
    if (usage === undefined) continue;
    const [registers, stack, shared] = usage as [number, number, number];
    found.set(`${architecture} ${name}`, { registers, stack, shared, tensor: 0 });
    mangled.push(name);
  }
  for (const line of await read("-sass")) {
    architecture = /^arch = (\S+)/.exec(line)?.[1] ?? architecture;
    name = /Function : (\S+)/.exec(line)?.[1] ?? name;
    if (/\bH?G?MMA\.|\b(H|I|Q|HG|QG)MMA\b/.test(line)) {
      found.get(`${architecture} ${name}`)!.tensor++;
    }
  }
  const readable = mangled.length === 0 ? [] : await readableNames(mangled);
  const names = new Map(mangled.map((name, i) => [name, readable[i]!]));
  const kernels = [...found].map(([key, value]): [string, KernelFacts] => {
    const [architecture, name] = key.split(" ") as [string, string];
    return [`${architecture} ${names.get(name)}`, value];
  });
  return {
    ptx: ptx.sort(),
    kernels: Object.fromEntries(kernels.sort(([a], [b]) => a < b ? -1 : 1)),
  };
}

/** "grouped_gemm<Int4Weights, FewRows, StoreF32>" */
async function readableNames(mangled: string[]): Promise<string[]> {
  const text = await runTool("c++filt", mangled);
  return text.trimEnd().split("\n").map((name) => {
    // FlashInfer's kernels differ in their first argument alone, which says whether they are causal.
    const causal = /KernelTraits<(true|false)/.exec(name)?.[1];
    if (causal !== undefined) return causal === "true" ? "attention, causal" : "attention";
    return name.replaceAll("(anonymous namespace)::", "").replaceAll("hybridseek::", "")
      .replace(/^void /, "").replace(/\(.*$/, "");
  });
}

if (import.meta.main) {
  await Deno.writeTextFile(FACTS, JSON.stringify(await kernelFacts(), null, 1) + "\n");
}
