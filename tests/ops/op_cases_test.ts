/**
 * Every op case by the engine's kernels (every build, and the native library's in ONNX Runtime) and by the
 * function bodies on stock ONNX Runtime, against the float64 results that numpy computed.
 */
import { strict as assert } from "node:assert";
import {
  type Addon,
  type HostTensor,
  loadAddon,
  type NativeSession,
  type NativeValues,
  openOnnxRuntime,
} from "../../src/backend/native/addon.ts";
import type { OrtModule } from "../../src/backend/ort.ts";
import { compileProgram } from "../../src/backend/wasm/compile_program.ts";
import { type EngineBuild, engineSizes } from "../../src/backend/wasm/engine_module.ts";
import { startRunner } from "../../src/backend/wasm/engine_runner.ts";
import { placeLoadedExperts } from "../../src/backend/wasm/expert_places.ts";
import { planMemory, writeJob, writeSizes } from "../../src/backend/wasm/memory_plan.ts";
import { loadWeights, stagingBytes } from "../../src/backend/wasm/weight_loader.ts";
import { WorkerTeam } from "../../src/backend/wasm/worker_team.ts";
import { CHUNK_BYTES } from "../../src/files/manifest.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import type { Values } from "../safetensors_values.ts";
import { needs } from "../shared.ts";
import {
  bodyModel,
  bodyOf,
  isCache,
  kernelModel,
  type OpCase,
  opCases,
  tolerance,
  varies,
  weightsOf,
} from "./op_case.ts";

for (const opCase of opCases()) {
  Deno.test(`${opCase.name}: the kernels give the float64 results`, async () => {
    for (const [name, got] of await runKernels(opCase, "simd")) {
      compare(opCase, name, got, "kernel");
    }
  });
  if (opCase.op === "LatentAttention") {
    Deno.test(`${opCase.name}: the kernels that need not be exact give the float64 results`, async () => {
      for (const build of ["simd", "relaxed-simd"] as const) {
        for (const [name, got] of await runKernels(opCase, build, undefined, false)) {
          compare(opCase, name, got, "kernel");
        }
      }
    });
  }
  Deno.test(`${opCase.name}: the body gives the float64 results on stock ONNX Runtime`, async () => {
    const results = await runBody(opCase, bodyModel(opCase));
    assert.equal(results.size, opCase.outputs.size);
    for (const [name, got] of results) compare(opCase, name, got, "body");
  });
}

for (
  const [build, threads] of [
    ["relaxed-simd", 1],
    ["threads-simd", 1],
    ["threads-simd", 3],
    ["threads-relaxed-simd", 2],
    ["memory64", 1],
    ["memory64", 5],
  ] as const
) {
  Deno.test(`build ${build} with ${threads} threads gives the bits of build simd`, async () => {
    for (const opCase of opCases()) {
      const [plain, other] = [
        await runKernels(opCase, "simd"),
        await runKernels(opCase, build, threads),
      ];
      assert.deepEqual(other, plain, opCase.name);
    }
  });
}

Deno.test(
  needs("the native kernels give the float64 results, and the bits of build simd", {
    native: true,
  }),
  async () => {
    const addon = await loadAddon();
    const { path } = await openOnnxRuntime(addon);
    for (const opCase of opCases()) {
      const session = await addon.createSession(path, bodyModel(opCase), ".", 2);
      const plain = await runKernels(opCase, "simd");
      for (const [name, got] of await runNative(addon, session, opCase)) {
        compare(opCase, name, got, "kernel");
        assert.deepEqual(bitsOf(got), bitsOf(plain.get(name)!), `${opCase.name} ${name}`);
      }
      addon.closeSession(session);
    }
  },
);

/** Runs a session on a case; the caches are input and output at once. */
async function runNative(
  addon: Addon,
  session: NativeSession,
  { inputs, outputs }: OpCase,
): Promise<Map<string, NativeValues>> {
  const feeds = [...inputs].filter(([name]) => varies(name)).map(([name, { dims, values }]) =>
    [name, dims, values.slice()] as HostTensor
  );
  const results = [...outputs].map(([name, { type, dims, values }]): HostTensor => {
    const cache = feeds.find(([input]) => name === `${input}_out`);
    const Elements = type === "I32" ? Int32Array : Float32Array;
    return [name, dims, cache ? cache[2] : new Elements(values.length)];
  });
  await addon.run(session, feeds, results);
  return new Map(results.map(([name, , values]) => [name, values]));
}

function bitsOf({ buffer, byteOffset, byteLength }: Values | NativeValues): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

Deno.test("a body with one op exchanged no longer gives the float64 results", async () => {
  // What shows that the bodies are what runs: each of these small changes must be seen.
  const breaks: Record<string, [from: string, to: string]> = {
    "latent_attention-decode": ["LessOrEqual", "Less"],
    "paged_attention-multi_head": ["LessOrEqual", "Less"],
    "sparse_experts-greedy": ["Sigmoid", "Tanh"],
  };
  for (const opCase of opCases().filter(({ name }) => name in breaks)) {
    const body = bodyOf(opCase);
    const [from, to] = breaks[opCase.name]!;
    const graphs = body.node.flatMap((node) => node.attribute.flatMap(({ g }) => g?.node ?? []));
    const node = graphs.find(({ opType }) => opType === from);
    assert(node, `${opCase.name} has no ${from}`);
    node.opType = to;
    const results = await runBody(opCase, bodyModel(opCase, body));
    assert.throws(() => compare(opCase, "y", results.get("y")!, "body"), assert.AssertionError);
  }
});

/** Worst error must be within the tolerance; NaN only where it is expected, and there always. */
function compare(opCase: OpCase, output: string, got: Values, by: "kernel" | "body") {
  const want = opCase.outputs.get(output)!.values;
  const place = `${opCase.name} ${output}`;
  assert.equal(got.length, want.length, place);
  if (want instanceof Int32Array) return assert.deepEqual([...got], [...want], place);
  const largest = Math.max(
    ...Array.from(want as Iterable<number>, (value) => Math.abs(value || 0)),
  );
  // Weights of the experts come from the router, which is f32 always.
  const weights = output === "weights" ? "f32" : weightsOf(opCase);
  const bound = tolerance(opCase.op, weights, by) * largest;
  for (const [i, value] of want.entries()) {
    if (Number.isNaN(value)) assert(Number.isNaN(got[i]), `${place} at ${i}: ${got[i]}, not NaN`);
    else assert(Math.abs(got[i]! - value) <= bound, `${place} at ${i}: ${got[i]}, not ${value}`);
  }
}

let ort: Promise<OrtModule> | undefined;

async function runBody(opCase: OpCase, model: Uint8Array): Promise<Map<string, Values>> {
  ort ??= import("npm:onnxruntime-node@1.30.0").then((module) => module.default);
  const { InferenceSession, Tensor } = await ort;
  const session = await InferenceSession.create(model, { logSeverityLevel: 3 });
  const feeds = Object.fromEntries(
    [...opCase.inputs].filter(([name]) => varies(name)).map(([name, { type, values, dims }]) => [
      name,
      new Tensor(type === "I32" ? "int32" : "float32", values as Float32Array, dims),
    ]),
  );
  const results = await session.run(feeds);
  await session.release();
  return new Map(Object.entries(results).map(([name, { data }]) => [name, data as Values]));
}

/** Runs the kernels on the caller's thread, or on a team of workers. */
async function runKernels(
  opCase: OpCase,
  build: EngineBuild,
  threads?: number,
  exact = true,
): Promise<Map<string, Values>> {
  const { bytes, data } = kernelModel(opCase);
  const graph = readModel(opCase.name, bytes);
  const input = (name: string) => opCase.inputs.get(name)!;
  const caches = [...opCase.inputs].filter(([name]) => isCache(name));
  const tokens = (opCase.inputs.get("query") ?? input("x")).dims[0]!;
  const contexts = opCase.inputs.get("context_lengths")?.values as Int32Array | undefined;
  const blockSize = caches[0]?.[1].dims[1] ?? 1;
  const tableWidth = opCase.inputs.get("block_tables")?.dims[1] ?? 0;
  const sequences = contexts?.length ?? 0;
  const engine = engineSizes();
  const limits = {
    tokens,
    sequences,
    logitRows: 1,
    contextLength: Math.max(1, tableWidth * blockSize),
    blocks: caches[0]?.[1].dims[0] ?? 1,
    blockSize,
  };
  const options = { limits, threads: threads ?? 1, cacheType: "f32", exact } as const;
  const program = compileProgram(graph, options, engine);
  const plan = planMemory(program, options.threads, {
    teamBytes: engine.team_bytes(),
    stagingBytes: stagingBytes(program.loads, engine, options.threads),
  });
  const team = build.startsWith("threads") || build === "memory64"
    ? await WorkerTeam.start(options.threads)
    : undefined;
  const runner = await startRunner(team, build, plan);
  const { buffer } = runner.memory;
  // Whatever a kernel reads without having written it is NaN.
  new Uint32Array(buffer, plan.stacks).fill(0xffffffff);
  const source = {
    readChunk(_: string, index: number, wanted: number, into: Uint8Array) {
      into.set(data.subarray(index * CHUNK_BYTES).subarray(0, wanted));
      return Promise.resolve();
    },
  };
  await loadWeights(source, program.loads, engine, runner, plan);
  placeLoadedExperts(runner.memory, plan, program.experts);

  const { words, tensors } = program;
  const table = tensors.map(({ bytes }, tensor) => ({ address: plan.tensors[tensor]!, bytes }));
  writeJob(runner.memory, plan, plan.step, words, table);
  for (const [name, tensor] of program.inputs) {
    const values = name === "token_ids"
      ? Int32Array.from({ length: tokens }, (_, i) => i)
      : (opCase.inputs.get(name)?.values ?? new Int32Array()) as Int32Array;
    new Int32Array(buffer, plan.tensors[tensor]).set(values);
  }
  for (const [i, [, { values }]] of caches.entries()) {
    new Float32Array(buffer, plan.tensors[program.caches[i]!.tensor]).set(values as Float32Array);
  }
  writeSizes(runner.memory, plan, [tokens, 0, sequences, tableWidth]);
  await runner.run(plan.step.job);

  const results = new Map<string, Values>();
  for (const [name, { tensor, type }] of program.outputs) {
    const { values: { length } } = opCase.outputs.get(name)!;
    const Elements = type === "i32" ? Int32Array : Float32Array;
    results.set(name, new Elements(buffer, plan.tensors[tensor], length).slice());
  }
  for (const [i, [name, { values }]] of caches.entries()) {
    const address = plan.tensors[program.caches[i]!.tensor];
    results.set(`${name}_out`, new Float32Array(buffer, address, values.length).slice());
  }
  runner.close();
  return results;
}
