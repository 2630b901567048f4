/**
 * FlashInfer's MLA kernels, compiled by nvcc and run by the PTX executor, against float64; and the same
 * kernels with their synchronisation taken out, which must be noticed.
 */
import { strict as assert } from "node:assert";
import { buildEmulated } from "../../gpu/emulated.ts";
import { emulator, needs, python, succeeds } from "./gpu.ts";

const tests = new URL("../../gpu/ops/latent_attention/tests/", import.meta.url);
const tolerances = new URL("tolerances.json", tests).pathname;
const architectures = {
  sm80_bf16: "sm_80",
  sm80_fp8: "sm_80",
  sm86_bf16: "sm_86",
  sm90_bf16: "sm_90a",
  sm90_fp8: "sm_90a",
};

async function runs(
  script: string,
  kernel: keyof typeof architectures,
  args: string[] = [],
  env: Record<string, string> = {},
): Promise<boolean> {
  const library = await buildEmulated("latent_attention", await emulator());
  const path = new URL(script, tests).pathname;
  return await succeeds(python!, [path, library, kernel, tolerances, ...args], {
    HYBRIDSEEK_EMU_ARCH: architectures[kernel],
    ...env,
  });
}

for (const kernel of Object.keys(architectures) as (keyof typeof architectures)[]) {
  Deno.test(
    needs(`MLA ${kernel}: ragged batches against float64`, "build", "python", "nvcc"),
    async () => {
      assert(await runs("cases.py", kernel));
    },
  );
}

// What is read beyond it are the blocks' indices.
for (const kernel of Object.keys(architectures) as (keyof typeof architectures)[]) {
  Deno.test(
    needs(`MLA ${kernel}: a tile of heads reads the cache once`, "build", "python", "nvcc"),
    async () => {
      const args = ["--case", "decode_heads", "--most-reads", "1.01"];
      assert(await runs("cases.py", kernel, args, { HYBRIDSEEK_EMU_SMS: "2" }));
    },
  );
}

for (const kernel of ["sm80_bf16", "sm90_bf16"] as const) {
  Deno.test(
    needs(
      `MLA ${kernel}: missing waits, barriers and arrivals are caught`,
      "build",
      "python",
      "nvcc",
    ),
    async () => {
      assert(await runs("mutations.py", kernel));
    },
  );
}
