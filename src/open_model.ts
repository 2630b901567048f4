/**
 * From a package to everything that a model is made of.
 * @module
 */
import { type Backend, type BackendInfo, type BackendName, BACKENDS } from "./backend/backend.ts";
import { keepChoice, keptChoice, machineName } from "./backend/kept_choices.ts";
import { openCudaBackend } from "./backend/native/cuda_backend.ts";
import { openNativeBackend } from "./backend/native/native_backend.ts";
import { openOrtBackend, type OrtModule } from "./backend/ort.ts";
import { type BackendTrial, fastest, tryBackends } from "./backend/trials.ts";
import type { EngineBuild } from "./backend/wasm/engine_module.ts";
import type { ExpertsPlace } from "./backend/native/placement.ts";
import type { CacheType } from "./backend/wasm/opcodes.ts";
import { openWasmBackend } from "./backend/wasm/wasm_backend.ts";
import type { EngineOptions } from "./engine/engine_options.ts";
import { InvalidArgumentError, InvalidFileError, UnsupportedError } from "./errors.ts";
import { embeddedModel } from "./files/embedded_model.ts";
import { identityOf, type Manifest } from "./files/manifest.ts";
import { ModelPackage } from "./files/model_package.ts";
import type { ModelLocation } from "./files/open_source.ts";
import {
  type GenerationConfig,
  parseEosTokenIds,
  parseGenerationConfig,
} from "./generation_config.ts";
import { type ModelSpec, modelSpec } from "./model_spec.ts";
import { readModel } from "./onnx/read_model.ts";
import { Tokenizer } from "./text/tokenizer.ts";
import type { TokenizerConfig } from "./text/tokenizer_config.ts";
import { VERSION } from "./version.ts";

/** How a model is opened. */
export interface OpenOptions extends EngineOptions {
  /**
   * What computes: `wasm` (the default) runs everywhere, `ort` runs the file's function bodies on ONNX
   * Runtime, `ort-native` runs this library's kernels inside ONNX Runtime, by a native library that
   * `hybridseek gpu build` makes, `cuda` does so on an NVIDIA GPU. `auto` opens each in turn, computes a chunk of a prompt and 8 tokens, and
   * takes the fastest; the choice is kept for this package and machine (in the user's cache, where there are
   * files).
   */
  backend?: BackendName | "auto";
  /** For `auto`: told what each backend took, unless the choice was made before. */
  onTrials?: (trials: readonly BackendTrial[]) => void;
  /** For `ort`: the imported `onnxruntime-node` or `onnxruntime-web`. */
  ort?: OrtModule;
  /**
   * For `ort-native` and `cuda`: the path of ONNX Runtime's library. By default the environment's
   * HYBRIDSEEK_ONNXRUNTIME, else that of the npm package onnxruntime-node.
   */
  onnxruntime?: string;
  /**
   * For `ort-native`: how many processes ("ranks") compute the model together, each with a part of its heads,
   * experts and vocabulary, 1 (the default) to 64. Without a launcher they are started on this machine, which in
   * Deno wants `--allow-run`. Under mpirun, srun, or with torchrun's variables the launcher's are joined: then
   * rank 0 opens the model, and all others call {@linkcode followRanks}.
   */
  tensorParallel?: number;
  /**
   * With `tensorParallel`: each rank has sequences of its own, with whole attention layers and a cache of its
   * own, instead of some of the heads of all. A cache of latents is on every rank otherwise.
   */
  dataParallelAttention?: boolean;
  /** For `wasm`: a certain build of the engine; the best one that the runtime accepts by default. */
  build?: EngineBuild;
  /**
   * For `wasm`, `ort-native` and what `cuda` leaves to the host: how many threads compute, 1 to 64. By default
   * one per core. On `wasm` they are workers that share one memory; the caller's own thread computes a small model, and where threads
   * can not be had.
   */
  threads?: number;
  /**
   * For `wasm`: memory that may be taken, bytes; what the runtime grants by default. Where it is too little
   * for all weights, experts are read when they are chosen, which takes workers; see
   * {@linkcode LLM.expertStats}. For `cuda`: what experts may take of the host's; by default what is free.
   */
  memoryBytes?: number;
  /**
   * For `wasm` on Linux: the system is asked for pages of 2 MB, which are faster to load and to read. By
   * default only in Deno where FFI is allowed already (`--allow-ffi`); `true` asks in Bun and Node 26, too, and
   * is refused where it can not be done.
   */
  hugePages?: boolean;
  /**
   * How the cache is stored: on `wasm` `f32` (the default), `bf16` or `int8`, on `cuda` `bf16` (the default) or
   * `fp8` (e4m3).
   */
  cacheType?: CacheType | "fp8";
  /**
   * For `cuda`: the part of the GPU's memory that may be taken, above 0 to 1, with what other programs have of it.
   * 0.9 by default. The cache gets what weights and steps leave, unless `cacheTokens` says otherwise.
   */
  gpuMemory?: number;
  /**
   * For `cuda`: whether steps that decode are captured as CUDA graphs when their shape comes back. Default false:
   * no GPU has run it yet.
   */
  cudaGraphs?: boolean;
  /**
   * For `cuda`: where the routed experts of a model are. `gpu` is the default; a number: those of so many layers,
   * the last ones, are in the host's memory, where the CPU computes them; `cpu`: all of them. A model that does
   * not fit the GPU is refused with the number that fits.
   */
  experts?: ExpertsPlace;
  /**
   * For `wasm`: whether a request gives the same bytes alone and in any batch, however its prompt is cut
   * into steps, and on every machine; true by default. `false` makes long prompts faster: latent attention
   * takes its expanded form where that is less work, and steps of up to 1024 tokens need more memory.
   */
  exact?: boolean;
  /** Most tokens of a sequence, 1 to the model's own; that, but at most 8192, by default. */
  contextLength?: number;
  /** Tokens that the cache holds, all sequences together; at least one context. */
  cacheTokens?: number;
  /** `false`: the defaults of generation_config.json do not apply; its end tokens still do. */
  generationConfig?: false;
  /** `false`: files are not compared with the package's hashes. */
  verify?: boolean;
  /** For `wasm`, `ort-native` and `cuda`: told what was chosen and what it takes, before anything is loaded. */
  onPlan?: (info: BackendInfo) => void;
  /** Told of the bytes loaded so far and in all. */
  onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Stops opening. */
  signal?: AbortSignal;
}

/** Context unless told otherwise: the family's long ones would take gigabytes of cache, tokens. */
const DEFAULT_CONTEXT = 8192;

/** What `auto` tries: what is likely the fastest first, since slower ones are given up early. */
const TRIED: readonly BackendName[] = ["cuda", "ort-native", "wasm", "ort"];

/** A model's parts. */
export interface OpenedModel {
  /** What the graph says of it. */
  spec: ModelSpec;
  /** What computes. */
  backend: Backend;
  /** Where the package has one. */
  tokenizer: Tokenizer | undefined;
  /** The model's defaults and end tokens. */
  config: GenerationConfig;
  /** What the package is made of. */
  manifest: Manifest;
}

/**
 * Opens a package. See {@linkcode LLM.open}.
 *
 * @param location Where it is; the embedded model by default.
 * @param options Backend and sizes.
 * @returns The parts; the caller closes the backend and frees the tokenizer.
 */
export async function openModel(
  location: ModelLocation | undefined,
  options: OpenOptions,
): Promise<OpenedModel> {
  if (options.backend === "auto") return await openFastest(location, options);
  const { verify, signal } = options;
  const model = await ModelPackage.open(location ?? embeddedModel(), { verify, signal });
  let kept = false;
  try {
    const graph = readModel(`${model.address} model.onnx`, await model.readAll("model.onnx"));
    for (const { file, offset, bytes } of graph.initializers.values()) {
      model.checkRange(file, offset, bytes);
    }
    const spec = modelSpec(graph);
    const sizes = checkSizes(spec, options);
    const tokenizer = await openTokenizer(model);
    const { ort, onnxruntime, threads, onPlan, onProgress: onLoaded } = options;
    const { build, memoryBytes, hugePages, cacheType, exact } = options;
    const { tensorParallel, dataParallelAttention, gpuMemory, cudaGraphs, experts } = options;
    const open: Record<BackendName, () => Promise<Backend>> = {
      "wasm": () =>
        openWasmBackend(model, graph, spec, {
          ...{ ...sizes, build, threads, memoryBytes, hugePages, exact },
          // Checked there: a type that it does not have is refused.
          cacheType: cacheType as CacheType | undefined,
          ...{ onPlan, onLoaded },
        }),
      "ort": () => openOrtBackend(model, graph, spec, { ...sizes, ort }),
      "ort-native": () =>
        openNativeBackend(model, graph, spec, {
          ...{ ...sizes, onnxruntime, threads, onPlan, tensorParallel, dataParallelAttention },
        }),
      "cuda": () =>
        openCudaBackend(model, graph, spec, {
          ...{ ...sizes, onnxruntime, threads, cacheType, gpuMemory, cudaGraphs, onPlan },
          ...{ experts, memoryBytes },
        }),
    };
    try {
      const config = await openGenerationConfig(model, tokenizer?.eosTokenId, options);
      const backend = await open[options.backend ?? "wasm"]();
      kept = backend.expertStats !== undefined;
      return { spec, backend, tokenizer, config, manifest: model.manifest };
    } catch (error) {
      tokenizer?.free();
      throw error;
    }
  } finally {
    if (!kept) await model.close();
  }
}

/** Opens a package with the backend that is the fastest here. */
async function openFastest(
  location: ModelLocation | undefined,
  options: OpenOptions,
): Promise<OpenedModel> {
  const { verify, signal, threads, tensorParallel, dataParallelAttention } = options;
  const { cacheType, experts } = options;
  const model = await ModelPackage.open(location ?? embeddedModel(), { verify, signal });
  const { address, manifest } = model;
  await model.close();
  const asked = JSON.stringify({
    threads,
    tensorParallel,
    dataParallelAttention,
    cacheType,
    experts,
  });
  const key = `${VERSION}, ${await identityOf(manifest)}, ${await machineName()}, ${asked}`;
  const known = await keptChoice(key);
  const kept = BACKENDS.find((name) => name === known);
  if (kept !== undefined) {
    try {
      return await openModel(location, { ...options, backend: kept });
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error; // it is not installed any more
    }
  }
  const quiet = { ...options, onPlan: undefined, onProgress: undefined };
  const refusals: unknown[] = [];
  const trials = await tryBackends(TRIED, async (backend) => {
    const opened = await openModel(location, { ...quiet, backend }).catch((error) => {
      refusals.push(error);
      throw error;
    });
    opened.tokenizer?.free();
    const { spec: { vocabSize } } = opened;
    return { backend: opened.backend, vocabSize, close: () => opened.backend.close() };
  });
  options.onTrials?.(trials);
  const backend = fastest(trials);
  if (backend === undefined) {
    const wrong = refusals.filter((error) => error instanceof InvalidArgumentError);
    if (wrong.length === TRIED.length) throw wrong[0]; // the caller's mistake, whatever the backend
    const reasons = trials.map(({ backend, failure }) => `${backend}: ${failure}`).join(" ");
    throw new UnsupportedError(`Cannot open ${address} with any backend. ${reasons}`);
  }
  await keepChoice(key, backend);
  return await openModel(location, { ...options, backend });
}

function checkSizes(
  spec: ModelSpec,
  { backend = "wasm", contextLength, cacheTokens, tensorParallel = 1, experts = "gpu" }:
    OpenOptions,
): { contextLength: number; cacheTokens: number | undefined } {
  const check = (field: string, value: number, least: number, most: number) => {
    if (Number.isInteger(value) && value >= least && value <= most) return;
    throw new InvalidArgumentError(
      field,
      `Cannot open the model: ${field} is ${value}, it can be ${least} to ${most}.`,
    );
  };
  if (!BACKENDS.some((name) => name === backend)) {
    throw new InvalidArgumentError(
      "backend",
      `Cannot open the model: backend is ${JSON.stringify(backend)}, it can be one of ` +
        `${[...BACKENDS, "auto"].join(", ")}.`,
    );
  }
  if (tensorParallel !== 1 && backend !== "ort-native") {
    throw new InvalidArgumentError(
      "tensorParallel",
      `Cannot open the model: tensorParallel is ${tensorParallel}, backend ${backend} computes in one process; ` +
        "use ort-native.",
    );
  }
  if (experts !== "gpu" && backend !== "cuda") {
    throw new InvalidArgumentError(
      "experts",
      `Cannot open the model: experts is ${JSON.stringify(experts)}, backend ${backend} ` +
        "computes on the CPU alone; use cuda.",
    );
  }
  const context = contextLength ?? Math.min(spec.contextLength, DEFAULT_CONTEXT);
  check("contextLength", context, 1, spec.contextLength);
  if (cacheTokens !== undefined) check("cacheTokens", cacheTokens, context, 2 ** 31 - 1);
  return { contextLength: context, cacheTokens };
}

async function openTokenizer(model: ModelPackage): Promise<Tokenizer | undefined> {
  if (!model.has("tokenizer.json")) return undefined;
  const config: TokenizerConfig = model.has("tokenizer_config.json")
    ? parseJson(model, "tokenizer_config.json", await model.readText("tokenizer_config.json"))
    : {};
  const template = model.has("chat_template.jinja")
    ? { chat_template: await model.readText("chat_template.jinja") }
    : {};
  return Tokenizer.fromJson(await model.readText("tokenizer.json"), { ...config, ...template });
}

function parseJson(model: ModelPackage, name: string, text: string): TokenizerConfig {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const message =
      `Cannot read ${name} in ${model.address}: it is no JSON; export the model again.`;
    throw new InvalidFileError(name, message, { cause });
  }
}

/**
 * The defaults and end tokens. Without a generation_config.json the tokenizer's end token goes before
 * config.json's: copies of DeepSeek LLM's bases have Llama's there, which are other tokens of theirs.
 */
async function openGenerationConfig(
  model: ModelPackage,
  tokenizerEos: number | undefined,
  options: OpenOptions,
): Promise<GenerationConfig> {
  const name = "generation_config.json";
  const config: GenerationConfig = model.has(name)
    ? parseGenerationConfig(`${model.address} ${name}`, await model.readText(name))
    : { defaults: {}, eosTokenIds: [] };
  if (config.eosTokenIds.length === 0 && tokenizerEos !== undefined) {
    config.eosTokenIds = [tokenizerEos];
  } else if (config.eosTokenIds.length === 0 && model.has("config.json")) {
    const text = await model.readText("config.json");
    config.eosTokenIds = parseEosTokenIds(`${model.address} config.json`, text);
  }
  if (options.generationConfig === false) config.defaults = {};
  return config;
}
