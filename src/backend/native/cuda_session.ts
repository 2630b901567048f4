/**
 * A graph in ONNX Runtime on a CUDA device: caches and a step's inputs and outputs have their places there, what
 * is copied from and to them is pinned.
 * @module
 */
import { toBinary } from "@bufbuild/protobuf";
import { BackendError, CapacityError } from "../../errors.ts";
import { ModelProtoSchema } from "../../onnx/onnx_pb.ts";
import type { StepResult } from "../backend.ts";
import { type GraphRunner, resultNames, type StepInput, stepInputs } from "../graph_backend.ts";
import type { StepLimits, StepPlan } from "../step_plan.ts";
import type { HostTensor, NativePlan, NativeSession, NativeTensor } from "./addon.ts";
import { PLAN } from "./cuda_model.ts";
import type { SessionParts } from "./native_session.ts";
import { padStep } from "./step_padding.ts";

/** What a session is made of: a model that is adapted to CUDA, threads for nodes without a CUDA kernel. */
export interface CudaSessionParts extends SessionParts {
  /** Queries of a token in a layer that takes a plan; 0 if none does. */
  heads: number;
  /** Largest step. */
  limits: StepLimits;
  /** Of ONNX Runtime's arena, bytes. */
  arena: number;
  /** Whether steps are captured as CUDA graphs. */
  graphs: boolean;
}

/** Inputs that kernels read on the device; the others are read by the host, if at all. */
const ON_DEVICE: readonly string[] = ["token_ids", "positions", "logit_rows"];

/**
 * Opens a session.
 *
 * @param parts What it is made of.
 * @returns It, ready to run.
 * @throws {BackendError} If ONNX Runtime refuses the model.
 * @throws {CapacityError} If the device has not the memory.
 */
export async function openCudaSession(parts: CudaSessionParts): Promise<GraphRunner> {
  const { addon, runtime, address, folder, model, caches, limits, arena, graphs, threads } = parts;
  const { given, heads } = parts;
  const tensors: NativeTensor[] = [];
  let [session, plan]: [NativeSession?, NativePlan?] = [];
  const release = () => {
    if (session) addon.closeSession(session);
    for (const tensor of tensors) addon.closeTensor(tensor);
    if (plan) addon.closePlan(plan);
  };
  try {
    const columns = Math.ceil(limits.contextLength / limits.blockSize);
    if (heads > 0) plan = addon.createPlan([limits.tokens, limits.sequences, 2 * columns]);
    for (const { type, dims } of caches) {
      tensors.push(addon.createTensor(runtime, "cuda", type, dims));
    }
  } catch (cause) {
    release();
    throw new CapacityError(
      "out_of_memory",
      `Cannot open ${address} on backend cuda: the cache can not be had (${
        (cause as Error).message
      }); lower gpuMemory, contextLength or cacheTokens.`,
      { cause },
    );
  }
  try {
    const memory = new StepMemory(parts);
    const bytes = toBinary(ModelProtoSchema, model);
    const settings = [arena, graphs ? 1 : 0, memory.onDevice] as const;
    session = await addon.createSession(runtime, bytes, folder, threads, given, settings);
    for (const [i, { name }] of caches.entries()) {
      addon.bindInPlace(session, name, `${name}.out`, tensors[i]!);
    }
    return new CudaRunner(parts, session, tensors, plan, memory, release);
  } catch (cause) {
    release();
    throw new BackendError(
      "backend_failed",
      `Cannot open ${address} with ONNX Runtime on CUDA: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/** Pinned memory for the inputs and outputs of the largest step; its places do not change. */
class StepMemory {
  readonly #inputs = new Map<string, Int32Array>();
  readonly #outputs: { name: string; columns: number; memory: Float32Array | Int32Array }[];

  constructor({ addon, graph, limits }: CudaSessionParts) {
    const { tokens, sequences, logitRows, contextLength, blockSize } = limits;
    const room = (length: number) => new Int32Array(addon.pinnedMemory(4 * length));
    const rows = Math.max(logitRows, sequences);
    // Padding makes block tables up to twice as wide.
    const tables = 2 * sequences * Math.ceil(contextLength / blockSize);
    const lengths = {
      ...{ token_ids: tokens, positions: tokens, slots: tokens, query_starts: sequences + 1 },
      ...{ context_lengths: sequences, block_tables: tables, logit_rows: rows, [PLAN]: 1 },
    };
    for (const [name, length] of Object.entries(lengths)) this.#inputs.set(name, room(length));
    this.#outputs = resultNames(graph).map((name) => {
      const { type, dims: [, width] } = graph.outputs.find((output) => output.name === name)!;
      const columns = width as number;
      const memory = addon.pinnedMemory(4 * columns * (name === "logits" ? rows : tokens));
      const Elements = type === "i32" ? Int32Array : Float32Array;
      return { name, columns, memory: new Elements(memory) };
    });
  }

  /** What has a place on the device, with its bytes. */
  get onDevice(): [name: string, bytes: number][] {
    return [
      ...ON_DEVICE.map((name): [string, number] => [name, this.#inputs.get(name)!.byteLength]),
      ...this.#outputs.map(({ name, memory }): [string, number] => [name, memory.byteLength]),
    ];
  }

  /** An input's values, copied to its place. */
  input({ name, values, dims }: StepInput): HostTensor {
    const place = this.#inputs.get(name)!.subarray(0, values.length);
    place.set(values);
    return [name, dims, place];
  }

  /** Places for the outputs of a step. */
  outputs(step: StepPlan): HostTensor[] {
    return this.#outputs.map(({ name, columns, memory }) => {
      const rows = rowsOf(name, step);
      return [name, [rows, columns], memory.subarray(0, rows * columns)];
    });
  }
}

function rowsOf(output: string, step: StepPlan): number {
  return output === "logits" ? step.logitRows.length : step.tokenIds.length;
}

class CudaRunner implements GraphRunner {
  constructor(
    readonly parts: CudaSessionParts,
    readonly session: NativeSession,
    readonly caches: NativeTensor[],
    readonly plan: NativePlan | undefined,
    readonly memory: StepMemory,
    readonly free: () => void,
  ) {}

  async run(_: StepInput[], step: StepPlan): Promise<StepResult> {
    const { addon, heads, limits: { blockSize, blocks }, graphs } = this.parts;
    const padded = padStep(step, blockSize);
    const inputs = stepInputs(padded);
    if (this.plan) {
      const { slots, queryStarts, contextLengths, blockTables } = padded;
      const indices = [slots, queryStarts, contextLengths, blockTables] as const;
      const number = addon.planStep(this.plan, [heads, blockSize, blocks], indices);
      inputs.push({ name: PLAN, values: Int32Array.of(number), dims: [1] });
    }
    const feeds = inputs.map((input) => this.memory.input(input));
    const outputs = this.memory.outputs(padded);
    await addon.run(this.session, feeds, outputs, graphs ? padded.shape : -1);
    const results = new Map(outputs.map(([name, [, columns], values]) => [
      name,
      values.subarray(0, rowsOf(name, step) * columns!) as Float32Array | Int32Array,
    ]));
    return {
      logits: results.get("logits") as Float32Array,
      output: (name) => results.get(name),
    };
  }

  readCache(cache: number, offset: number, into: Uint8Array): void {
    this.parts.addon.readTensor(this.caches[cache]!, offset, into);
  }

  writeCache(cache: number, offset: number, from: Uint8Array): void {
    this.parts.addon.writeTensor(this.caches[cache]!, offset, from);
  }

  copyWithin(cache: number, from: number, to: number, bytes: number): void {
    this.parts.addon.copyWithin(this.caches[cache]!, from, to, bytes);
  }

  release(): Promise<void> {
    this.free();
    return Promise.resolve();
  }
}
