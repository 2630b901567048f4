/**
 * What the backends that hand the graph to an ONNX Runtime have in common: the step's inputs by name, one
 * step at a time, and how they fail and close.
 * @module
 */
import { BackendError, type HybridseekError, UnsupportedError } from "../errors.ts";
import type { ModelPackage } from "../files/model_package.ts";
import type { ModelSpec } from "../model_spec.ts";
import type { GraphModel } from "../onnx/read_model.ts";
import type { Backend, BackendInfo, BackendName, BlockCopies, StepResult } from "./backend.ts";
import { checkStepPlan, type StepLimits, type StepPlan } from "./step_plan.ts";

/** The oldest ONNX Runtime whose CPU kernels cover a package's graph. */
export const NEEDED_ONNXRUNTIME: readonly [major: number, minor: number] = [1, 30];
/** The npm package of ONNX Runtime for Deno, Node and Bun. */
export const NODE_PACKAGE = "onnxruntime-node";
/** Its version that is tested. */
export const NODE_PACKAGE_VERSION = "1.30.0";
/** What installs it; its install script wants CUDA libraries and fails without them. */
export const INSTALL_COMMAND: string =
  `npm install --ignore-scripts ${NODE_PACKAGE}@${NODE_PACKAGE_VERSION}`;

/** An input of a step. */
export interface StepInput {
  /** Its name in the graph. */
  name: string;
  /** Its elements. */
  values: Int32Array;
  /** Its shape. */
  dims: number[];
}

/** A cache's shape, [blocks, P, heads, width]. */
export interface CacheShape {
  /** Its name in the graph; the output is `<name>.out`. */
  name: string;
  /** Its elements, as the native library calls them. */
  type: "float32" | "bfloat16" | "float8e4m3fn";
  /** Bytes of one. */
  elementBytes: number;
  /** Its shape. */
  dims: [blocks: number, blockSize: number, heads: number, width: number];
}

/** A session of an ONNX Runtime, with the caches of a model in the order of their {@linkcode CacheShape}s. */
export interface GraphRunner {
  /**
   * Runs the graph once.
   * @param inputs All but the caches.
   * @param step What they were made of.
   * @returns Its outputs.
   */
  run(inputs: StepInput[], step: StepPlan): Promise<StepResult>;
  /** Reads a cache. @param cache Which one. @param offset First byte. @param into Filled. */
  readCache(cache: number, offset: number, into: Uint8Array): void;
  /** Writes to a cache. @param cache Which one. @param offset First byte. @param from What. */
  writeCache(cache: number, offset: number, from: Uint8Array): void;
  /** Copies bytes of a cache. @param cache Which one. @param from First byte. @param to Where to. */
  copyWithin(cache: number, from: number, to: number, bytes: number): void;
  /** Frees everything; nothing runs any more. */
  release(): Promise<void>;
}

/**
 * The shapes of a model's caches.
 *
 * @param backend For the message.
 * @param spec Of the model.
 * @param limits Of the backend.
 * @returns One for each, in the graph's order.
 * @throws {UnsupportedError} If one is not f32.
 */
export function cacheShapes(
  backend: BackendName,
  spec: ModelSpec,
  { blocks, blockSize }: StepLimits,
): CacheShape[] {
  return spec.caches.map(({ name, type, heads, width }) => {
    const dims: CacheShape["dims"] = [blocks, blockSize, heads, width];
    if (type === "f32") return { name, type: "float32", elementBytes: 4, dims };
    throw new UnsupportedError(
      `Cannot open backend ${backend}: cache ${name} is ${type}, not f32.`,
    );
  });
}

/**
 * Compares the files that ONNX Runtime is going to read with the package's hashes.
 *
 * @param model The package.
 * @param graph Its graph.
 * @returns The data files' names.
 * @throws {InvalidFileError} If one is damaged.
 */
export async function verifyFiles(model: ModelPackage, graph: GraphModel): Promise<string[]> {
  const files = [...new Set([...graph.initializers.values()].map(({ file }) => file))];
  for (const file of ["model.onnx", ...files]) await model.verify(file);
  return files;
}

/** The names of the graph's outputs that are no caches. @param graph The graph. @returns Them. */
export function resultNames(graph: GraphModel): string[] {
  return graph.outputs.map(({ name }) => name).filter((name) => !name.endsWith(".out"));
}

/** A backend on such a session. */
export class GraphBackend implements Backend {
  readonly info: BackendInfo;
  readonly limits: StepLimits;
  readonly cacheLayout: string;
  readonly blockBytes: number;
  /** Bytes of a block in each cache. */
  readonly #parts: number[];
  readonly #vocabSize: number;
  #runner: GraphRunner | undefined;
  /** What runs. */
  #step: Promise<unknown> = Promise.resolve();
  #failure: HybridseekError | undefined;

  constructor(
    runner: GraphRunner,
    caches: readonly CacheShape[],
    info: BackendInfo,
    limits: StepLimits,
    vocabSize: number,
  ) {
    this.#runner = runner;
    this.info = info;
    this.limits = limits;
    this.cacheLayout = `ort ${info.cacheType}`;
    this.#parts = caches.map(({ elementBytes, dims: [, size, heads, width] }) =>
      elementBytes * size * heads * width
    );
    this.blockBytes = this.#parts.reduce((sum, bytes) => sum + bytes, 0);
    this.#vocabSize = vocabSize;
  }

  async run(step: StepPlan): Promise<StepResult> {
    const runner = this.#running();
    checkStepPlan(step, this.limits, this.#vocabSize);
    try {
      const running = runner.run(stepInputs(step), step);
      this.#step = running;
      return await running;
    } catch (cause) {
      this.#failure = new BackendError(
        "backend_failed",
        `Cannot run the step: ONNX Runtime stopped (${
          (cause as Error).message
        }); open the model again.`,
        { cause },
      );
      this.#runner = undefined;
      await runner.release();
      throw this.#failure;
    }
  }

  copyBlocks(copies: BlockCopies): Promise<void> {
    const runner = this.#running();
    for (const [cache, bytes] of this.#parts.entries()) {
      for (const { from, to } of copies) runner.copyWithin(cache, from * bytes, to * bytes, bytes);
    }
    return Promise.resolve();
  }

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    const runner = this.#running();
    const copy = new Uint8Array(blocks.length * this.blockBytes);
    this.#eachPart(blocks, copy, (cache, offset, part) => runner.readCache(cache, offset, part));
    return Promise.resolve(copy);
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    const runner = this.#running();
    this.#eachPart(blocks, bytes, (cache, offset, part) => runner.writeCache(cache, offset, part));
    return Promise.resolve();
  }

  async close(): Promise<void> {
    this.#failure ??= new BackendError("closed", "Cannot run the step: the model has been closed.");
    await this.#step.catch(() => {}); // reported to whoever runs it
    await this.#runner?.release();
    this.#runner = undefined;
  }

  /** Goes through the parts of blocks, and of a copy of them: block by block, cache by cache. */
  #eachPart(
    blocks: readonly number[],
    copy: Uint8Array,
    visit: (cache: number, offset: number, part: Uint8Array) => void,
  ) {
    let at = 0;
    for (const block of blocks) {
      for (const [cache, bytes] of this.#parts.entries()) {
        visit(cache, block * bytes, copy.subarray(at, at += bytes));
      }
    }
  }

  #running(): GraphRunner {
    if (this.#runner) return this.#runner;
    throw this.#failure!;
  }
}

/** A step's inputs by name. @param step The step. @returns Them, in the contract's order. */
export function stepInputs(step: StepPlan): StepInput[] {
  const sequences = step.contextLengths.length;
  const vector = (name: string, values: Int32Array) => ({ name, values, dims: [values.length] });
  return [
    vector("token_ids", step.tokenIds),
    vector("positions", step.positions),
    vector("slots", step.slots),
    vector("query_starts", step.queryStarts),
    vector("context_lengths", step.contextLengths),
    {
      name: "block_tables",
      values: step.blockTables,
      dims: [sequences, step.blockTables.length / sequences],
    },
    vector("logit_rows", step.logitRows),
  ];
}
