/**
 * Threads that fail, can not be had, or are asked for in other ways: typed errors, never a hang, and the
 * next model opens.
 */
import { strict as assert } from "node:assert";
import { LLM } from "../../mod.ts";
import { engineSizes } from "../../src/backend/wasm/engine_module.ts";
import { startRunner } from "../../src/backend/wasm/engine_runner.ts";
import { planMemory, writeJob, writeSizes } from "../../src/backend/wasm/memory_plan.ts";
import { ProgramBuilder } from "../../src/backend/wasm/program_builder.ts";
import { WorkerTeam } from "../../src/backend/wasm/worker_team.ts";

const prompt = "Once upon a time there was";
const params = { temperature: 0, maxTokens: 400, ignoreEos: true };

Deno.test("a thread that traps ends the job of all, and every later one", async () => {
  const [rows, width] = [64, 4096]; // a row is an item of one thread
  const builder = new ProgramBuilder();
  const table = builder.tensor("weight", 2 * width * 4);
  const indices = builder.tensor("input", rows * 4);
  const y = builder.tensor("output", rows * width * 4);
  const tokens = { rows: "tokens" } as const;
  for (let i = 0; i < 3; i++) {
    builder.emit("gather", [
      { tensor: table },
      0,
      width,
      { tensor: indices },
      tokens,
      { tensor: y },
    ]);
  }
  const sizes = { teamBytes: engineSizes().team_bytes(), stagingBytes: 0 };
  const plan = planMemory(builder, 3, sizes);
  const runner = await startRunner(await WorkerTeam.start(3), "threads-simd", plan);
  const { memory } = runner;
  const places = builder.tensors.map(({ bytes }, tensor) => ({
    address: plan.tensors[tensor]!,
    bytes,
  }));
  writeJob(memory, plan, plan.step, builder.words, places);
  writeSizes(memory, plan, [rows, 0, 0, 0]);
  new Float32Array(memory.buffer, plan.tensors[table], 2 * width).fill(3);
  await runner.run(plan.step.job);
  const got = new Float32Array(memory.buffer, plan.tensors[y], rows * width);
  assert(got.every((value) => value === 3));

  new Int32Array(memory.buffer, plan.tensors[indices], rows)[40] = 2; // the table has rows 0 and 1
  await assert.rejects(runner.run(plan.step.job), Error);
  await assert.rejects(runner.run(plan.step.job), Error);
});

Deno.test("a worker that dies ends every request with a typed error, and the model opens again", async () => {
  const start = WorkerTeam.start;
  let team: WorkerTeam | undefined;
  WorkerTeam.start = async (count) => team = await start.call(WorkerTeam, count);
  try {
    const llm = await LLM.open(undefined, { threads: 2 });
    const events = llm.stream(prompt, params);
    await events.next();
    team!.close(); // as when the system ends them
    const failed = {
      name: "BackendError",
      code: "backend_failed",
      message: /open the model again/,
    };
    await assert.rejects(async () => {
      for await (const _ of events);
    }, failed);
    await assert.rejects(llm.generate(prompt, params), failed);
    await llm.close();
  } finally {
    WorkerTeam.start = start;
  }
  const short = { ...params, maxTokens: 12, seed: 1 };
  await using alone = await LLM.open();
  await using again = await LLM.open(undefined, { threads: 2 });
  const texts = await Promise.all([alone, again].map((llm) => llm.generate(prompt, short)));
  assert.deepEqual(texts[1], texts[0]);
});

Deno.test("llm.info says how many threads compute and why", async () => {
  const infoOf = async (options: Parameters<typeof LLM.open>[1]) => {
    await using llm = await LLM.open(undefined, options);
    const { build, threads, threadsReason, cacheType } = llm.info;
    return { build, threads, threadsReason, cacheType };
  };
  assert.deepEqual(await infoOf({}), {
    build: "relaxed-simd",
    threads: 1,
    threadsReason: "the model is small: the caller's thread computes",
    cacheType: "f32",
  });
  assert.deepEqual(await infoOf({ threads: 3, cacheType: "int8" }), {
    build: "threads-relaxed-simd",
    threads: 3,
    threadsReason: "as asked for",
    cacheType: "int8",
  });
});

Deno.test("memory is planned before it is taken, and refused with the way out", async () => {
  const plans: Record<string, number>[] = [];
  const options = {
    memoryBytes: 8 * 2 ** 20,
    onPlan: (info: { bytes: typeof plans[0] }) => plans.push(info.bytes),
  };
  await assert.rejects(LLM.open(undefined, options), {
    name: "CapacityError",
    code: "out_of_memory",
    message:
      /it needs \d+ MiB \(.*weights \d+ MiB.*memoryBytes allows 8 MiB; with workers .*; lower contextLength/,
  });
  assert.deepEqual(plans, []);
  await using llm = await LLM.open(undefined, { ...options, memoryBytes: 2 ** 30 });
  assert.deepEqual(plans, [llm.info.bytes]);
});

Deno.test("threads, builds, cacheType, exact and memoryBytes that can not be are refused by name", async () => {
  for (
    const [field, value] of [
      ["threads", 0],
      ["threads", 1.5],
      ["threads", 65],
      ["threads", "2"],
      ["memoryBytes", 0],
      ["memoryBytes", NaN],
      ["memoryBytes", "4GB"],
      ["hugePages", "yes"],
      ["exact", 0],
      ["build", "x"],
      ["build", "toString"],
      ["cacheType", "f16"],
      ["cacheType", "toString"],
    ] as const
  ) {
    const opened = LLM.open(undefined, { [field]: value });
    await assert.rejects(opened, { name: "InvalidArgumentError", field }, `${field} ${value}`);
  }
  await assert.rejects(LLM.open(undefined, { build: "simd", threads: 2 }), { field: "threads" });
});
