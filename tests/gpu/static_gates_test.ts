/**
 * What can be said of the CUDA kernels' speed without a GPU: no registers are spilled, tensor cores are used,
 * what ptxas made of them has not changed unnoticed, and newer devices find PTX.
 */
import { strict as assert } from "node:assert";
import { FACTS, kernelFacts, type SourceFacts } from "./kernel_facts.ts";
import { needs } from "./gpu.ts";

/** What one kernel of FlashInfer is known to spill. */
const SPILLS: Record<string, number> = { "latent_attention/mla_sm80_fp8.cu": 64 };

Deno.test(needs("CUDA kernels: registers, spills, tensor cores", "build", "nvcc"), async () => {
  const facts = await kernelFacts();
  for (const [source, { kernels, ptx }] of Object.entries(facts)) {
    for (const [kernel, { stack, tensor }] of Object.entries(kernels)) {
      const what = `${source}, ${kernel}`;
      assert(stack <= (SPILLS[source] ?? 0), `${what}: ${stack} B of stack`);
      if (/grouped_gemm|attention/.test(kernel)) assert(tensor > 0, `${what}: no tensor cores`);
    }
    if (source.endsWith("plan.cu")) continue;
    // Plain PTX is compiled by the driver for whatever comes later; that of sm_90a runs there alone.
    const later = /mla_sm(86|90)/.test(source) ? ["sm_80", "sm_90a"] : ["sm_90"];
    assert(later.some((name) => ptx.includes(name)), `${source} has PTX of ${ptx}`);
  }
  const architectures = new Set(
    Object.values(facts).flatMap(({ kernels }) => Object.keys(kernels).map((k) => k.split(" ")[0])),
  );
  assert.deepEqual([...architectures].sort(), ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a"]);
  const committed: Record<string, SourceFacts> = JSON.parse(await Deno.readTextFile(FACTS));
  assert.deepEqual(
    facts,
    committed,
    "deno run -A tests/gpu/kernel_facts.ts writes the table anew; look at what has changed",
  );
});
