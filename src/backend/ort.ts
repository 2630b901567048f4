/**
 * Backend `ort`: any stock ONNX Runtime for JavaScript. The ops' function bodies in the file are what
 * runs, so this is the reference that kernels are held against, and the way to run what they lack.
 *
 * The caches are passed in and out as tensors, which ONNX Runtime copies each step: the pool is kept
 * small. Exactness between batch sizes is that of its matrix products, f32 noise and not bit for bit.
 * @module
 */
import { BackendError, CapacityError, type HybridseekError, UnsupportedError } from "../errors.ts";
import type { ModelPackage } from "../files/model_package.ts";
import type { ModelSpec } from "../model_spec.ts";
import type { GraphModel } from "../onnx/read_model.ts";
import type { Backend, BackendInfo, BlockCopies, StepResult } from "./backend.ts";
import {
  checkStepPlan,
  type StepLimits,
  stepLimits,
  type StepPlan,
  type StepPreferences,
  type StepSizes,
} from "./step_plan.ts";

/** What is used of a tensor of onnxruntime-common. */
export interface OrtTensor {
  /** Its elements, a typed array. */
  readonly data: unknown;
}

/** What is used of a session of onnxruntime-common. */
export interface OrtSession {
  /** Runs the model on named inputs; returns named outputs. */
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>;
  /** Frees the session. */
  release(): Promise<void>;
}

/** What is used of `onnxruntime-node` or `onnxruntime-web`: pass the imported module. */
export interface OrtModule {
  /** Opens models. */
  InferenceSession: {
    create(model: string | Uint8Array, options: Record<string, unknown>): Promise<OrtSession>;
  };
  /** Makes tensors. */
  Tensor: new (type: string, data: Float32Array | Int32Array, dims: readonly number[]) => OrtTensor;
}

/** Options of {@linkcode openOrtBackend}. */
export interface OrtBackendOptions extends StepSizes {
  /** The runtime's module; `onnxruntime-node`, if it is installed, by default. */
  ort?: OrtModule;
}

/** The cache is copied each step: it is kept small. */
const PREFERENCES: StepPreferences = {
  tokens: 512,
  sequences: 256,
  logitRows: 256,
  blockSize: 16,
  cacheBytes: 32 * 1024 * 1024,
};
/** Not written into the import: nothing depends on the package unless this backend is asked for. */
const NODE_PACKAGE = "onnxruntime-node";
const NODE_PACKAGE_VERSION = "1.30.0";

/**
 * Opens a model on backend `ort`.
 *
 * @param model The package.
 * @param graph Its graph.
 * @param spec What the graph says of the model.
 * @param options Sizes, runtime.
 * @returns The backend, ready to run.
 * @throws {UnsupportedError} If no ONNX Runtime is installed or passed.
 * @throws {BackendError} If it refuses the model.
 * @throws {CapacityError} If the cache does not fit the memory.
 */
export async function openOrtBackend(
  model: ModelPackage,
  graph: GraphModel,
  spec: ModelSpec,
  options: OrtBackendOptions = {},
): Promise<Backend> {
  const ort = options.ort ?? await importOrt();
  const files = new Set([...graph.initializers.values()].map(({ file }) => file));
  for (const file of ["model.onnx", ...files]) await model.verify(file);
  const sessionOptions = { executionProviders: ["cpu"], logSeverityLevel: 3 };
  const path = model.path("model.onnx");
  let session: OrtSession;
  try {
    session = path !== undefined
      ? await ort.InferenceSession.create(path, sessionOptions)
      : await ort.InferenceSession.create(await model.readAll("model.onnx"), {
        ...sessionOptions,
        externalData: await Promise.all([...files].map(async (file) => ({
          path: file,
          data: await model.readAll(file),
        }))),
      });
  } catch (cause) {
    throw new BackendError(
      "backend_failed",
      `Cannot open ${model.address} with ONNX Runtime: ${
        (cause as Error).message
      }; version 1.30 or ` +
        "later is needed.",
      { cause },
    );
  }
  const limits = stepLimits(spec, options, PREFERENCES);
  try {
    return new OrtBackend(ort, session, graph, spec, limits, model.verifies);
  } catch (cause) {
    await session.release();
    if (!(cause instanceof RangeError)) throw cause;
    throw new CapacityError(
      "out_of_memory",
      `Cannot open ${model.address} on backend ort: a cache of ${
        limits.blocks * limits.blockSize
      } ` +
        `tokens, ${spec.cacheBytesPerToken} bytes each, is more than this runtime has; lower ` +
        "contextLength or cacheTokens.",
      { cause },
    );
  }
}

async function importOrt(): Promise<OrtModule> {
  // Deno resolves `npm:` by itself; Node and Bun find what the user has installed.
  const specifiers = [NODE_PACKAGE, `npm:${NODE_PACKAGE}@${NODE_PACKAGE_VERSION}`];
  const causes: unknown[] = [];
  for (const specifier of specifiers) {
    try {
      const imported = await import(specifier) as OrtModule & { default?: OrtModule };
      return imported.default ?? imported;
    } catch (cause) {
      causes.push(cause);
    }
  }
  throw new UnsupportedError(
    `Cannot open backend ort: ${NODE_PACKAGE} is not installed; run npm install --ignore-scripts ` +
      `${NODE_PACKAGE}@${NODE_PACKAGE_VERSION}, or pass a module: { backend: "ort", ort }.`,
    { cause: new AggregateError(causes) },
  );
}

class OrtBackend implements Backend {
  readonly info: BackendInfo;
  readonly limits: StepLimits;
  readonly cacheLayout = "ort f32";
  readonly blockBytes: number;
  readonly #ort: OrtModule;
  readonly #spec: ModelSpec;
  readonly #outputs: string[];
  readonly #caches = new Map<string, { values: Float32Array; dims: number[] }>();
  #session: OrtSession | undefined;
  /** What runs. */
  #step: Promise<unknown> = Promise.resolve();
  #failure: HybridseekError | undefined;

  constructor(
    ort: OrtModule,
    session: OrtSession,
    graph: GraphModel,
    spec: ModelSpec,
    limits: StepLimits,
    verified: boolean,
  ) {
    this.#ort = ort;
    this.#session = session;
    this.#spec = spec;
    this.limits = limits;
    this.#outputs = graph.outputs.map(({ name }) => name).filter((name) => !name.endsWith(".out"));
    for (const { name, type, heads, width } of spec.caches) {
      if (type !== "f32") {
        throw new UnsupportedError(`Cannot open backend ort: cache ${name} is ${type}, not f32.`);
      }
      const dims = [limits.blocks, limits.blockSize, heads, width];
      const values = new Float32Array(dims.reduce((product, size) => product * size, 1));
      this.#caches.set(name, { values, dims });
    }
    const cacheTokens = limits.blocks * limits.blockSize;
    this.blockBytes = spec.cacheBytesPerToken * limits.blockSize;
    this.info = {
      backend: "ort",
      build: "function bodies",
      threads: 0,
      threadsReason: "ONNX Runtime chooses by itself",
      cacheType: "f32",
      verified,
      bytes: { cache: spec.cacheBytesPerToken * cacheTokens },
    };
  }

  async run(step: StepPlan): Promise<StepResult> {
    const session = this.#running();
    checkStepPlan(step, this.limits, this.#spec.vocabSize);
    const { Tensor } = this.#ort;
    const sequences = step.contextLengths.length;
    const vector = (values: Int32Array) => new Tensor("int32", values, [values.length]);
    const feeds: Record<string, OrtTensor> = {
      token_ids: vector(step.tokenIds),
      positions: vector(step.positions),
      slots: vector(step.slots),
      query_starts: vector(step.queryStarts),
      context_lengths: vector(step.contextLengths),
      block_tables: new Tensor("int32", step.blockTables, [
        sequences,
        step.blockTables.length / sequences,
      ]),
      logit_rows: vector(step.logitRows),
    };
    for (const [name, { values, dims }] of this.#caches) {
      feeds[name] = new Tensor("float32", values, dims);
    }
    let results: Record<string, OrtTensor>;
    try {
      const running = session.run(feeds);
      this.#step = running;
      results = await running;
    } catch (cause) {
      this.#failure = new BackendError(
        "backend_failed",
        `Cannot run the step: ONNX Runtime stopped (${
          (cause as Error).message
        }); open the model again.`,
        { cause },
      );
      this.#session = undefined;
      await session.release();
      throw this.#failure;
    }
    for (const [name, cache] of this.#caches) {
      cache.values = results[`${name}.out`]!.data as Float32Array;
    }
    return {
      logits: results.logits!.data as Float32Array,
      output: (name) =>
        this.#outputs.includes(name) ? results[name]!.data as Float32Array | Int32Array : undefined,
    };
  }

  copyBlocks(copies: BlockCopies): Promise<void> {
    this.#running();
    for (const { values, dims: [, ...rest] } of this.#caches.values()) {
      const size = rest.reduce((product, size) => product * size, 1);
      for (const { from, to } of copies) {
        values.copyWithin(to * size, from * size, (from + 1) * size);
      }
    }
    return Promise.resolve();
  }

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    const values = new Float32Array(blocks.length * this.blockBytes / 4);
    for (const { cache, offset } of this.#cachesOf(blocks)) values.set(cache, offset);
    return Promise.resolve(new Uint8Array(values.buffer));
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    const values = new Float32Array(bytes.slice().buffer);
    for (const { cache, offset } of this.#cachesOf(blocks)) {
      cache.set(values.subarray(offset, offset + cache.length));
    }
    return Promise.resolve();
  }

  async close(): Promise<void> {
    this.#failure ??= new BackendError("closed", "Cannot run the step: the model has been closed.");
    await this.#step.catch(() => {}); // reported to whoever runs it
    await this.#session?.release();
    this.#session = undefined;
  }

  /** The parts of the caches that blocks are, and where each goes in a copy of the blocks. */
  *#cachesOf(blocks: readonly number[]): Iterable<{ cache: Float32Array; offset: number }> {
    this.#running();
    let offset = 0;
    for (const block of blocks) {
      for (const { values, dims: [, ...rest] } of this.#caches.values()) {
        const size = rest.reduce((product, size) => product * size, 1);
        yield { cache: values.subarray(block * size, (block + 1) * size), offset };
        offset += size;
      }
    }
  }

  #running(): OrtSession {
    if (this.#session) return this.#session;
    throw this.#failure!;
  }
}
