/**
 * Backend `wasm`: the engine's kernels in WebAssembly, in every runtime, with nothing to install.
 * @module
 */
import { BackendError, type HybridseekError } from "../../errors.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { ModelSpec } from "../../model_spec.ts";
import type { GraphModel } from "../../onnx/read_model.ts";
import type { Backend, BackendInfo, BlockCopies, StepResult } from "../backend.ts";
import {
  checkStepPlan,
  type StepLimits,
  stepLimits,
  type StepPlan,
  type StepPreferences,
  type StepSizes,
} from "../step_plan.ts";
import { compileProgram, type Program, type StepInput } from "./compile_program.ts";
import {
  type EngineBuild,
  type EngineExports,
  type EngineInstance,
  instantiateEngine,
} from "./engine_module.ts";
import { checkFits, type MemoryPlan, planMemory, TENSOR_ROW_BYTES } from "./memory_plan.ts";
import { growMemory, loadWeights, type OnLoaded, stagingBytes } from "./weight_loader.ts";
import { nextTask } from "./next_task.ts";

/** Steps long enough that weights are read rarely, short enough to stop soon. */
const PREFERENCES: StepPreferences = {
  tokens: 256,
  sequences: 256,
  logitRows: 256,
  blockSize: 16,
  cacheBytes: 128 * 1024 * 1024,
};
/** Memory that the logits of a step may take, bytes. */
const LOGIT_BYTES = 64 * 1024 * 1024;

/** Options of {@linkcode openWasmBackend}. */
export interface WasmBackendOptions extends StepSizes {
  /** Build of the engine; the best one that the runtime accepts by default. */
  build?: EngineBuild;
  /** Told of the bytes read so far and in all while loading. */
  onLoaded?: (doneBytes: number, totalBytes: number) => void;
}

/**
 * Opens a model on backend `wasm`.
 *
 * @param model The package.
 * @param graph Its graph.
 * @param spec What the graph says of the model.
 * @param options Sizes, build, progress.
 * @returns The backend, ready to run.
 * @throws {UnsupportedError} If the graph has an op without a kernel.
 * @throws {CapacityError} If it does not fit the memory.
 * @throws {InvalidFileError} If a file of the package is missing or damaged.
 */
export async function openWasmBackend(
  model: ModelPackage,
  graph: GraphModel,
  spec: ModelSpec,
  options: WasmBackendOptions = {},
): Promise<Backend> {
  const engine = instantiateEngine(options.build);
  const { limits, program, plan } = planWasmBackend(graph, spec, options, engine.exports);
  checkFits(plan);
  growMemory(engine.memory, plan.pages);
  await loadWeights(model, program.loads, engine, plan, progress(program, options));
  return new WasmBackend(engine, program, plan, limits, spec);
}

/**
 * Plans what {@linkcode openWasmBackend} would do, without loading anything.
 *
 * @param graph The package's graph.
 * @param spec What the graph says of the model.
 * @param options Sizes.
 * @param engine Tells how large packed weights and temporary memory are.
 * @returns The largest step, the program and the memory it needs.
 * @throws {UnsupportedError} If the graph has an op without a kernel.
 */
export function planWasmBackend(
  graph: GraphModel,
  spec: ModelSpec,
  options: StepSizes,
  engine: EngineExports = instantiateEngine().exports,
): { limits: StepLimits; program: Program; plan: MemoryPlan } {
  const limits = stepLimits(spec, options, preferences(spec));
  const program = compileProgram(graph, limits, engine);
  const staging = stagingBytes(program.loads);
  return { limits, program, plan: planMemory(program, Number(engine.__heap_base.value), staging) };
}

/** With a large vocabulary fewer rows of logits fit a step. */
function preferences({ vocabSize }: ModelSpec): StepPreferences {
  const logitRows = Math.floor(LOGIT_BYTES / (vocabSize * 4));
  return { ...PREFERENCES, logitRows: Math.min(Math.max(logitRows, 1), PREFERENCES.logitRows) };
}

function progress(program: Program, { onLoaded }: WasmBackendOptions): OnLoaded {
  const totalBytes = program.loads.reduce((sum, load) => {
    const scales = load.kind === "matrices" ? load.scales?.bytes ?? 0 : 0;
    return sum + load.source.bytes + scales;
  }, 0);
  let doneBytes = 0;
  return (bytes) => onLoaded?.(doneBytes += bytes, totalBytes);
}

class WasmBackend implements Backend {
  readonly info: BackendInfo;
  readonly limits: StepLimits;
  readonly #spec: ModelSpec;
  readonly #program: Program;
  readonly #plan: MemoryPlan;
  #engine: EngineInstance | undefined;
  /** Why no step can run any more. */
  #failure: HybridseekError | undefined;

  constructor(
    engine: EngineInstance,
    program: Program,
    plan: MemoryPlan,
    limits: StepLimits,
    spec: ModelSpec,
  ) {
    this.#engine = engine;
    this.#program = program;
    this.#plan = plan;
    this.#spec = spec;
    this.limits = limits;
    this.info = {
      backend: "wasm",
      build: engine.build,
      threads: 1,
      threadsReason: "this build computes on the caller's thread",
      bytes: plan.bytes,
    };
    const { memory } = engine;
    new Uint32Array(memory.buffer, plan.words, program.words.length).set(program.words);
    const table = new DataView(memory.buffer, plan.table);
    for (const [tensor, { bytes }] of program.tensors.entries()) {
      table.setBigUint64(tensor * TENSOR_ROW_BYTES, BigInt(plan.tensors[tensor]!), true);
      table.setBigUint64(tensor * TENSOR_ROW_BYTES + 8, BigInt(bytes), true);
    }
  }

  async run(step: StepPlan): Promise<StepResult> {
    const { exports, memory } = this.#running();
    checkStepPlan(step, this.limits, this.#spec.vocabSize);
    const inputs: Record<StepInput, Int32Array> = {
      token_ids: step.tokenIds,
      positions: step.positions,
      slots: step.slots,
      query_starts: step.queryStarts,
      context_lengths: step.contextLengths,
      block_tables: step.blockTables,
      logit_rows: step.logitRows,
    };
    for (const [name, tensor] of this.#program.inputs) {
      const values = inputs[name];
      new Int32Array(memory.buffer, this.#plan.tensors[tensor], values.length).set(values);
    }
    const sequences = step.contextLengths.length;
    new Uint32Array(memory.buffer, this.#plan.sizes, 4).set([
      step.tokenIds.length,
      step.logitRows.length,
      sequences,
      step.blockTables.length / sequences,
    ]);
    const { words, tensors } = this.#program;
    const { words: program, table, sizes } = this.#plan;
    try {
      exports.run(program, words.length, table, tensors.length, sizes);
    } catch (cause) {
      this.#failure = new BackendError(
        "backend_failed",
        `Cannot run the step: the engine stopped (${
          (cause as Error).message
        }); its state is lost, ` +
          "open the model again.",
        { cause },
      );
      this.#engine = undefined;
      throw this.#failure;
    }
    await nextTask();
    return {
      logits: this.#rows("logits", step) as Float32Array,
      output: (name) => this.#program.outputs.has(name) ? this.#rows(name, step) : undefined,
    };
  }

  copyBlocks(copies: BlockCopies): Promise<void> {
    const bytes = new Uint8Array(this.#running().memory.buffer);
    for (const { from, to } of copies) {
      for (const { tensor, blockBytes } of this.#program.caches) {
        const start = this.#plan.tensors[tensor]!;
        const source = start + from * blockBytes;
        bytes.copyWithin(start + to * blockBytes, source, source + blockBytes);
      }
    }
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#failure ??= new BackendError("closed", "Cannot run the step: the model has been closed.");
    this.#engine = undefined;
    return Promise.resolve();
  }

  #running(): EngineInstance {
    if (this.#engine) return this.#engine;
    throw this.#failure!;
  }

  #rows(name: string, step: StepPlan): Float32Array | Int32Array {
    const { tensor, rows, width, type } = this.#program.outputs.get(name)!;
    const count = (rows === "tokens" ? step.tokenIds : step.logitRows).length * width;
    const Elements = type === "i32" ? Int32Array : Float32Array;
    return new Elements(this.#running().memory.buffer, this.#plan.tensors[tensor], count);
  }
}
