/**
 * The CUDA kernels inside the native library: a model in sessions of stock onnxruntime whose ops run as CUDA
 * kernels, on the emulated runtime; the selftest; and what is said where there is no GPU.
 */
import { strict as assert } from "node:assert";
import { cudaToolchain } from "../../src/cli/cuda_toolchain.ts";
import { fixtures, packageOf } from "../packages.ts";
import { shared } from "../shared.ts";
import { emulatedLibrary, emulator, needs, python, succeeds, UNWRITTEN_ROWS } from "./gpu.ts";

const repository = new URL("../../", import.meta.url).pathname;
const tolerances = new URL("session_tolerances.json", import.meta.url).pathname;
const wide = "deepseek-v2-wide";

async function runsSession(
  fixture: string,
  weights: "f32" | "int4",
  architecture: string,
): Promise<boolean> {
  const script = `${repository}tests/python/check_cuda_session.py`;
  const model = await packageOf(fixture, { weights });
  const golden = new URL(`fixtures/${fixture}`, shared).pathname;
  const library = await emulatedLibrary();
  return await succeeds(
    python!,
    [script, library, model, golden, weights, tolerances],
    { HYBRIDSEEK_CUDART: (await emulator()).runtime, HYBRIDSEEK_EMU_ARCH: architecture },
  );
}

const needsAll = (name: string) => needs(name, "shared", "build", "cargo", "python", "nvcc");

for (const architecture of ["sm_80", "sm_86", "sm_90a"]) {
  Deno.test(needsAll(`${wide} in onnxruntime, as CUDA kernels on ${architecture}`), async () => {
    assert(await runsSession(wide, "f32", architecture));
  });
}

Deno.test(needsAll(`${wide} with int4 experts in onnxruntime, as CUDA kernels`), async () => {
  assert(await runsSession(wide, "int4", "sm_80"));
});

for (const fixture of fixtures.filter((name) => name !== wide)) {
  Deno.test(needsAll(`${fixture} in onnxruntime, as CUDA kernels`), async () => {
    assert(await runsSession(fixture, "f32", "sm_80"));
  });
}

for (
  const [cache, architecture] of [
    ["bf16", "sm_80"],
    ["bf16", "sm_86"],
    ["bf16", "sm_90a"],
    ["fp8", "sm_80"],
    ["fp8", "sm_86"],
    ["fp8", "sm_90a"],
  ] as const
) {
  const name = `LatentAttention in onnxruntime, as CUDA kernels on ${architecture}, ${cache} cache`;
  Deno.test(needs(name, "build", "cargo", "python", "nvcc"), async () => {
    const script = `${repository}tests/python/check_cuda_attention.py`;
    const env = {
      HYBRIDSEEK_CUDART: (await emulator()).runtime,
      HYBRIDSEEK_EMU_ARCH: architecture,
    };
    assert(await succeeds(python!, [script, await emulatedLibrary(), cache], env));
  });
}

// FlashInfer's kernels, and ours.
for (const width of ["128", "32"]) {
  const name = `PagedAttention of ${width} columns in onnxruntime, as CUDA kernels`;
  Deno.test(needs(name, "build", "cargo", "python", "nvcc"), async () => {
    const script = `${repository}tests/python/check_cuda_paged.py`;
    const env = { HYBRIDSEEK_CUDART: (await emulator()).runtime, ...UNWRITTEN_ROWS };
    assert(await succeeds(python!, [script, await emulatedLibrary(), width], env));
  });
}

async function selftest(env: Record<string, string>): Promise<{ code: number; text: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `${repository}src/cli/main.ts`, "gpu", "selftest", "--no-timing"],
    env: { HYBRIDSEEK_NATIVE: await emulatedLibrary(), ...env },
  }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  console.log(text);
  return { code, text };
}

Deno.test(
  needs("hybridseek gpu selftest on the emulated runtime", "build", "cargo", "nvcc"),
  async () => {
    for (const architecture of ["sm_80", "sm_86", "sm_90a"]) {
      const { code, text } = await selftest({
        HYBRIDSEEK_CUDART: (await emulator()).runtime,
        HYBRIDSEEK_EMU_ARCH: architecture,
        ...UNWRITTEN_ROWS,
      });
      assert.equal(code, 0);
      assert.equal(text.match(/^ok /gm)?.length, 9);
    }
  },
);

Deno.test(
  needs("without a GPU the selftest says what is missing", "build", "cargo", "nvcc"),
  async () => {
    const none = await selftest({ HYBRIDSEEK_CUDART: "/nowhere/libcudart.so.13" });
    assert.notEqual(none.code, 0);
    assert.match(none.text, /nowhere\/libcudart\.so\.13.*pip install nvidia-cuda-runtime/);
    const { cudaHome } = await cudaToolchain(`${repository}gpu/`);
    const library = `${cudaHome}/lib/libcudart.so.13`;
    const hasDriver = new Deno.Command("sh", {
      args: ["-c", "ldconfig -p | grep -q libcuda.so.1"],
    });
    if (hasDriver.outputSync().success) return;
    const idle = await selftest({ HYBRIDSEEK_CUDART: library });
    assert.notEqual(idle.code, 0);
    assert.match(idle.text, /libcudart\.so\.13 finds no device .*driver 580/);
  },
);
