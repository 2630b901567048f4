/**
 * Backend `ort`: any stock ONNX Runtime for JavaScript. The ops' function bodies in the file are what
 * runs, so this is the reference that kernels are held against, and the way to run what they lack.
 *
 * The caches are passed in and out as tensors, which ONNX Runtime copies each step: the pool is kept
 * small. Exactness between batch sizes is that of its matrix products, f32 noise and not bit for bit.
 * @module
 */
import { BackendError, CapacityError, UnsupportedError } from "../errors.ts";
import type { ModelPackage } from "../files/model_package.ts";
import type { ModelSpec } from "../model_spec.ts";
import type { GraphModel } from "../onnx/read_model.ts";
import type { Backend, BackendInfo, StepResult } from "./backend.ts";
import {
  type CacheShape,
  cacheShapes,
  GraphBackend,
  type GraphRunner,
  INSTALL_COMMAND,
  NODE_PACKAGE,
  NODE_PACKAGE_VERSION,
  resultNames,
  type StepInput,
  verifyFiles,
} from "./graph_backend.ts";
import { stepLimits, type StepPreferences, type StepSizes } from "./step_plan.ts";

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
  const files = await verifyFiles(model, graph);
  const sessionOptions = { executionProviders: ["cpu"], logSeverityLevel: 3 };
  const path = model.path("model.onnx");
  let session: OrtSession;
  try {
    session = path !== undefined
      ? await ort.InferenceSession.create(path, sessionOptions)
      : await ort.InferenceSession.create(await model.readAll("model.onnx"), {
        ...sessionOptions,
        externalData: await Promise.all(files.map(async (file) => ({
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
  const info: BackendInfo = {
    backend: "ort",
    build: "function bodies",
    threads: 0,
    threadsReason: "ONNX Runtime chooses by itself",
    cacheType: "f32",
    verified: model.verifies,
    bytes: { cache: spec.cacheBytesPerToken * limits.blocks * limits.blockSize },
  };
  try {
    const caches = cacheShapes("ort", spec, limits);
    const runner = new OrtRunner(ort, session, resultNames(graph), caches);
    return new GraphBackend(runner, caches, info, limits, spec.vocabSize);
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
  // Not written into the import: nothing depends on the package unless this backend is asked for. Deno resolves `npm:` by itself; Node and Bun find what the user has installed.
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
    `Cannot open backend ort: ${NODE_PACKAGE} is not installed; run ${INSTALL_COMMAND}, or pass a ` +
      'module: { backend: "ort", ort }.',
    { cause: new AggregateError(causes) },
  );
}

/** The caches go in and out of each run as tensors. */
class OrtRunner implements GraphRunner {
  readonly #ort: OrtModule;
  readonly #session: OrtSession;
  readonly #outputs: string[];
  readonly #caches: (CacheShape & { values: Float32Array })[];

  constructor(ort: OrtModule, session: OrtSession, outputs: string[], caches: CacheShape[]) {
    this.#ort = ort;
    this.#session = session;
    this.#outputs = outputs;
    this.#caches = caches.map((cache) => ({
      ...cache,
      values: new Float32Array(cache.dims.reduce((product, size) => product * size, 1)),
    }));
  }

  async run(inputs: StepInput[]): Promise<StepResult> {
    const { Tensor } = this.#ort;
    const feeds: Record<string, OrtTensor> = {};
    for (const { name, values, dims } of inputs) feeds[name] = new Tensor("int32", values, dims);
    for (const { name, values, dims } of this.#caches) {
      feeds[name] = new Tensor("float32", values, dims);
    }
    const results = await this.#session.run(feeds);
    for (const cache of this.#caches) {
      cache.values = results[`${cache.name}.out`]!.data as Float32Array;
    }
    return {
      logits: results.logits!.data as Float32Array,
      output: (name) =>
        this.#outputs.includes(name) ? results[name]!.data as Float32Array | Int32Array : undefined,
    };
  }

  readCache(cache: number, offset: number, into: Uint8Array): void {
    into.set(this.#bytesOf(cache).subarray(offset, offset + into.length));
  }

  writeCache(cache: number, offset: number, from: Uint8Array): void {
    this.#bytesOf(cache).set(from, offset);
  }

  copyWithin(cache: number, from: number, to: number, bytes: number): void {
    this.#bytesOf(cache).copyWithin(to, from, from + bytes);
  }

  release(): Promise<void> {
    return this.#session.release();
  }

  #bytesOf(cache: number): Uint8Array {
    const { buffer, byteOffset, byteLength } = this.#caches[cache]!.values;
    return new Uint8Array(buffer, byteOffset, byteLength);
  }
}
