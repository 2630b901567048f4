/**
 * Backend cuda as programs use it, on the emulated runtime; and what it says where something is missing.
 */
import { strict as assert } from "node:assert";
import { loadAddon } from "../../src/backend/native/addon.ts";
import {
  CapacityError,
  type HybridseekError,
  InvalidArgumentError,
  UnsupportedError,
} from "../../src/errors.ts";
import { LLM } from "../../src/llm.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import { withEnvironment } from "../environment.ts";
import { packageOf } from "../packages.ts";
import { needs as needsLibrary } from "../shared.ts";
import { emulatedLibrary, emulator, needs, succeeds } from "./gpu.ts";

const wide = "deepseek-v2-wide";
const needsEmulated = (name: string) => needs(name, "shared", "build", "cargo", "nvcc");

for (
  const [fixture, weights, cacheType, architecture] of [
    [wide, "f32", "bf16", "sm_90a"],
    [wide, "int4", "bf16", "sm_86"],
    [wide, "f32", "fp8", "sm_80"],
    ["deepseek-llm-gqa", "f32", "bf16", "sm_80"],
  ] as const
) {
  const name =
    `${fixture}, ${weights}, on backend cuda, ${cacheType} cache, emulated ${architecture}`;
  Deno.test(needsEmulated(name), async () => {
    const script = new URL("cuda_backend_program.ts", import.meta.url).pathname;
    const env = {
      HYBRIDSEEK_NATIVE: await emulatedLibrary(),
      HYBRIDSEEK_CUDART: (await emulator()).runtime,
      HYBRIDSEEK_EMU_ARCH: architecture,
    };
    const args = ["run", "-A", script, fixture, weights, cacheType];
    assert(await succeeds(Deno.execPath(), args, env));
  });
}

/** Opens a fixture on cuda with variables of the environment, and gives the error. */
async function refusal(
  name: string,
  variables: Record<string, string>,
  options: OpenOptions = {},
): Promise<HybridseekError> {
  const folder = await packageOf(name, { weights: "f32" });
  return await withEnvironment(
    variables,
    () =>
      LLM.open(folder, { backend: "cuda", contextLength: 128, ...options })
        .then(() => assert.fail("it opened"), (error) => error),
  );
}

Deno.test(needsEmulated("options that cuda does not take, and too little memory"), async () => {
  const variables = {
    HYBRIDSEEK_NATIVE: await emulatedLibrary(),
    HYBRIDSEEK_CUDART: (await emulator()).runtime,
  };
  for (
    const [options, field] of [
      [{ cacheType: "int8" }, "cacheType"],
      [{ gpuMemory: 0 }, "gpuMemory"],
      [{ gpuMemory: 1.5 }, "gpuMemory"],
      [{ cudaGraphs: 1 as never }, "cudaGraphs"],
      [{ threads: 0 }, "threads"],
      [{ tensorParallel: 2 }, "tensorParallel"],
    ] as const
  ) {
    const error = await refusal(wide, variables, options);
    assert(error instanceof InvalidArgumentError && error.field === field, error.message);
  }
  const full = await refusal(wide, variables, { gpuMemory: 0.05 });
  assert(full instanceof CapacityError);
  assert.match(full.message, /of the GPU's 8\.6 GB there are 0\.4 GB with gpuMemory 0\.05\. Lower/);
  const other = await refusal("deepseek-llm-mha", variables, { cacheType: "fp8" });
  assert(other instanceof UnsupportedError);
  assert.match(other.message, /PagedAttention has no CUDA kernel for a cache of fp8; use bf16/);
  const graphs = await refusal("deepseek-llm-mha", variables, { cudaGraphs: true });
  assert(graphs instanceof InvalidArgumentError && graphs.field === "cudaGraphs");
});

Deno.test(
  needsEmulated("a step that is planned wrongly is refused, and so is a plan of another"),
  async () => {
    const variables = {
      HYBRIDSEEK_NATIVE: await emulatedLibrary(),
      HYBRIDSEEK_CUDART: (await emulator()).runtime,
    };
    await withEnvironment(variables, async () => {
      const addon = await loadAddon();
      const plan = addon.createPlan([4, 2, 3]);
      const array = (...values: number[]) => Int32Array.of(...values);
      type Step = Parameters<typeof addon.planStep>[2];
      const step: Step = [array(16, 33), array(0, 1, 2), array(1, 18), array(1, 0, 2, 3)];
      const planned = (change: number, values: Int32Array) =>
        addon.planStep(plan, [16, 16, 8], step.with(change, values) as unknown as Step);
      const number = addon.planStep(plan, [16, 16, 8], step);
      assert.equal(addon.planStep(plan, [16, 16, 8], step), number);
      assert.throws(() => planned(0, array(16, 128)), /slots\[1\] is 128, it can be 0 to 127/);
      assert.throws(() => planned(1, array(0, 2, 1)), /query_starts\[2\] is 1/);
      assert.throws(() => planned(2, array(1, 33)), /context_lengths\[1\] is 33/);
      assert.throws(() => planned(3, array(1, 0, 2, 8)), /block_tables\[3\] is 8/);
      assert.throws(() => planned(3, array(1, 0, 2)), /do not fit each other/);
      assert.throws(() => addon.planStep(plan, [0, 16, 8], step), /no heads/);
      addon.closePlan(plan);
      assert.throws(() => addon.planStep(plan, [16, 16, 8], step), /has been closed/);
      assert.throws(() => addon.createTensor("libc.so.6", "cuda", "bfloat16", [1]), /libc/);
    });
  },
);

Deno.test(needsEmulated("a GPU that is too old is refused"), async () => {
  const script = `
    import { LLM } from ${JSON.stringify(new URL("../../mod.ts", import.meta.url).href)};
    const options = { backend: "cuda", contextLength: 128 };
    await LLM.open(${JSON.stringify(await packageOf(wide, { weights: "f32" }))}, options)
      .catch((error) => console.log(error.name, error.message));`;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", script],
    env: {
      HYBRIDSEEK_NATIVE: await emulatedLibrary(),
      HYBRIDSEEK_CUDART: (await emulator()).runtime,
      HYBRIDSEEK_EMU_ARCH: "sm_75",
    },
  }).output();
  assert.match(
    new TextDecoder().decode(stdout),
    /UnsupportedError .*compute capability 7\.5, 8\.0 or later is needed/,
  );
});

Deno.test(
  needsLibrary("without CUDA kernels, runtime, GPU or provider the error says what brings it", {
    shared: true,
    native: true,
  }),
  async () => {
    const message = async (variables: Record<string, string>) => {
      const error = await refusal(wide, variables);
      assert(error instanceof UnsupportedError, error.message);
      console.log(error.message);
      return error.message;
    };
    assert.match(
      await message({ HYBRIDSEEK_NATIVE: "/nowhere/hybridseek.node" }),
      /\/nowhere\/hybridseek\.node.*run hybridseek gpu build/,
    );
    if (!(await loadAddon()).cuda) {
      assert.match(await message({}), /has no CUDA kernels; run hybridseek gpu build --cuda/);
      return;
    }
    assert.match(
      await message({ HYBRIDSEEK_CUDART: "/nowhere/libcudart.so.13" }),
      /\/nowhere\/libcudart\.so\.13.*pip install nvidia-cuda-runtime.*gpu doctor/,
    );
    if (needs("", "build").ignore) return;
    // With a device, here the emulated one, onnxruntime-node's library lacks its provider.
    assert.match(
      await message({ HYBRIDSEEK_CUDART: (await emulator()).runtime }),
      /libonnxruntime\.so\.1.*no CUDA provider.*libonnxruntime_providers_shared\.so.*pip install "onnxruntime-gpu/s,
    );
  },
);
