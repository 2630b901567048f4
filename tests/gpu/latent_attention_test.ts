/**
 * The MLA kernels, FlashInfer's and ours, compiled by nvcc and run by the PTX executor, against float64; and the same
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

/** Ours, on a device that takes it, with columns of the latent and of the rotated key. */
const generic = [
  ["generic_bf16", "sm_80", "32 16"],
  ["generic_bf16", "sm_86", "64 16"],
  ["generic_bf16", "sm_90a", "384 32"],
  ["generic_fp8", "sm_86", "512 64"],
  ["generic_fp8", "sm_80", "96 48"],
] as const;

async function runs(
  script: string,
  kernel: string,
  architecture: string,
  args: string[] = [],
  env: Record<string, string> = {},
): Promise<boolean> {
  const library = await buildEmulated("latent_attention", await emulator());
  const path = new URL(script, tests).pathname;
  return await succeeds(python!, [path, library, kernel, tolerances, ...args], {
    HYBRIDSEEK_EMU_ARCH: architecture,
    ...env,
  });
}

for (const [kernel, architecture] of Object.entries(architectures)) {
  Deno.test(
    needs(`MLA ${kernel}: ragged batches against float64`, "build", "python", "nvcc"),
    async () => {
      assert(await runs("cases.py", kernel, architecture));
    },
  );
}

for (const [kernel, architecture, sizes] of generic) {
  const name = `MLA ${kernel} of ${sizes} columns on ${architecture}: against float64`;
  Deno.test(needs(name, "build", "python", "nvcc"), async () => {
    assert(await runs("cases.py", kernel, architecture, ["--sizes", ...sizes.split(" ")]));
  });
}

// What is read beyond it are the blocks' indices.
for (
  const [kernel, architecture] of [...Object.entries(architectures), ["generic_bf16", "sm_80"], [
    "generic_fp8",
    "sm_86",
  ]] as const
) {
  Deno.test(
    needs(`MLA ${kernel}: a tile of heads reads the cache once`, "build", "python", "nvcc"),
    async () => {
      const args = ["--case", "decode_heads", "--most-reads", "1.01"];
      assert(await runs("cases.py", kernel, architecture, args, { HYBRIDSEEK_EMU_SMS: "2" }));
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
      assert(await runs("mutations.py", kernel, architectures[kernel]));
    },
  );
}
