/**
 * What can be said of the CUDA kernels' speed without a GPU: no registers are spilled, tensor cores are used,
 * what ptxas made of them has not changed unnoticed, and newer devices find PTX.
 */
import { strict as assert } from "node:assert";
import { needs } from "./gpu.ts";
import { compiledKernels, FACTS, tableOf } from "./kernel_facts.ts";

/** What kernels of FlashInfer are known to spill, in bytes. */
const SPILLS: Record<string, number> = { "latent_attention/mla_sm80_fp8.cu": 64 };

Deno.test(needs("CUDA kernels: registers, spills, tensor cores", "build", "nvcc"), async () => {
  const { kernels, ptx } = await compiledKernels();
  for (const { source, architecture, kernel, stack, tensor } of kernels) {
    const what = `${source}, ${architecture}, ${kernel}`;
    assert(stack <= (SPILLS[source] ?? 0), `${what}: ${stack} B of stack`);
    if (/grouped_gemm|attention/.test(kernel)) assert(tensor > 0, `${what}: no tensor cores`);
  }
  const architectures = new Set(kernels.map(({ architecture }) => architecture));
  assert.deepEqual([...architectures].sort(), ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a"]);
  // The driver compiles plain PTX for whatever comes later; that of sm_90a runs there alone.
  const later = [...ptx].filter(([, targets]) => targets.includes("sm_90")).map(([source]) =>
    source
  );
  assert.deepEqual(later, [
    "sparse_experts/sparse_experts.cu",
    "grouped_gemm/weights.cu",
    "latent_attention/projections.cu",
    "latent_attention/mla_sm80_bf16.cu",
    "latent_attention/mla_sm80_fp8.cu",
    "paged_attention/flashinfer.cu",
    "paged_attention/rows.cu",
    "generic_attention/generic_attention.cu",
  ]);
  assert.equal(
    tableOf(kernels),
    await Deno.readTextFile(FACTS),
    "deno run -A tests/gpu/kernel_facts.ts writes the table anew; look at what has changed",
  );
});
