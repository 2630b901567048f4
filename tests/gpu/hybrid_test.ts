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
import { packageOf, temporaryPath } from "../packages.ts";
import { nativeLibrary, needs as needsData } from "../shared.ts";
import { emulatedLibrary, emulator, needs, python, succeeds } from "./gpu.ts";

const needsAll = (name: string) => {
  const tools = needs(name, "build", "cargo", "python", "nvcc");
  const data = needsData(tools.name, { shared: true, native: true });
  return { name: data.name, ignore: tools.ignore || data.ignore };
};

const room = {
  ...{ deviceBytes: Infinity, hostBytes: Infinity, blockBytes: 1, leastBlocks: 1, logitRows: 1 },
};

/** Writes the model into its package with the experts of so many layers on the host. */
function place(folder: string, count: number): string {
  const bytes = Deno.readFileSync(`${folder}/model.onnx`);
  const model = fromBinary(ModelProtoSchema, bytes);
  placeExperts(model, planPlacement(readModel(folder, bytes), room, count).hostRouters);
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

Deno.test(needsAll("three layers, the experts of none, some and all on the host"), async () => {
  const folder = temporaryPath("wide");
  await writeRandomPackage(wide, folder, { weights: "int4" });
  assert(await agrees(folder, 3, "random"));
});
