/**
 * Routed experts on the host: the CPU kernel computes them inside sessions whose other kernels are CUDA's, on
 * the emulated runtime.
 */
import { strict as assert } from "node:assert";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { shapes } from "../../bench/synthetic/shapes.ts";
import { writeRandomPackage } from "../../bench/synthetic/write_random_package.ts";
import { placeExperts, planPlacement } from "../../src/backend/native/placement.ts";
import { ModelProtoSchema } from "../../src/onnx/onnx_pb.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { LLM } from "../../src/llm.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import { packageOf, temporaryPath } from "../packages.ts";
import { nativeLibrary, needs as needsData } from "../shared.ts";
import { emulatedLibrary, emulator, needs, python, succeeds } from "./gpu.ts";

const needsAll = (name: string) => {
  const tools = needs(name, "build", "cargo", "python", "nvcc");
  const data = needsData(tools.name, { shared: true, native: true });
  return { name: data.name, ignore: tools.ignore || data.ignore };
};

/** Writes the model into its package with the experts of so many layers on the host. */
function place(folder: string, count: number): string {
  const bytes = Deno.readFileSync(`${folder}/model.onnx`);
  const model = fromBinary(ModelProtoSchema, bytes);
  const { hostRouters } = planPlacement(readModel(folder, bytes), count, Infinity, () => 0);
  placeExperts(model, hostRouters);
  const path = `${folder}/placed-${count}.onnx`;
  Deno.writeFileSync(path, toBinary(ModelProtoSchema, model));
  return path;
}

async function agrees(
  folder: string,
  layers: number,
  model: "f32" | "int4" | "random",
): Promise<boolean> {
  const tolerances = new URL("session_tolerances.json", import.meta.url);
  const placed = Array.from({ length: layers + 1 }, (_, count) => place(folder, count));
  const script = new URL("../python/check_cuda_hybrid.py", import.meta.url).pathname;
  const tolerance = JSON.parse(Deno.readTextFileSync(tolerances))[model];
  return await succeeds(
    python!,
    [
      script,
      await emulatedLibrary(),
      nativeLibrary,
      folder,
      `${tolerance}`,
      `${layers}`,
      ...placed,
    ],
    {
      HYBRIDSEEK_CUDART: (await emulator()).runtime,
      HYBRIDSEEK_EMU_ARCH: "sm_80",
      HYBRIDSEEK_EMU_LOG: temporaryPath("launches.jsonl"),
    },
  );
}

/** V2-Lite with deepseek-v2-wide's sizes and three layers with experts. */
const wide = {
  ...shapes["tiny"]!,
  ...{ num_hidden_layers: 4, vocab_size: 512, hidden_size: 128, moe_intermediate_size: 64 },
  ...{ kv_lora_rank: 512, qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128 },
};

for (const weights of ["f32", "int4"] as const) {
  Deno.test(needsAll(`deepseek-v2-wide, ${weights}, experts on the host or not`), async () => {
    const folder = await packageOf("deepseek-v2-wide", { weights });
    assert(await agrees(folder, 1, weights));
  });
}

async function randomPackage(): Promise<string> {
  const folder = temporaryPath("wide");
  await writeRandomPackage(wide, folder, { weights: "int4" });
  return folder;
}

Deno.test(needsAll("three layers, the experts of none, some and all on the host"), async () => {
  assert(await agrees(await randomPackage(), 3, "random"));
});

interface Line {
  tokens?: number[];
  bytes?: Record<string, number>;
  code?: string;
  message?: string;
}

/** What backend cuda says to options, on the emulated runtime. */
async function opened(folder: string, ...options: OpenOptions[]): Promise<Line[]> {
  const program = new URL("hybrid_program.ts", import.meta.url).pathname;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", program, folder, ...options.map((option) => JSON.stringify(option))],
    env: {
      HYBRIDSEEK_NATIVE: await emulatedLibrary(),
      HYBRIDSEEK_CUDART: (await emulator()).runtime,
      HYBRIDSEEK_EMU_ARCH: "sm_80",
    },
  }).output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  assert.equal(lines.length, options.length, new TextDecoder().decode(stderr));
  return lines.map((line) => JSON.parse(line));
}

Deno.test(
  needs("backend cuda gives the same tokens wherever experts are", "build", "cargo", "nvcc"),
  async () => {
    const folder = await randomPackage();
    await using llm = await LLM.open(folder, { contextLength: 256 });
    const [result] = await llm.generate(
      { promptTokenIds: [1, 2, 3, 4, 5, 6, 7] },
      { temperature: 0, maxTokens: 8, ignoreEos: true },
    );
    const { tokenIds } = result!.outputs[0]!;
    const all = await opened(folder, {}, { experts: 1 }, { experts: 2 }, { experts: "cpu" });
    for (const { tokens } of all) assert.deepEqual(tokens, tokenIds);
    // 16 experts of 64 in 128 columns, int4 with scales, and the router.
    const layer = 16 * 3 * 64 * 128 / 32 * 18 + 16 * 128 * 4;
    const onHost = all.map(({ bytes }) =>
      Object.entries(bytes!).find(([name]) => name.includes("host"))?.[1] ?? 0
    );
    assert.deepEqual(onHost, [0, layer, 2 * layer, 3 * layer]);
    const weights = all.map(({ bytes }) => all[0]!.bytes!.weights! - bytes!.weights!);
    assert.deepEqual(weights, onHost);
  },
);

Deno.test(
  needs(
    "backend cuda says how many layers fit, and refuses what can not be",
    "build",
    "cargo",
    "nvcc",
  ),
  async () => {
    const folder = await randomPackage();
    const [{ bytes }] = await opened(folder, { cacheTokens: 256 }) as [Line];
    // The emulated device has 8 GiB; one byte less than all of the plan.
    const gpuMemory = (Object.values(bytes!).reduce((sum, part) => sum + part, 0) - 1) / 2 ** 33;
    const lines = await opened(
      folder,
      { cacheTokens: 256, gpuMemory },
      { cacheTokens: 256, gpuMemory, experts: 1 },
      { experts: 4 },
      { experts: "cpu", memoryBytes: 1000 },
      { experts: "cpu", cudaGraphs: true },
      { experts: 1, backend: "wasm" },
    );
    const [full, one, four, small, graphs, wasm] = lines;
    assert.equal(full!.code, "out_of_memory");
    assert.match(full!.message!, /With experts: 1 \(--experts 1\) it fits/);
    assert.equal(one!.tokens!.length, 8);
    assert.match(four!.message!, /experts is 4, .*0 to 3/);
    assert.match(small!.message!, /experts of 3 layers take .*--experts 0\) it fits/);
    assert.match(graphs!.message!, /cudaGraphs is true, which needs all experts on the GPU/);
    assert.match(wasm!.message!, /backend wasm .*use cuda/);
  },
);
