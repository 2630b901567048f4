/**
 * `deno task bench:ops --package <folder>`: where the time of a step goes, by kind of op: every kernel that
 * the step program names, inside a real step.
 *
 * An op's time is what a step that ends behind it takes longer than one that ends before it; the first is
 * told apart as the start of a step. Lengths take
 * turns, and each counts with its fastest quarter, so that what else the machine does weighs little. Of ops
 * that read weights there is the rate too, and its share of the memory bandwidth probed in the same run: with
 * one token that is their limit, with many it is not. A step is run once for each op: take a package of few
 * layers.
 * @module
 */
import { findHugePages } from "../src/backend/wasm/huge_pages.ts";
import { bestBuild, engineSizes } from "../src/backend/wasm/engine_module.ts";
import { startRunner } from "../src/backend/wasm/engine_runner.ts";
import { placeLoadedExperts } from "../src/backend/wasm/expert_places.ts";
import { writeJob, writeSizes } from "../src/backend/wasm/memory_plan.ts";
import { type CacheType, FORMATS, type Opcode, OPCODES } from "../src/backend/wasm/opcodes.ts";
import { startThreads } from "../src/backend/wasm/threads.ts";
import { planWasmBackend } from "../src/backend/wasm/wasm_backend.ts";
import { loadWeights } from "../src/backend/wasm/weight_loader.ts";
import { ModelPackage } from "../src/files/model_package.ts";
import { modelSpec } from "../src/model_spec.ts";
import { readModel } from "../src/onnx/read_model.ts";
import { checkLayer } from "./check_layer.ts";
import { benchCommand, type BenchOptions, numbers, openOptions } from "./options.ts";
import { probeLimits } from "./probes/probe.ts";
import { randomTokens } from "./random_tokens.ts";
import { Results } from "./results.ts";

interface Options extends BenchOptions {
  tokens: number[];
  context: number;
}

/** An instruction of the step program. */
interface Instruction {
  kind: string;
  /** Where it ends, in words. */
  end: number;
  /** Bytes of weights that it reads at most once, given what was computed last. */
  weightBytes(): number;
}

/** Turns of every length of the program. */
const TURNS = 9;

const opcodes = new Map(
  Object.entries(OPCODES).map(([name, [code, operands]]) => [
    code,
    { name: name as Opcode, operands },
  ]),
);
const formats = Object.keys(FORMATS);

await benchCommand("ops", "Time a step by kind of op.")
  .option("--tokens <counts>", "tokens of the step, one sequence's last", numbers, [1, 128])
  .option("--context <tokens>", "context of the last token", Number, 512)
  .action(async (options: Options) => {
    const open = openOptions(options);
    const results = await Results.begin("ops", { check: await checkLayer(options.package, open) });
    const step = await openStep(options, open);
    const limits = await probeLimits(step.threads);
    const readGBps = limits && (step.hugePages ? limits.readGBps2M : limits.readGBps4K);
    for (const tokens of options.tokens) {
      const times = await step.time(tokens, options.context);
      const total = times.reduce((sum, { seconds }) => sum + seconds, 0);
      for (const [kind, ops] of Map.groupBy(times, ({ kind }) => kind)) {
        const seconds = ops.reduce((sum, op) => sum + op.seconds, 0);
        const weightBytes = ops.reduce((sum, op) => sum + op.weightBytes, 0);
        const gbPerSecond = weightBytes / seconds / 1e9;
        results.add({
          ...{ kind, ops: ops.length, tokens, context: options.context, threads: step.threads },
          ...{ milliseconds: seconds * 1e3, ofStep: seconds / total },
          ...weightBytes > 0 && { weightBytes, gbPerSecond },
          ...weightBytes > 0 && readGBps && { ofRead: gbPerSecond / readGBps, readGBps },
        });
      }
    }
    step.close();
  })
  .parseAsync();

/** Opens a package so that beginnings of its step can be run. */
async function openStep(
  { package: folder, context }: Options,
  open: ReturnType<typeof openOptions>,
) {
  const model = await ModelPackage.open(folder, { verify: false });
  const graph = readModel("model.onnx", await model.readAll("model.onnx"));
  const spec = modelSpec(graph);
  const weightBytes = [...graph.initializers.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  const threads = await startThreads(weightBytes, open);
  const cacheType = open.cacheType as CacheType | undefined;
  const sizes = { contextLength: context, cacheTokens: context + 16, cacheType };
  const { program, plan, limits } = planWasmBackend(graph, spec, sizes, threads.count);
  const build = open.build ?? bestBuild(threads.team !== undefined, plan.pages);
  const hugePages = await findHugePages(open.hugePages);
  const runner = await startRunner(threads.team, build, plan);
  hugePages.advise?.(runner.memory);
  await loadWeights(model, program.loads, engineSizes(), runner, plan);
  placeLoadedExperts(runner.memory, plan, program.experts);

  const { memory } = runner;
  const { words, tensors, inputs } = program;
  const table = tensors.map(({ bytes }, tensor) => ({ address: plan.tensors[tensor]!, bytes }));
  const integers = (tensor: number, count: number) =>
    new Int32Array(memory.buffer, plan.tensors[tensor]!, count);
  let tokens = 0;

  const instructions: Instruction[] = [];
  for (let begin = 0; begin < words.length;) {
    const { name, operands } = opcodes.get(words[begin]!)!;
    const end = begin + 1 + operands;
    instructions.push({ end, ...costOf(name, words.slice(begin + 1, end)) });
    begin = end;
  }

  /** What an instruction is called here, and the weights it reads. */
  function costOf(opcode: Opcode, operands: number[]): Omit<Instruction, "end"> {
    const bytesOf = (operand: number) => () => tensors[operands[operand]!]!.bytes;
    if (opcode === "multiply") {
      return { kind: `multiply ${formats[operands[2]!]}`, weightBytes: bytesOf(1) };
    }
    if (opcode === "latentAttention") return { kind: opcode, weightBytes: bytesOf(17) };
    if (opcode !== "sparseExperts") return { kind: opcode, weightBytes: () => 0 };
    const [hidden, width, , first, held, k] = operands as [number, ...number[]] & number[];
    const format = operands[10]!;
    const packed = (rows: number, columns: number) =>
      engineSizes().packed_bytes(format, rows, columns);
    const expertBytes = packed(2 * width!, hidden) + packed(hidden, width!);
    const weightBytes = () => {
      const chosen = new Set(integers(operands[17]!, tokens * k!));
      const here = [...chosen].filter((expert) => expert >= first! && expert < first! + held!);
      return here.length * expertBytes + bytesOf(13)();
    };
    return { kind: `sparseExperts ${formats[format]}`, weightBytes };
  }

  function write(context: number) {
    const range = (count: number, from: number) =>
      Int32Array.from({ length: count }, (_, i) => from + i);
    const first = context - tokens;
    const blocks = Math.ceil(context / limits.blockSize);
    const values = {
      token_ids: randomTokens(tokens, spec.vocabSize, 1),
      positions: range(tokens, first),
      slots: range(tokens, limits.blockSize + first),
      query_starts: [0, tokens],
      context_lengths: [context],
      block_tables: range(blocks, 1),
      logit_rows: [tokens - 1],
    };
    for (const [name, tensor] of inputs) {
      integers(tensor, values[name].length).set(values[name]);
    }
    writeSizes(memory, plan, [tokens, 1, 1, blocks]);
  }

  return {
    threads: threads.count,
    hugePages: hugePages.advise !== undefined,
    /** Times every instruction of a step. */
    async time(count: number, context: number) {
      if (!(count >= 1 && count <= Math.min(limits.tokens, context))) {
        throw new Error(
          `Cannot time a step of ${count} tokens: it can have 1 to ${limits.tokens}.`,
        );
      }
      tokens = count;
      const times: number[][] = instructions.map(() => []);
      for (let turn = -1; turn < TURNS; turn++) {
        for (const [i, { end }] of instructions.entries()) {
          writeJob(memory, plan, plan.step, words.slice(0, end), table);
          write(context);
          const begun = performance.now();
          await runner.run(plan.step.job);
          if (turn >= 0) times[i]!.push((performance.now() - begun) / 1e3);
        }
      }
      const fast = times.map((seconds) => seconds.sort((a, b) => a - b)[TURNS >> 2]!);
      return instructions.map(({ kind, weightBytes }, i) => ({
        kind: i === 0 ? "start" : kind,
        seconds: fast[i]! - (fast[i - 1] ?? 0),
        weightBytes: weightBytes(),
      }));
    },
    close: () => runner.close(),
  };
}
