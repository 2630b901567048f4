/**
 * The kernels of SparseExperts, compiled by nvcc and run by the PTX executor, against float64; and the same
 * kernels with their synchronisation taken out, which must be noticed.
 */
import { strict as assert } from "node:assert";
import { buildEmulated } from "../../gpu/emulated.ts";
import { emulator, needs, python, succeeds } from "./gpu.ts";

const tests = new URL("../../gpu/ops/sparse_experts/tests/", import.meta.url);
const tolerances = new URL("tolerances.json", tests).pathname;

async function runs(script: string, args: string[], architecture: string): Promise<boolean> {
  const library = await buildEmulated("sparse_experts", await emulator());
  const path = new URL(script, tests).pathname;
  const env = { HYBRIDSEEK_EMU_ARCH: architecture };
  return await succeeds(python!, [path, library, ...args, tolerances], env);
}

// sm_90a runs the PTX of compute_90, as devices after it do.
for (const architecture of ["sm_80", "sm_90a"]) {
  for (const format of ["bf16", "int8", "int4", "fp8"]) {
    const name = `experts of ${format} on ${architecture}: against float64`;
    Deno.test(needs(name, "build", "python", "nvcc"), async () => {
      assert(await runs("cases.py", [format], architecture));
    });
  }
}

Deno.test(
  needs("experts: missing waits and barriers are caught", "build", "python", "nvcc"),
  async () => {
    assert(await runs("mutations.py", [], "sm_80"));
  },
);
