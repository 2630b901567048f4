/**
 * A graph in ONNX Runtime with the native library's kernels, and its caches, updated in place.
 * @module
 */
import { toBinary } from "@bufbuild/protobuf";
import { BackendError, CapacityError } from "../../errors.ts";
import { type ModelProto, ModelProtoSchema } from "../../onnx/onnx_pb.ts";
import type { GraphModel, GraphValue } from "../../onnx/read_model.ts";
import type { StepResult } from "../backend.ts";
import {
  type CacheShape,
  type GraphRunner,
  resultNames,
  type StepInput,
} from "../graph_backend.ts";
import type { StepPlan, StepPreferences } from "../step_plan.ts";
import type { Addon, HostTensor, NativeSession, NativeTensor } from "./addon.ts";
import type { RankStepPlan } from "./rank_plan.ts";
import { RANK_ROWS, RANK_TOKENS } from "./sharding.ts";

/** What a session is made of. */
export interface SessionParts {
  /** The native library. */
  addon: Addon;
  /** The path of ONNX Runtime's library. */
  runtime: string;
  /** The model's address, for messages. */
  address: string;
  /** The folder of the data files. */
  folder: string;
  /** The model; changed here. */
  model: ModelProto;
  /** Its outputs. */
  graph: GraphModel;
  /** Its caches. */
  caches: CacheShape[];
  /** How many threads compute. */
  threads: number;
  /** Weights that are not read from the data files. */
  given?: [name: string, tensor: NativeTensor][];
}

/** What the backend prefers. */
export const PREFERENCES: StepPreferences = {
  tokens: 512,
  sequences: 256,
  logitRows: 256,
  blockSize: 16,
  cacheBytes: 128 * 1024 * 1024,
};
/** `accuracy_level` of MatMulNBits. */
const INTEGER_PRODUCTS = 4n;

/**
 * Opens a session.
 *
 * @param parts What it is made of.
 * @returns It, ready to run.
 * @throws {BackendError} If ONNX Runtime refuses the model.
 * @throws {CapacityError} If the cache does not fit the memory.
 */
export async function openNativeSession(parts: SessionParts): Promise<GraphRunner> {
  const { addon, runtime, address, folder, model, graph, caches, threads, given } = parts;
  multiplyIntegers(model);
  let session: NativeSession;
  try {
    const bytes = toBinary(ModelProtoSchema, model);
    session = await addon.createSession(runtime, bytes, folder, threads, given);
  } catch (cause) {
    throw new BackendError(
      "backend_failed",
      `Cannot open ${address} with ONNX Runtime: ${(cause as Error).message}`,
      { cause },
    );
  }
  const tensors: NativeTensor[] = [];
  try {
    for (const { name, type, dims } of caches) {
      const tensor = addon.createTensor(runtime, "cpu", type, dims);
      tensors.push(tensor);
      addon.bindInPlace(session, name, `${name}.out`, tensor);
    }
  } catch (cause) {
    addon.closeSession(session);
    for (const tensor of tensors) addon.closeTensor(tensor);
    const bytes = caches.reduce((sum, { dims }) => sum + dims.reduce((a, b) => a * b, 4), 0);
    throw new CapacityError(
      "out_of_memory",
      `Cannot open ${address} on backend ort-native: a cache of ${bytes} bytes can not be had; lower ` +
        "contextLength or cacheTokens.",
      { cause },
    );
  }
  const outputs = resultNames(graph).map((name) =>
    new Output(graph.outputs.find((output) => output.name === name)!)
  );
  return new NativeRunner(addon, session, tensors, outputs);
}

/**
 * Lets ONNX Runtime multiply quantized weights as our kernels do, with activations in blocks of int8. The file
 * asks for f32 products, since it is the reference: they take a hundred times as long.
 */
function multiplyIntegers(model: ModelProto) {
  for (const node of model.graph?.node ?? []) {
    if (node.opType !== "MatMulNBits") continue;
    for (const attribute of node.attribute) {
      if (attribute.name === "accuracy_level") attribute.i = INTEGER_PRODUCTS;
    }
  }
}

/** An output [T or Q, columns], whose memory is kept from step to step. */
class Output {
  readonly name: string;
  readonly #columns: number;
  readonly #Elements: typeof Float32Array | typeof Int32Array;
  #memory: Float32Array | Int32Array;

  constructor({ name, type, dims: [, columns] }: GraphValue) {
    this.name = name;
    this.#columns = columns as number;
    this.#Elements = type === "i32" ? Int32Array : Float32Array;
    this.#memory = new this.#Elements(0);
  }

  /** Room for a step. */
  tensor(step: StepPlan | RankStepPlan): HostTensor {
    const wanted = this.name === "logits";
    let rows = wanted ? step.logitRows.length : step.tokenIds.length;
    if ("rankRows" in step && step.rankRows.length > 0) {
      const counts = wanted ? step.rankRows : step.rankTokens;
      rows = counts.reduce((sum, count) => sum + count, 0);
    }
    const length = rows * this.#columns;
    if (this.#memory.length < length) this.#memory = new this.#Elements(length);
    return [this.name, [rows, this.#columns], this.#memory.subarray(0, length)];
  }
}

class NativeRunner implements GraphRunner {
  readonly #addon: Addon;
  readonly #session: NativeSession;
  readonly #caches: NativeTensor[];
  readonly #outputs: Output[];

  constructor(
    addon: Addon,
    session: NativeSession,
    caches: NativeTensor[],
    outputs: Output[],
  ) {
    this.#addon = addon;
    this.#session = session;
    this.#caches = caches;
    this.#outputs = outputs;
  }

  async run(inputs: StepInput[], step: StepPlan | RankStepPlan): Promise<StepResult> {
    const feeds = inputs.map(({ name, values, dims }): HostTensor => [name, dims, values]);
    if ("rankRows" in step && step.rankRows.length > 0) {
      const { rankTokens, rankRows } = step;
      feeds.push([RANK_TOKENS, [rankTokens.length], rankTokens]);
      feeds.push([RANK_ROWS, [rankRows.length], rankRows]);
    }
    const outputs = this.#outputs.map((output) => output.tensor(step));
    await this.#addon.run(this.#session, feeds, outputs);
    const results = new Map(outputs.map(([name, , values]) => [name, values]));
    return {
      logits: results.get("logits") as Float32Array,
      output: (name) => results.get(name) as Float32Array | Int32Array | undefined,
    };
  }

  readCache(cache: number, offset: number, into: Uint8Array): void {
    this.#addon.readTensor(this.#caches[cache]!, offset, into);
  }

  writeCache(cache: number, offset: number, from: Uint8Array): void {
    this.#addon.writeTensor(this.#caches[cache]!, offset, from);
  }

  copyWithin(cache: number, from: number, to: number, bytes: number): void {
    this.#addon.copyWithin(this.#caches[cache]!, from, to, bytes);
  }

  release(): Promise<void> {
    this.#addon.closeSession(this.#session);
    for (const cache of this.#caches) this.#addon.closeTensor(cache);
    return Promise.resolve();
  }
}
