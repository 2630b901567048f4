/**
 * From a graph to a step program: every node becomes a few instructions, in the graph's order. An op
 * without a kernel is refused by its name.
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type { GraphModel } from "../../onnx/read_model.ts";
import type { StepLimits } from "../step_plan.ts";
import type { EngineSizes } from "./engine_module.ts";
import { type Compilation, NodeCompiler, type RowsValue } from "./node_compiler.ts";
import { CACHE_FORMATS, type CacheType } from "./opcodes.ts";
import { opKernels } from "./op_kernels.ts";
import { ProgramBuilder, type TensorId } from "./program_builder.ts";

/** The inputs of a step that vary in length, all i32. */
export type StepInput =
  | "token_ids"
  | "positions"
  | "slots"
  | "query_starts"
  | "context_lengths"
  | "block_tables"
  | "logit_rows";

/** A compiled graph. */
export interface Program
  extends Pick<ProgramBuilder, "words" | "tensors" | "loads" | "experts" | "supply"> {
  /** The tensor of each step input. */
  inputs: ReadonlyMap<StepInput, TensorId>;
  /** Caches, with the bytes of one block. */
  caches: { tensor: TensorId; blockBytes: number }[];
  /** The graph's outputs but the caches. */
  outputs: ReadonlyMap<string, RowsValue>;
}

/**
 * Compiles a graph.
 *
 * @param graph The graph.
 * @param options The largest step; how many threads compute; how caches are stored; whether results must
 *   be exact (see {@linkcode WasmSizes}); whether experts are read when they are chosen, and not loaded.
 * @param engine Tells how large packed weights and temporary memory are.
 * @returns The program.
 * @throws {UnsupportedError} If a node's op, or the way it is used, has no kernel.
 * @throws {InvalidFileError} If sizes of the graph contradict one another.
 */
export function compileProgram(
  graph: GraphModel,
  { limits, threads, cacheType, exact = true, expertsOnDemand = false }: {
    limits: StepLimits;
    threads: number;
    cacheType: CacheType;
    exact?: boolean;
    expertsOnDemand?: boolean;
  },
  engine: EngineSizes,
): Program {
  const compilation: Compilation = {
    file: graph.file,
    limits,
    threads,
    cacheType,
    exact,
    expertsOnDemand,
    engine,
    builder: new ProgramBuilder(),
    values: new Map(),
    quantized: new Map(),
    wanted: new Set(graph.outputs.map(({ name }) => name)),
  };
  const inputs = declareInputs(compilation, graph);
  const caches = declareCaches(compilation, graph);
  for (const initializer of graph.initializers.values()) {
    compilation.values.set(initializer.name, { kind: "stored", initializer, widened: false });
  }
  for (const node of graph.nodes) {
    const kernel = opKernels[node.op];
    if (!kernel) {
      throw new UnsupportedError(
        `Cannot run ${graph.file} on backend wasm: node ${node.name} is a ${node.op}, which has no ` +
          `kernel here; use { backend: "ort" }, which runs every op by its body.`,
      );
    }
    kernel(new NodeCompiler(compilation, node));
  }
  const outputs = new Map<string, RowsValue>();
  for (const { name } of graph.outputs) {
    const value = compilation.values.get(name)!;
    if (value.kind === "rows") outputs.set(name, value);
  }
  const { words, tensors, loads, experts, supply } = compilation.builder;
  return { words, tensors, loads, experts, supply, inputs, caches, outputs };
}

function declareInputs(
  { limits, builder, values }: Compilation,
  graph: GraphModel,
): Map<StepInput, TensorId> {
  const { tokens, sequences, logitRows, contextLength, blockSize } = limits;
  const table = sequences * Math.ceil(contextLength / blockSize);
  const lengths: Record<StepInput, number> = {
    token_ids: tokens,
    positions: tokens,
    slots: tokens,
    query_starts: sequences + 1,
    context_lengths: sequences,
    block_tables: table,
    logit_rows: logitRows,
  };
  const inputs = new Map<StepInput, TensorId>();
  for (const { name } of graph.inputs) {
    if (name.startsWith("cache.")) continue;
    if (!Object.hasOwn(lengths, name)) {
      throw new UnsupportedError(
        `Cannot run ${graph.file} on backend wasm: it has the input ${name}, which this version ` +
          "does not know; update hybridseek.",
      );
    }
    const tensor = builder.tensor("input", lengths[name as StepInput] * 4);
    inputs.set(name as StepInput, tensor);
    values.set(name, { kind: "input", tensor });
  }
  return inputs;
}

function declareCaches(
  { limits, cacheType, engine, builder, values }: Compilation,
  graph: GraphModel,
): Program["caches"] {
  const { blocks, blockSize } = limits;
  return graph.inputs.filter(({ name }) => name.startsWith("cache.")).map((input) => {
    const [, , heads, width] = input.dims as number[];
    if (input.type !== "f32") {
      throw new UnsupportedError(
        `Cannot run ${graph.file} on backend wasm: cache ${input.name} is ${input.type}, ` +
          "supported is f32.",
      );
    }
    const rowBytes = heads! * engine.cache_row_bytes(CACHE_FORMATS[cacheType], width!);
    const blockBytes = blockSize * rowBytes;
    const tensor = builder.tensor("cache", blocks * blockBytes);
    values.set(input.name, { kind: "cache", tensor, heads: heads!, width: width! });
    return { tensor, blockBytes };
  });
}
