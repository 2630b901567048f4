/**
 * Backend ort-native beyond its results: caches are updated in place, memory stays as it is, sessions run side
 * by side, and what is wrong or missing is refused with a typed error.
 */
import { strict as assert } from "node:assert";
import { spawnSync } from "node:child_process";
import {
  type Addon,
  findOnnxRuntime,
  type HostTensor,
  loadAddon,
  openOnnxRuntime,
} from "../../src/backend/native/addon.ts";
import { openNativeBackend } from "../../src/backend/native/native_backend.ts";
import type { StepPlan } from "../../src/backend/step_plan.ts";
import { BackendError, type HybridseekError, UnsupportedError } from "../../src/errors.ts";
import { embeddedModel } from "../../src/files/embedded_model.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { LLM } from "../../src/llm.ts";
import { modelSpec } from "../../src/model_spec.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { bodyModel, type OpCase, opCases, varies } from "../ops/op_case.ts";
import { temporaryPath } from "../packages.ts";
import { needs } from "../shared.ts";

const native = (name: string) => needs(name, { native: true });
const PROMPT = "Once upon a time there was";
/** Steps after which no more memory must be taken. */
const WARM_UP_STEPS = 1000;
const STEPS = 10_000;
/** A leak of half a kilobyte a step would exceed it; the garbage collector's mood does not. */
const GROWTH_BYTES = 5 * 1024 * 1024;

/** The embedded model on the backend itself. */
async function openEmbedded() {
  const model = await ModelPackage.open(embeddedModel());
  const graph = readModel("model.onnx", await model.readAll("model.onnx"));
  const sizes = { contextLength: 64, cacheTokens: 64, threads: 2 };
  return await openNativeBackend(model, graph, modelSpec(graph), sizes);
}

function decodeStep(token: number, position: number): StepPlan {
  return {
    tokenIds: Int32Array.of(token),
    positions: Int32Array.of(position),
    slots: Int32Array.of(16 + position),
    queryStarts: Int32Array.of(0, 1),
    contextLengths: Int32Array.of(position + 1),
    blockTables: Int32Array.of(1, 2, 3, 4),
    logitRows: Int32Array.of(0),
  };
}

Deno.test(
  native("a cache bound as input and output is updated in place, and not copied"),
  async () => {
    const addon = await loadAddon();
    const { path } = await openOnnxRuntime(addon);
    const opCase = caseOf("latent_attention-decode");
    const cache = opCase.inputs.get("cache")!;
    const session = await addon.createSession(path, bodyModel(opCase), ".", 1);
    const tensor = addon.createTensor(path, "cpu", "float32", cache.dims);
    const address = addon.addressOf(tensor);
    addon.writeTensor(tensor, 0, cache.values as Float32Array);
    addon.bindInPlace(session, "cache", "cache_out", tensor);
    const named = (tensors: HostTensor[], name: string) =>
      tensors.find((tensor) => tensor[0] === name)!;
    const copies = addon.cacheCopies();
    await addon.run(session, feeds(opCase, "cache"), [named(results(opCase), "y")]);
    assert.equal(addon.cacheCopies(), copies);
    assert.equal(addon.addressOf(tensor), address);
    const updated = new Float32Array(cache.values.length);
    addon.readTensor(tensor, 0, updated);
    assert.notDeepEqual(updated, cache.values);

    // The count is no dead letter: with another output the kernel copies, and the input stays as it was.
    const second = await addon.createSession(path, bodyModel(opCase), ".", 1);
    const inputs = feeds(opCase);
    const outputs = results(opCase);
    await addon.run(second, inputs, outputs);
    assert.equal(addon.cacheCopies(), copies + 1);
    assert.deepEqual(named(outputs, "cache_out")[2], updated);
    assert.deepEqual(named(inputs, "cache")[2], cache.values);
  },
);

Deno.test(native("generating copies no cache, and leaves the event loop free"), async () => {
  const addon = await loadAddon();
  await using llm = await LLM.open(undefined, { backend: "ort-native" });
  const copies = addon.cacheCopies();
  let ticks = 0;
  const timer = setInterval(() => ticks++, 0);
  const [result] = await llm.generate(PROMPT, { temperature: 0, maxTokens: 64 });
  clearInterval(timer);
  assert(result!.outputs[0]!.tokenIds.length > 8);
  assert.equal(addon.cacheCopies(), copies);
  assert(ticks > 0);
});

Deno.test(native(`${STEPS} steps take no more memory than ${WARM_UP_STEPS}`), async () => {
  const backend = await openEmbedded();
  let before = 0;
  for (let step = 0; step < STEPS; step++) {
    if (step === WARM_UP_STEPS) before = Deno.memoryUsage().rss;
    await backend.run(decodeStep(step % 100, step % 64));
  }
  const growth = Deno.memoryUsage().rss - before;
  console.log(`grown by ${(growth / 2 ** 20).toFixed(1)} MiB`);
  await backend.close();
  assert(growth <= GROWTH_BYTES, `${growth} bytes`);
});

Deno.test(native("two workers and this thread generate at once, each its own text"), async () => {
  const script = new URL("generate_worker.ts", import.meta.url);
  const workers = [0, 1].map(() => new Worker(script, { type: "module" }));
  const answers = workers.map((worker) =>
    new Promise<unknown>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = reject;
    })
  );
  for (const worker of workers) worker.postMessage(PROMPT);
  await using llm = await LLM.open(undefined, { backend: "ort-native" });
  const params = { temperature: 0, maxTokens: 32 };
  const [here, again] = await Promise.all([
    llm.generate(PROMPT, params),
    llm.chat([[{
      role: "user",
      content: PROMPT,
    }]], params),
  ]);
  assert.notEqual(again[0]!.outputs[0]!.text, "");
  for (const answer of await Promise.all(answers)) {
    assert.deepEqual(answer, here[0]!.outputs[0]!.tokenIds);
  }
  for (const worker of workers) worker.terminate();
});

Deno.test(native("after close() a step is refused"), async () => {
  const backend = await openEmbedded();
  await backend.run(decodeStep(1, 0));
  await backend.close();
  await assert.rejects(
    backend.run(decodeStep(1, 1)),
    (error: HybridseekError) => error instanceof BackendError && error.code === "closed",
  );
});

/** Wrong values of inputs that kernels take indices from, by the case they are put into. */
const wrongSteps: [
  name: string,
  input: string,
  change: (values: Int32Array) => void,
  message: RegExp,
][] = [
  ["a slot behind the cache", "slots", (v) => v[0] = 1 << 20, /slots\[0\] is 1048576/],
  ["a negative slot", "slots", (v) => v[0] = -1, /slots\[0\] is -1/],
  ["starts that fall", "query_starts", (v) => v[1] = -3, /query_starts\[1\] is -3/],
  ["starts that end early", "query_starts", (v) => v[v.length - 1]!--, /query_starts\[/],
  [
    "a context beyond the table",
    "context_lengths",
    (v) => v[0] = 9999,
    /context_lengths\[0\] is 9999/,
  ],
  ["a context below its tokens", "context_lengths", (v) => v[0] = -1, /context_lengths\[0\] is -1/],
  ["a block that is none", "block_tables", (v) => v[0] = 77777, /block_tables\[0\] is 77777/],
];

for (const name of ["latent_attention-prefill", "paged_attention-ragged_odd"]) {
  Deno.test(
    native(`${name}: indices out of range are refused, and the session goes on`),
    async () => {
      const addon = await loadAddon();
      const { path } = await openOnnxRuntime(addon);
      const opCase = caseOf(name);
      const session = await addon.createSession(path, bodyModel(opCase), ".", 2);
      const outputs = results(opCase);
      await addon.run(session, feeds(opCase), outputs);
      const [[, , want]] = structuredClone(outputs.slice(0, 1)) as [HostTensor];
      for (const [what, input, change, message] of wrongSteps) {
        const inputs = feeds(opCase);
        change(inputs.find(([name]) => name === input)![2] as Int32Array);
        await assert.rejects(addon.run(session, inputs, results(opCase)), message, what);
      }
      const inputs = feeds(opCase).map(([name, [first, ...rest], values]): HostTensor =>
        name === "cos"
          ? [name, [first! - 1, ...rest], values.subarray(0, values.length - rest[0]!)]
          : [
            name,
            [first!, ...rest],
            values,
          ]
      );
      await assert.rejects(addon.run(session, inputs, results(opCase)), /input: cos/);
      await addon.run(session, feeds(opCase), outputs);
      assert.deepEqual(outputs[0]![2], want);
    },
  );
}

Deno.test(native("nodes that contradict themselves are refused by their names"), async () => {
  const addon = await loadAddon();
  const { path } = await openOnnxRuntime(addon);
  const refused = async (opCase: OpCase, message: RegExp) =>
    await assert.rejects(addon.createSession(path, bodyModel(opCase), ".", 1), message);
  const experts = caseOf("sparse_experts-int4");
  const attributes = (changed: Record<string, number>) => ({
    ...experts,
    attributes: { ...experts.attributes, ...changed },
  });
  await refused(attributes({ k: 1000 }), /SparseExperts ".*": k is 1000/);
  await refused(attributes({ groups: 0 }), /groups is 0/);
  await refused(attributes({ first_expert: 1000 }), /first_expert is 1000/);
  const down = experts.inputs.get("down")!;
  const [held, ...rest] = down.dims;
  const fewer = new Map(experts.inputs).set("down", {
    ...down,
    dims: [held! - 1, ...rest],
    values: down.values.slice(0, down.values.length / held! * (held! - 1)),
  });
  await refused({ ...experts, inputs: fewer }, /down is \[/);
  const { k: _, ...none } = experts.attributes;
  await refused({ ...experts, attributes: none }, /k is 0/);
  const attention = caseOf("latent_attention-decode");
  await refused({ ...attention, attributes: {} }, /no attribute scale/);
});

Deno.test(native("the addon refuses arguments that are not what it takes"), async () => {
  const addon = await loadAddon();
  const { path } = await openOnnxRuntime(addon);
  const any = addon as unknown as Record<string, (...args: unknown[]) => unknown>;
  const tensor = addon.createTensor(path, "cpu", "float32", [2, 3]);
  const session = await addon.createSession(path, bodyModel(caseOf("sparse_experts-one")), ".", 1);
  const invalid = { code: "ORT_2" };
  assert.throws(() => any.addressOf!(session), invalid);
  assert.throws(() => any.addressOf!({}), invalid);
  assert.throws(() => any.addressOf!(), invalid);
  assert.throws(() => any.run!(tensor, [], []), invalid);
  assert.throws(() => any.run!(session, [["x", [1], "text"]], []), invalid);
  assert.throws(() => any.run!(session, [["x", [1]]], []), invalid);
  assert.throws(() => any.createTensor!(path, "disk", "float32", [1]), /a device is cpu or cuda/);
  assert.throws(() => any.createTensor!(path, "cpu", "text", [1]), /no such type/);
  assert.throws(() => any.createTensor!(path, "cpu", "float32", [-1]), invalid);
  assert.throws(() => addon.writeTensor(tensor, 20, new Float32Array(2)), /the tensor has 24/);
  assert.throws(() => addon.readTensor(tensor, -1, new Float32Array(1)), invalid);
  assert.throws(() => addon.copyWithin(tensor, 0, 20, 8), /the tensor has 24/);
  await assert.rejects(
    addon.run(session, [["x", [9], new Float32Array(3)]], []),
    /12 bytes for shape/,
  );
  await assert.rejects(addon.run(session, [["nothing", [1], new Float32Array(1)]], []));
  await assert.rejects(addon.createSession(path, Uint8Array.of(1, 2, 3), ".", 1));
  addon.closeTensor(tensor);
  assert.throws(() => addon.addressOf(tensor), /has been closed/);
  addon.closeSession(session);
  assert.throws(() => any.run!(session, [], []), /has been closed/);
});

Deno.test(
  native("a library of ONNX Runtime that is missing, none, or too old is named"),
  async () => {
    const addon = await loadAddon();
    const refused = async (path: string, ...messages: RegExp[]) => {
      const error = await openOnnxRuntime(addon, path).then(() => assert.fail(), (error) => error);
      assert(error instanceof UnsupportedError);
      for (const message of [...messages, /npm install .*onnxruntime-node@/]) {
        assert.match(error.message, message);
      }
    };
    await refused("/nowhere/libonnxruntime.so.1", /nowhere\/libonnxruntime\.so\.1/);
    await refused(new URL(import.meta.url).pathname, /native_backend_test\.ts/);
    const libc = "libc.so.6";
    await refused(libc, /libc\.so\.6 is no library of onnxruntime/);
    await refused(stub("1.16.3", 16), /is ONNX Runtime 1\.16\.3, needed is 1\.30 or later/);
    assert.match((await findOnnxRuntime())!, /libonnxruntime/);
  },
);

/** A library that says it were ONNX Runtime of a version; needs a C++ compiler, as the native library did. */
function stub(version: string, api: number): string {
  const [source, library] = [temporaryPath("stub.cc"), temporaryPath("libonnxruntime.so")];
  Deno.writeTextFileSync(
    source,
    `static const void* table[300];
     static const void* get(unsigned version) { return version <= ${api} ? table : nullptr; }
     static const char* name() { return "${version}"; }
     static const struct { const void* (*a)(unsigned); const char* (*b)(); } base = {get, name};
     extern "C" const void* OrtGetApiBase() { return &base; }`,
  );
  const { status, stderr } = spawnSync("c++", ["-shared", "-fPIC", "-o", library, source], {
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
  return library;
}

Deno.test("without the native library the backend says what builds it", async () => {
  const before = Deno.env.get("HYBRIDSEEK_NATIVE");
  Deno.env.set("HYBRIDSEEK_NATIVE", "/nowhere/hybridseek.node");
  try {
    await assert.rejects(
      LLM.open(undefined, { backend: "ort-native" }),
      (error: HybridseekError) =>
        error instanceof UnsupportedError &&
        /\/nowhere\/hybridseek\.node.*hybridseek gpu build/.test(error.message),
    );
  } finally {
    if (before === undefined) Deno.env.delete("HYBRIDSEEK_NATIVE");
    else Deno.env.set("HYBRIDSEEK_NATIVE", before);
  }
});

Deno.test(native("threads out of range are refused"), async () => {
  for (const threads of [0, 65, 1.5]) {
    await assert.rejects(
      LLM.open(undefined, { backend: "ort-native", threads }),
      /threads is .*, it can be 1 to 64/,
    );
  }
});

function caseOf(name: string): OpCase {
  return opCases().find((opCase) => opCase.name === name)!;
}

/** What varies from step to step, but for one input; fresh memory each time. */
function feeds({ inputs }: OpCase, without?: string): HostTensor[] {
  return [...inputs].filter(([name]) => varies(name) && name !== without)
    .map(([name, { dims, values }]) => [name, dims, values.slice()] as HostTensor);
}

/** Room for the outputs. */
function results({ outputs }: OpCase): HostTensor[] {
  return [...outputs].map(([name, { type, dims, values }]) => [
    name,
    dims,
    new (type === "I32" ? Int32Array : Float32Array)(values.length),
  ]);
}

Deno.test(native("the native library is built from these sources"), async () => {
  const { sourceFolder, sourcesHash } = await import("../../src/cli/native_build.ts");
  const { sources }: Addon = await loadAddon();
  assert.equal(sources, sourcesHash(sourceFolder()), "run hybridseek gpu build");
});
