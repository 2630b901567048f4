/**
 * The kernels of PagedAttention, compiled by nvcc and run by the PTX executor, against float64; and ours with
 * its synchronisation taken out, which must be noticed.
 */
import { strict as assert } from "node:assert";
import { buildEmulated } from "../../gpu/emulated.ts";
import { emulator, needs, python, succeeds, UNWRITTEN_ROWS } from "./gpu.ts";

const tests = new URL("../../gpu/ops/paged_attention/tests/", import.meta.url);
const tolerances = new URL("tolerances.json", tests).pathname;

async function runs(script: string, env: Record<string, string>, args: string[] = []) {
  const library = await buildEmulated("paged_attention", await emulator());
  return await succeeds(
    python!,
    [new URL(script, tests).pathname, library, tolerances, ...args],
    env,
  );
}

// sm_90a runs the PTX of compute_90, as devices after it do.
for (const architecture of ["sm_80", "sm_86", "sm_90a"]) {
  const name = `paged attention on ${architecture}: ragged batches against float64`;
  Deno.test(needs(name, "build", "python", "nvcc"), async () => {
    assert(await runs("cases.py", { HYBRIDSEEK_EMU_ARCH: architecture, ...UNWRITTEN_ROWS }));
  });
}

// One tile of rows.
for (const name of ["decode_long", "wider_keys"]) {
  Deno.test(
    needs(`paged attention, ${name}: keys and values are read once`, "build", "python", "nvcc"),
    async () => {
      const args = ["--case", name, "--most-reads", "1.05"];
      assert(await runs("cases.py", UNWRITTEN_ROWS, args));
    },
  );
}

Deno.test(
  needs("paged attention: missing waits and barriers are caught", "build", "python", "nvcc"),
  async () => {
    assert(await runs("mutations.py", { HYBRIDSEEK_EMU_ARCH: "sm_80" }));
  },
);
