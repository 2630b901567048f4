/**
 * Ranks whose sessions have the CUDA kernels, on the emulated runtime, with the emulated NCCL between them.
 */
import { strict as assert } from "node:assert";
import { packageOf } from "../packages.ts";
import { emulatedLibrary, emulator, needs, succeeds } from "./gpu.ts";

const fixture = "deepseek-v2-wide";
const needsEmulated = (name: string) => needs(name, "shared", "build", "cargo", "nvcc");

Deno.test(needsEmulated(`${fixture} on two ranks with CUDA kernels and NCCL`), async () => {
  const script = new URL("cuda_ranks_program.ts", import.meta.url).pathname;
  const folder = await packageOf(fixture, { weights: "f32" });
  const { runtime, nccl } = await emulator();
  const library = await emulatedLibrary();
  const port = 20_000 + Deno.pid % 10_000;
  const ranks = [0, 1].map((rank) =>
    succeeds(Deno.execPath(), ["run", "-A", script, fixture, folder], {
      ...{ HYBRIDSEEK_NATIVE: library, HYBRIDSEEK_CUDART: runtime, HYBRIDSEEK_NCCL: nccl },
      HYBRIDSEEK_EMU_ARCH: "sm_80",
      ...{ RANK: `${rank}`, WORLD_SIZE: "2", MASTER_ADDR: "localhost", MASTER_PORT: `${port}` },
    })
  );
  assert.deepEqual(await Promise.all(ranks), [true, true]);
});
