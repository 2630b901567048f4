/**
 * Backend `wasm`: the engine's kernels in WebAssembly, in every runtime, with nothing to install.
 * @module
 */
import { BackendError, HybridseekError, InvalidArgumentError } from "../../errors.ts";
import type { ModelPackage } from "../../files/model_package.ts";
import type { ModelSpec } from "../../model_spec.ts";
import type { GraphModel } from "../../onnx/read_model.ts";
import type { Backend, BackendInfo, BlockCopies, ExpertStats, StepResult } from "../backend.ts";
import {
  checkStepPlan,
  type StepLimits,
  stepLimits,
  type StepPlan,
  type StepPreferences,
  type StepSizes,
} from "../step_plan.ts";
import { compileProgram, type Program, type StepInput } from "./compile_program.ts";
import { bestBuild, BUILDS, type EngineBuild, engineSizes } from "./engine_module.ts";
import { type EngineRunner, startRunner } from "./engine_runner.ts";
import { findHugePages } from "./huge_pages.ts";
import { placeLoadedExperts } from "./expert_places.ts";
import { expertsAtOnce, ExpertSupply } from "./expert_supply.ts";
import {
  checkFits,
  type MemoryPlan,
  PAGE_BYTES,
  planMemory,
  writeJob,
  writeSizes,
} from "./memory_plan.ts";
import { CACHE_FORMATS, type CacheType } from "./opcodes.ts";
import { startThreads } from "./threads.ts";
import { loadWeights, type OnLoaded, stagingBytes } from "./weight_loader.ts";

/** Steps long enough that weights are read rarely, short enough to stop soon. */
const PREFERENCES: StepPreferences = {
  tokens: 256,
  sequences: 256,
  logitRows: 256,
  blockSize: 16,
  cacheBytes: 128 * 1024 * 1024,
};
/** Tokens of a step that need not be exact: attention expands the whole context once a step. */
const INEXACT_TOKENS = 1024;
/** Memory that the logits of a step may take, bytes. */
const LOGIT_BYTES = 64 * 1024 * 1024;

/** Sizes that a caller may choose. */
export interface WasmSizes extends StepSizes {
  /** How the cache is stored; `f32` by default. */
  cacheType?: CacheType;
  /** `false`: attention may take the form that is faster for the step at hand, and steps are longer. */
  exact?: boolean;
}

/** Options of {@linkcode openWasmBackend}. */
export interface WasmBackendOptions extends WasmSizes {
  /** How many threads compute, as workers; see {@linkcode startThreads}. */
  threads?: number;
  /** Memory that may be taken, bytes; if it is too little, experts are read when they are chosen. */
  memoryBytes?: number;
  /** Whether the memory has huge pages; see {@linkcode findHugePages}. */
  hugePages?: boolean;
  /** Build of the engine; the best one that the runtime accepts by default. */
  build?: EngineBuild;
  /** Told what will be taken, before anything is loaded. */
  onPlan?: (info: BackendInfo) => void;
  /** Told of the bytes read so far and in all while loading. */
  onLoaded?: OnLoaded;
}

/**
 * Opens a model on backend `wasm`.
 *
 * @param model The package.
 * @param graph Its graph.
 * @param spec What the graph says of the model.
 * @param options Sizes, threads, build, progress.
 * @returns The backend, ready to run.
 * @throws {InvalidArgumentError} If an option is out of range.
 * @throws {UnsupportedError} If the graph has an op without a kernel, or threads or huge pages can not be had.
 * @throws {CapacityError} If it does not fit the memory.
 * @throws {InvalidFileError} If a file of the package is missing or damaged.
 */
export async function openWasmBackend(
  model: ModelPackage,
  graph: GraphModel,
  spec: ModelSpec,
  options: WasmBackendOptions = {},
): Promise<Backend> {
  checkOptions(options);
  const hugePages = await findHugePages(options.hugePages);
  const weightBytes = [...graph.initializers.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  const threads = await startThreads(weightBytes, options);
  try {
    let planned = planWasmBackend(graph, spec, options, threads.count);
    const { memoryBytes = Infinity } = options;
    if (threads.team && planned.plan.pages * PAGE_BYTES > memoryBytes) {
      planned = planExpertsOnDemand(graph, spec, { ...options, memoryBytes }, threads.count);
    }
    const { limits, program, plan } = planned;
    const build = options.build ?? bestBuild(threads.team !== undefined, plan.pages);
    const { maxPages } = BUILDS[build];
    checkFits(plan, {
      maxPages,
      reason: threads.team ? `build ${build}` : `one thread (${threads.reason})`,
      memoryBytes: options.memoryBytes,
      advice: program.experts.length > 0 && !threads.team
        ? "with workers (threads) experts are read when they are chosen"
        : undefined,
    });
    const info: BackendInfo = {
      backend: "wasm",
      build,
      threads: threads.count,
      threadsReason: threads.reason,
      hugePages: hugePages.advise !== undefined,
      hugePagesReason: hugePages.reason,
      cacheType: options.cacheType ?? "f32",
      exact: options.exact ?? true,
      verified: model.verifies,
      bytes: plan.bytes,
    };
    options.onPlan?.(info);
    const runner = await startRunner(threads.team, build, plan);
    hugePages.advise?.(runner.memory);
    await loadWeights(model, program.loads, engineSizes(), runner, plan, options.onLoaded);
    placeLoadedExperts(runner.memory, plan, program.experts);
    const supply = plan.pool.count > 0 ? startSupply(model, runner, program, plan) : undefined;
    return new WasmBackend(runner, program, plan, info, limits, spec, supply);
  } catch (error) {
    threads.team?.close();
    throw error;
  }
}

function startSupply(
  model: ModelPackage,
  runner: EngineRunner,
  program: Program,
  plan: MemoryPlan,
): ExpertSupply {
  const [state, layers] = [plan.tensors[program.supply!]!, program.experts];
  const supply = new ExpertSupply(model, { layers, plan, state, memory: runner.memory });
  runner.onAsk(() => supply.answer());
  return supply;
}

function checkOptions(options: WasmBackendOptions) {
  const { build, cacheType = "f32", memoryBytes } = options;
  for (const name of ["hugePages", "exact"] as const) {
    if (options[name] !== undefined && typeof options[name] !== "boolean") {
      throw new InvalidArgumentError(
        name,
        `Cannot open the model: ${name} is ${options[name]}, it can be true or false.`,
      );
    }
  }
  if (build !== undefined && !Object.hasOwn(BUILDS, build)) {
    throw new InvalidArgumentError(
      "build",
      `Cannot open the model: build is ${JSON.stringify(build)}, backend wasm has ` +
        `${Object.keys(BUILDS).join(", ")}.`,
    );
  }
  if (!Object.hasOwn(CACHE_FORMATS, cacheType)) {
    throw new InvalidArgumentError(
      "cacheType",
      `Cannot open the model: cacheType is ${JSON.stringify(cacheType)}, backend wasm has ` +
        `${Object.keys(CACHE_FORMATS).join(", ")}.`,
    );
  }
  if (memoryBytes !== undefined && !(typeof memoryBytes === "number" && memoryBytes > 0)) {
    throw new InvalidArgumentError(
      "memoryBytes",
      `Cannot open the model: memoryBytes is ${memoryBytes}, it must be a number of bytes above 0.`,
    );
  }
}

/**
 * Plans what {@linkcode openWasmBackend} would do, without loading anything.
 *
 * @param graph The package's graph.
 * @param spec What the graph says of the model.
 * @param options Sizes.
 * @param threads How many threads compute.
 * @returns The largest step, the program and the memory it needs.
 * @throws {UnsupportedError} If the graph has an op without a kernel.
 */
export function planWasmBackend(
  graph: GraphModel,
  spec: ModelSpec,
  options: WasmSizes,
  threads: number,
): WasmPlan {
  const { limits, program, sizes } = compile(graph, spec, options, threads, false);
  return { limits, program, plan: planMemory(program, threads, sizes) };
}

/** The same with as many places for experts as fit the memory, at least those of one token. */
function planExpertsOnDemand(
  graph: GraphModel,
  spec: ModelSpec,
  options: WasmSizes & { memoryBytes: number; build?: EngineBuild },
  threads: number,
): WasmPlan {
  const { limits, program, sizes } = compile(graph, spec, options, threads, true);
  const { experts } = program;
  const least = expertsAtOnce(experts);
  const stagingBytes = Math.max(0, ...experts.map(({ stagedBytes }) => stagedBytes)) * least;
  const placeBytes = Math.max(0, ...experts.map(({ packed }) => packed.gateUp + packed.down));
  const planWith = (count: number) =>
    planMemory(program, threads, { ...sizes, pool: { count, placeBytes, stagingBytes } });
  const { maxPages } = BUILDS[options.build ?? bestBuild(true, Infinity)];
  const granted = Math.min(options.memoryBytes, maxPages * PAGE_BYTES);
  const rest = Math.floor(granted / PAGE_BYTES) * PAGE_BYTES - planWith(0).endBytes;
  const count = Math.max(least, Math.floor(rest / placeBytes) || 0);
  return { limits, program, plan: planWith(count) };
}

/** What is planned before anything is loaded. */
export interface WasmPlan {
  /** The largest step. */
  limits: StepLimits;
  /** What a step does. */
  program: Program;
  /** The memory. */
  plan: MemoryPlan;
}

function compile(
  graph: GraphModel,
  spec: ModelSpec,
  options: WasmSizes,
  threads: number,
  expertsOnDemand: boolean,
) {
  const engine = engineSizes();
  const { cacheType = "f32", exact = true } = options;
  const cacheBytesPerToken = spec.caches.reduce(
    (sum, { heads, width }) =>
      sum + heads * engine.cache_row_bytes(CACHE_FORMATS[cacheType], width),
    0,
  );
  const limits = stepLimits({ ...spec, cacheBytesPerToken }, options, preferences(spec, exact));
  const compilation = { limits, threads, cacheType, exact, expertsOnDemand };
  const program = compileProgram(graph, compilation, engine);
  const sizes = {
    teamBytes: engine.team_bytes(),
    stagingBytes: stagingBytes(program.loads, engine, threads),
  };
  return { limits, program, sizes };
}

/** With a large vocabulary fewer rows of logits fit a step. */
function preferences({ vocabSize }: ModelSpec, exact: boolean): StepPreferences {
  const logitRows = Math.floor(LOGIT_BYTES / (vocabSize * 4));
  const tokens = exact ? PREFERENCES.tokens : INEXACT_TOKENS;
  return {
    ...PREFERENCES,
    tokens,
    logitRows: Math.min(Math.max(logitRows, 1), PREFERENCES.logitRows),
  };
}

class WasmBackend implements Backend {
  readonly info: BackendInfo;
  readonly limits: StepLimits;
  readonly cacheLayout: string;
  readonly blockBytes: number;
  readonly #spec: ModelSpec;
  readonly #program: Program;
  readonly #plan: MemoryPlan;
  readonly #supply: ExpertSupply | undefined;
  #runner: EngineRunner | undefined;
  /** Why no step can run any more. */
  #failure: HybridseekError | undefined;

  constructor(
    runner: EngineRunner,
    program: Program,
    plan: MemoryPlan,
    info: BackendInfo,
    limits: StepLimits,
    spec: ModelSpec,
    supply: ExpertSupply | undefined,
  ) {
    this.#runner = runner;
    this.#supply = supply;
    this.#program = program;
    this.#plan = plan;
    this.#spec = spec;
    this.limits = limits;
    this.info = info;
    this.cacheLayout = `wasm ${info.cacheType}${info.exact ? "" : " inexact"}`;
    this.blockBytes = program.caches.reduce((sum, { blockBytes }) => sum + blockBytes, 0);
    const { words, tensors } = program;
    const table = tensors.map(({ bytes }, tensor) => ({ address: plan.tensors[tensor]!, bytes }));
    writeJob(runner.memory, plan, plan.step, words, table);
  }

  get expertStats(): ExpertStats | undefined {
    return this.#supply?.stats;
  }

  async run(step: StepPlan): Promise<StepResult> {
    const runner = this.#running();
    const { memory } = runner;
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
    writeSizes(memory, this.#plan, [
      step.tokenIds.length,
      step.logitRows.length,
      sequences,
      step.blockTables.length / sequences,
    ]);
    try {
      await runner.run(this.#plan.step.job);
    } catch (cause) {
      // A damaged file says so by itself.
      this.#failure ??= cause instanceof HybridseekError ? cause : new BackendError(
        "backend_failed",
        `Cannot run the step: the engine stopped (${
          (cause as Error).message
        }); its state is lost, ` +
          "open the model again.",
        { cause },
      );
      await this.#end();
      throw this.#failure;
    }
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

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    const bytes = new Uint8Array(blocks.length * this.blockBytes);
    for (const { cache, offset } of this.#cachesOf(blocks)) bytes.set(cache, offset);
    return Promise.resolve(bytes);
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    for (const { cache, offset } of this.#cachesOf(blocks)) {
      cache.set(bytes.subarray(offset, offset + cache.length));
    }
    return Promise.resolve();
  }

  async close(): Promise<void> {
    this.#failure ??= new BackendError("closed", "Cannot run the step: the model has been closed.");
    await this.#end();
  }

  /** The parts of the caches that blocks are, and where each goes in a copy of the blocks. */
  *#cachesOf(blocks: readonly number[]): Iterable<{ cache: Uint8Array; offset: number }> {
    const { buffer } = this.#running().memory;
    let offset = 0;
    for (const block of blocks) {
      for (const { tensor, blockBytes } of this.#program.caches) {
        const start = this.#plan.tensors[tensor]! + block * blockBytes;
        yield { cache: new Uint8Array(buffer, start, blockBytes), offset };
        offset += blockBytes;
      }
    }
  }

  #running(): EngineRunner {
    if (this.#runner) return this.#runner;
    throw this.#failure!;
  }

  /** Ends the threads and lets go of the memory. */
  async #end() {
    this.#runner?.close();
    this.#runner = undefined;
    await this.#supply?.close();
  }

  #rows(name: string, step: StepPlan): Float32Array | Int32Array {
    const { tensor, rows, width, type } = this.#program.outputs.get(name)!;
    const count = (rows === "tokens" ? step.tokenIds : step.logitRows).length * width;
    const Elements = type === "i32" ? Int32Array : Float32Array;
    return new Elements(this.#running().memory.buffer, this.#plan.tensors[tensor], count);
  }
}
