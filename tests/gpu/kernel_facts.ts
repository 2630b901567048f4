/**
 * What ptxas made of the CUDA kernels: registers, memory, and instructions of tensor cores.
 *
 *     deno run -A tests/gpu/kernel_facts.ts    writes kernel_facts.tsv
 * @module
 */
import { compileKernels } from "../../gpu/emulated.ts";
import { CUDA_SOURCES, cudaToolchain, runTool } from "../../src/cli/cuda_toolchain.ts";

/** Of one kernel for one architecture. */
export interface KernelFacts {
  source: string;
  architecture: string;
  kernel: string;
  /** Of a thread. */
  registers: number;
  /** Bytes of a thread's stack, which is where spilled registers are. */
  stack: number;
  /** Bytes of a block's shared memory, without what launches add. */
  shared: number;
  /** Instructions HMMA, HGMMA, … in the code. */
  tensor: number;
}

/** What all sources were compiled to. */
export interface Compiled {
  kernels: KernelFacts[];
  /** The architectures of each source's PTX. */
  ptx: Map<string, string[]>;
}

/** The committed table. */
export const FACTS: URL = new URL("kernel_facts.tsv", import.meta.url);

/** Compiles the kernels and reads the facts off the objects. */
export async function compiledKernels(): Promise<Compiled> {
  const objects = await compileKernels(CUDA_SOURCES);
  const compiled: Compiled = { kernels: [], ptx: new Map() };
  for (const [at, { path }] of CUDA_SOURCES.entries()) {
    const lines = await dump("-lptx", objects[at]!);
    compiled.ptx.set(path, lines.flatMap((line) => /\.(sm_\w+)\.ptx/.exec(line)?.[1] ?? []));
    compiled.kernels.push(...await kernelsOf(path, objects[at]!));
  }
  return compiled;
}

/** The table's text. */
export function tableOf(kernels: KernelFacts[]): string {
  const lines = kernels.map((facts) => Object.values(facts).join("\t")).sort();
  return [Object.keys(kernels[0]!).join("\t"), ...lines, ""].join("\n");
}

async function dump(option: string, object: string): Promise<string[]> {
  const { cudaHome } = await cudaToolchain(new URL("../../gpu/", import.meta.url).pathname);
  const env = { NVDISASM_PATH: `${cudaHome}/bin` };
  return (await runTool(`${cudaHome}/bin/cuobjdump`, [option, object], env)).split("\n");
}

async function kernelsOf(source: string, object: string): Promise<KernelFacts[]> {
  const found = new Map<string, KernelFacts>();
  let [architecture, name] = ["", ""];
  for (const line of await dump("-res-usage", object)) {
    architecture = /^arch = (\S+)/.exec(line)?.[1] ?? architecture;
    name = /^ Function (\S+):/.exec(line)?.[1] ?? name;
    const usage = /REG:(\d+) STACK:(\d+) SHARED:(\d+)/.exec(line)?.slice(1).map(Number);
    if (usage === undefined) continue;
    const [registers, stack, shared] = usage as [number, number, number];
    const facts = { source, architecture, kernel: name, registers, stack, shared, tensor: 0 };
    found.set(`${architecture} ${name}`, facts);
  }
  for (const line of await dump("-sass", object)) {
    architecture = /^arch = (\S+)/.exec(line)?.[1] ?? architecture;
    name = /Function : (\S+)/.exec(line)?.[1] ?? name;
    if (/\bH?G?MMA\./.test(line)) found.get(`${architecture} ${name}`)!.tensor++;
  }
  const kernels = [...found.values()];
  if (kernels.length === 0) return kernels;
  const names = await runTool("c++filt", kernels.map(({ kernel }) => kernel));
  for (const [i, name] of names.trimEnd().split("\n").entries()) kernels[i]!.kernel = short(name);
  return kernels;
}

/** "grouped_gemm<Int4Weights, FewRows, StoreF32>" */
function short(name: string): string {
  // Of FlashInfer's kernels latent attention's differ in whether they are causal, the others in rows of a tile.
  const causal = /KernelTraits<(true|false)/.exec(name)?.[1];
  if (causal !== undefined) return causal === "true" ? "attention, causal" : "attention";
  const rows = /BatchPrefill.*KernelTraits<[^,]*, (\d+)u/.exec(name)?.[1];
  if (rows !== undefined) return `attention, ${rows} rows`;
  if (name.includes("MergeStatesKernel")) return "merge";
  return name.replaceAll("(anonymous namespace)::", "").replaceAll("hybridseek::", "")
    .replace(/^void /, "").replace(/\(.*$/, "");
}

if (import.meta.main) {
  await Deno.writeTextFile(FACTS, tableOf((await compiledKernels()).kernels));
}
