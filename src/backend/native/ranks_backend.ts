/**
 * Backend `ort-native` over several processes. Rank 0 schedules and samples; it tells the others each step, and
 * every rank runs its part of the graph, whose collectives keep them together. What fails on one rank ends the
 * step of all: the model is opened again then, with new processes.
 * @module
 */
import { fromBinary } from "@bufbuild/protobuf";
import {
  BackendError,
  type HybridseekError,
  InvalidArgumentError,
  UnsupportedError,
} from "../../errors.ts";
import { ModelPackage } from "../../files/model_package.ts";
import { type ModelSpec, modelSpec } from "../../model_spec.ts";
import { bytesPerElement, dataTypeOf } from "../../onnx/data_type.ts";
import { ModelProtoSchema } from "../../onnx/onnx_pb.ts";
import { type GraphModel, readModel } from "../../onnx/read_model.ts";
import type { Backend, BackendInfo, BlockCopies, StepResult } from "../backend.ts";
import { cacheShapes, GraphBackend } from "../graph_backend.ts";
import { checkStepPlan, type StepLimits, stepLimits, type StepPlan } from "../step_plan.ts";
import { availableCores, MAX_THREADS } from "../wasm/threads.ts";
import { type Addon, loadAddon, type NativeTensor, openOnnxRuntime } from "./addon.ts";
import type { NativeBackendOptions } from "./native_backend.ts";
import { openNativeSession, PREFERENCES } from "./native_session.ts";
import { environment, failed, RankGroup } from "./rank_group.ts";
import { NCCL_VARIABLE, rankPlace } from "./rank_place.ts";
import {
  arraysOf,
  type DividedStep,
  divideStep,
  packArrays,
  PART_ARRAYS,
  partOf,
  unpackArrays,
} from "./rank_plan.ts";
import { type ShardedModel, shardModel, type WeightSlice } from "./sharding.ts";

/** What rank 0 tells the others to do; the first array of a message. */
const Command = { Run: 0, Copy: 1, Read: 2, Write: 3, Close: 4 } as const;

/** How every rank opens its part; rank 0's first message, as JSON. */
interface PartOptions {
  /** The package's folder. */
  folder: string;
  /** Whether experts are compared with their hashes. */
  verify: boolean;
  /** Of each rank. */
  limits: StepLimits;
  /** Whether ranks have sequences of their own. */
  dataParallelAttention: boolean;
  /** How many threads a rank computes with; by default its share of the cores. */
  threads?: number;
  /** The path of NCCL's library, if it carries the tensors. */
  nccl?: string;
}

/** Options of {@linkcode openRanks}. */
export interface RanksOptions extends NativeBackendOptions {
  /** The native library. */
  addon: Addon;
  /** ONNX Runtime's library. */
  runtime: { path: string; version: string };
  /** The package's folder. */
  folder: string;
  /** How many processes. */
  ranks: number;
  /** Whether each has sequences of its own. */
  dataParallelAttention: boolean;
}

/**
 * Opens a model on several ranks; this process is rank 0.
 *
 * @param model The package.
 * @param graph Its graph.
 * @param spec What the graph says of the model.
 * @param options Ranks, sizes, threads.
 * @returns The backend, ready to run.
 * @throws {UnsupportedError} If the model can not be divided so, or this is another rank.
 * @throws {InvalidArgumentError} If a launcher has started another number of ranks.
 * @throws {BackendError} If a rank does not come or can not open its part.
 */
export async function openRanks(
  model: ModelPackage,
  graph: GraphModel,
  spec: ModelSpec,
  options: RanksOptions,
): Promise<Backend> {
  const { addon, runtime, folder, ranks, dataParallelAttention, threads, onPlan } = options;
  const env = await environment();
  const place = rankPlace(env);
  if (place && place.rank > 0) {
    throw new UnsupportedError(
      `Cannot open ${model.address}: this process is rank ${place.rank} of ${place.ranks}, which ` +
        "followRanks() joins; rank 0 opens the model.",
    );
  }
  const bytes = await model.readAll("model.onnx");
  // What can not be divided is refused before any process is started.
  const shard = { rank: 0, ranks, dataParallelAttention, communicator: 0 };
  const part = shardModel(fromBinary(ModelProtoSchema, bytes), shard);
  const { caches, cacheBytesPerToken } = partSpec(spec, part);
  const sizes = dataParallelAttention ? dividedSizes(spec, options, ranks) : options;
  const limits = stepLimits({ ...spec, cacheBytesPerToken }, sizes, PREFERENCES);
  cacheShapes("ort-native", spec, limits);
  const group = await RankGroup.join(addon, ranks);
  try {
    const nccl = env[NCCL_VARIABLE] || undefined;
    const how: PartOptions = {
      ...{ folder, verify: model.verifies, limits, dataParallelAttention, threads, nccl },
    };
    await group.broadcast(new TextEncoder().encode(JSON.stringify(how)));
    const opened = openPart(addon, runtime, group, model, graph, spec, how, onPlan);
    // All say how it went, whatever it was here.
    const failure = await opened.then(() => "", (error: Error) => error.message);
    const answers = await group.gather(new TextEncoder().encode(failure));
    const backend = await opened;
    for (const [rank, answer] of answers.entries()) {
      if (answer.length > 0) throw new Error(`rank ${rank}: ${new TextDecoder().decode(answer)}`);
    }
    const whole = { ...limits, blocks: limits.blocks * (dataParallelAttention ? ranks : 1) };
    const divided = caches.some(({ heads }, i) => heads !== spec.caches[i]!.heads);
    return new RanksBackend(group, backend, spec.vocabSize, divided, {
      ...whole,
      pools: dataParallelAttention ? ranks : 1,
    });
  } catch (cause) {
    group.abort((cause as Error).message);
    await group.leave();
    throw cause instanceof UnsupportedError || cause instanceof BackendError
      ? cause
      : failed(`open ${model.address} on ${ranks} ranks`, cause);
  }
}

/**
 * Computes a rank's part of a model, until rank 0 closes it: what the processes with a number above 0 do that
 * torchrun, mpirun or srun have started.
 *
 * @param options `onnxruntime`: the path of ONNX Runtime's library; it is looked for by default.
 * @throws {UnsupportedError} If no launcher has started this process, or the native library is missing.
 * @throws {InvalidArgumentError} If the environment contradicts itself.
 * @throws {BackendError} If another rank failed, or is gone.
 */
export async function followRanks(options: { onnxruntime?: string } = {}): Promise<void> {
  const addon = await loadAddon();
  const runtime = await openOnnxRuntime(addon, options.onnxruntime);
  const group = await RankGroup.join(addon);
  if (group.rank === 0) {
    throw new InvalidArgumentError(
      "rank",
      "Cannot follow rank 0: this process is it; open the model.",
    );
  }
  let backend: GraphBackend | undefined;
  try {
    const how: PartOptions = JSON.parse(new TextDecoder().decode(await group.broadcast()));
    const opened = openFolder(addon, runtime, group, how);
    const failure = await opened.then(() => "", (error: Error) => error.message);
    await group.gather(new TextEncoder().encode(failure));
    backend = await opened;
    while (await obey(group, backend));
  } catch (cause) {
    group.abort(`rank ${group.rank} failed: ${(cause as Error).message}`);
    throw failed(`go on as rank ${group.rank}`, cause);
  } finally {
    await backend?.close();
    await group.leave();
  }
}

/** Does what rank 0 says. @returns False if that was the end. */
async function obey(group: RankGroup, backend: GraphBackend): Promise<boolean> {
  const [[command], ...arrays] = unpackArrays(await group.broadcast()) as [Int32Array];
  const list = arrays as Int32Array[];
  // Either a part for each rank, or one for all.
  const own = (size: number) => {
    const begin = list.length > size ? group.rank * size : 0;
    return list.slice(begin, begin + size);
  };
  switch (command) {
    case Command.Run:
      await backend.run(partOf(own(PART_ARRAYS)));
      return true;
    case Command.Copy:
      await backend.copyBlocks(pairsOf(own(1)[0]!));
      return true;
    case Command.Read:
      await group.gather(await backend.readBlocks([...own(1)[0]!]));
      return true;
    case Command.Write: {
      const [blocks, words] = own(2) as [Int32Array, Int32Array];
      await backend.writeBlocks([...blocks], bytesOf(words));
      return true;
    }
    default:
      return false;
  }
}

// ---- a rank's part

async function openFolder(
  addon: Addon,
  runtime: RanksOptions["runtime"],
  group: RankGroup,
  how: PartOptions,
): Promise<GraphBackend> {
  const model = await ModelPackage.open(how.folder, { verify: how.verify });
  try {
    const graph = readModel(`${how.folder} model.onnx`, await model.readAll("model.onnx"));
    return await openPart(addon, runtime, group, model, graph, modelSpec(graph), how);
  } finally {
    await model.close();
  }
}

async function openPart(
  addon: Addon,
  runtime: RanksOptions["runtime"],
  group: RankGroup,
  model: ModelPackage,
  graph: GraphModel,
  spec: ModelSpec,
  how: PartOptions,
  onPlan?: (info: BackendInfo) => void,
): Promise<GraphBackend> {
  const { limits, dataParallelAttention, folder, threads, nccl } = how;
  if (nccl !== undefined) await group.useNccl(nccl);
  const { rank, ranks, local, communicator } = group;
  const part = shardModel(fromBinary(ModelProtoSchema, await model.readAll("model.onnx")), {
    ...{ rank, ranks, dataParallelAttention, communicator },
  });
  const own = partSpec(spec, part);
  const caches = cacheShapes("ort-native", own, limits);
  const count = threads ?? Math.max(1, Math.floor(await availableCores() / local));
  const info: BackendInfo = {
    backend: "ort-native",
    build: `onnxruntime ${runtime.version}, cpu; ${ranks} ranks over ${group.transport}`,
    threads: Math.min(count, MAX_THREADS),
    threadsReason: threads !== undefined ? "as asked for" : "each rank's share of the cores",
    cacheType: "f32",
    verified: false, // of what is not an expert the hashes cover other ranks' bytes, too
    bytes: {
      weights: part.slices.reduce((sum, { rows, bytes }) => sum + rows * bytes, 0),
      cache: own.cacheBytesPerToken * limits.blocks * limits.blockSize,
    },
  };
  onPlan?.(info);
  if (model.verifies) await verifyExperts(model, part.slices);
  const given: [string, NativeTensor][] = [];
  try {
    for (const slice of part.slices) {
      if (slice.rows === 1) continue;
      const type = GIVEN_TYPES[dataTypeOf(slice.type) ?? ""]!;
      const tensor = addon.createTensor(runtime.path, "cpu", type, slice.dims);
      given.push([slice.name, tensor]);
      addon.writeTensor(tensor, 0, await model.readPieces(slice.file, slice));
    }
    const runner = await openNativeSession({
      ...{ addon, runtime: runtime.path, address: model.address, folder },
      ...{ model: part.model, graph, caches, threads: info.threads, given },
    });
    return new GraphBackend(runner, caches, info, limits, spec.vocabSize);
  } finally {
    for (const [, tensor] of given) addon.closeTensor(tensor); // the session keeps them
  }
}

/** The addon's names of the types that weights are stored in. */
const GIVEN_TYPES: Record<string, "float32" | "float16" | "uint8"> = {
  f32: "float32",
  f16: "float16",
  u8: "uint8",
};

/** What a model is on one of its ranks. */
function partSpec(spec: ModelSpec, { cacheHeads }: ShardedModel): ModelSpec {
  const caches = spec.caches.map((cache) => ({ ...cache, heads: cacheHeads.get(cache.name)! }));
  const cacheBytesPerToken = caches.reduce(
    (sum, { type, heads, width }) => sum + bytesPerElement(type) * heads * width,
    0,
  );
  return { ...spec, caches, cacheBytesPerToken };
}

/** Sizes of each of the ranks that share a cache by sequences: a whole context each, at least. */
function dividedSizes(
  { contextLength: longest }: ModelSpec,
  { contextLength = longest, cacheTokens }: RanksOptions,
  ranks: number,
): { contextLength: number; cacheTokens?: number } {
  if (cacheTokens === undefined) return { contextLength };
  return { contextLength, cacheTokens: Math.max(contextLength, Math.ceil(cacheTokens / ranks)) };
}

/**
 * Compares a rank's experts with their hashes. Other weights are not compared: their hashes are of chunks that
 * hold other ranks' weights as well.
 */
async function verifyExperts(model: ModelPackage, slices: readonly WeightSlice[]): Promise<void> {
  for (const { name, file, offset, bytes, dims: [held], firstExpert } of slices) {
    if (firstExpert === undefined) continue;
    const slab = new Uint8Array(bytes / held!);
    const tensor = { name, file, offset: offset - firstExpert * slab.length };
    for (let i = 0; i < held!; i++) await model.readSlab(tensor, firstExpert + i, slab);
  }
}

// ---- rank 0

class RanksBackend implements Backend {
  readonly info: BackendInfo;
  readonly limits: StepLimits;
  readonly cacheLayout: string;
  readonly blockBytes: number;
  readonly #group: RankGroup;
  /** This rank's part. */
  readonly #part: GraphBackend;
  readonly #vocabSize: number;
  /** Whether each rank has some of the heads of every block. */
  readonly #headsDivided: boolean;
  /** What runs. */
  #running: Promise<unknown> = Promise.resolve();
  #failure: HybridseekError | undefined;
  #left: Promise<void> | undefined;

  constructor(
    group: RankGroup,
    part: GraphBackend,
    vocabSize: number,
    headsDivided: boolean,
    limits: StepLimits,
  ) {
    this.#group = group;
    this.#part = part;
    this.#vocabSize = vocabSize;
    this.#headsDivided = headsDivided;
    this.info = part.info;
    this.limits = limits;
    this.blockBytes = part.blockBytes * (headsDivided ? group.ranks : 1);
    this.cacheLayout = part.cacheLayout + (headsDivided ? `, ${group.ranks} ranks` : "");
  }

  async run(plan: StepPlan): Promise<StepResult> {
    if (this.#failure) throw this.#failure;
    checkStepPlan(plan, this.limits, this.#vocabSize);
    return await this.#together(async () => {
      if (!this.#sequencesDivided) {
        const none = new Int32Array(0);
        const part = { ...plan, rankTokens: none, rankRows: none };
        await this.#tell(Command.Run, arraysOf(part));
        return await this.#part.run(part);
      }
      const divided = divideStep(plan, this.limits);
      await this.#tell(Command.Run, divided.parts.flatMap(arraysOf));
      return inOrder(await this.#part.run(divided.parts[0]!), divided);
    });
  }

  async copyBlocks(copies: BlockCopies): Promise<void> {
    await this.#together(async () => {
      const lists = this.#perRank(copies, ({ from }) => from)
        .map((own) => own.flatMap(({ from, to }) => [this.#local(from), this.#local(to)]))
        .map((pairs) => Int32Array.from(pairs));
      await this.#tell(Command.Copy, lists);
      await this.#part.copyBlocks(pairsOf(lists[0]!));
    });
  }

  async readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    return await this.#together(async () => {
      const lists = this.#perRank(blocks, (block) => block)
        .map((own) => Int32Array.from(own, (block) => this.#local(block)));
      await this.#tell(Command.Read, lists);
      const read = await this.#group.gather(await this.#part.readBlocks([...lists[0]!]));
      const size = this.#part.blockBytes;
      const result = new Uint8Array(blocks.length * this.blockBytes);
      const next = read.map(() => 0);
      let at = 0;
      for (const block of blocks) {
        const from = this.#headsDivided ? [...read.keys()] : [this.#rankOf(block)];
        for (const rank of from) {
          const begin = next[rank]!;
          result.set(read[rank]!.subarray(begin, next[rank] = begin + size), at);
          at += size;
        }
      }
      return result;
    });
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    await this.#together(async () => {
      const { ranks } = this.#group;
      const size = this.#part.blockBytes;
      const each = this.blockBytes;
      const places = blocks.map((block, i) => ({ block, i }));
      const lists = this.#perRank(places, ({ block }) => block);
      const parts = Array.from({ length: ranks }, (_, rank) => {
        const own = lists[lists.length > 1 ? rank : 0]!;
        const offset = this.#headsDivided ? rank * size : 0;
        const copy = new Uint8Array(own.length * size);
        for (const [n, { i }] of own.entries()) {
          const begin = i * each + offset;
          copy.set(bytes.subarray(begin, begin + size), n * size);
        }
        return [
          Int32Array.from(own, ({ block }) => this.#local(block)),
          new Int32Array(copy.buffer),
        ] as const;
      });
      await this.#tell(Command.Write, parts.flat());
      const [[own, words]] = parts as [readonly [Int32Array, Int32Array]];
      await this.#part.writeBlocks([...own], bytesOf(words));
    });
  }

  async close(): Promise<void> {
    this.#failure ??= new BackendError(
      "closed",
      "Cannot run the step: the model has been closed.",
    );
    await this.#running.catch(() => {}); // reported to whoever runs it
    this.#left ??= this.#tell(Command.Close, []).catch(() => {}).then(() => this.#leave());
    await this.#left;
  }

  get #sequencesDivided(): boolean {
    return (this.limits.pools ?? 1) > 1;
  }

  /** Blocks of a pool. */
  get #perPool(): number {
    return this.limits.blocks / (this.limits.pools ?? 1);
  }

  #rankOf(block: number): number {
    return Math.floor(block / this.#perPool);
  }

  #local(block: number): number {
    return block % this.#perPool;
  }

  /** Things by the rank whose blocks they are of; one list where blocks are on all ranks. */
  #perRank<T>(things: readonly T[], blockOf: (thing: T) => number): T[][] {
    const lists = Array.from({ length: this.limits.pools ?? 1 }, (): T[] => []);
    for (const thing of things) lists[this.#rankOf(blockOf(thing))]!.push(thing);
    return lists;
  }

  async #tell(command: number, arrays: readonly Int32Array[]): Promise<void> {
    await this.#group.broadcast(packArrays([Int32Array.of(command), ...arrays]));
  }

  /** Does what all ranks do. A failure of any ends the model. */
  async #together<T>(work: () => Promise<T>): Promise<T> {
    if (this.#failure) throw this.#failure;
    try {
      const running = work();
      this.#running = running;
      return await running;
    } catch (cause) {
      const { message } = cause as Error;
      this.#failure = cause instanceof BackendError ? cause : failed("run the step", cause);
      this.#group.abort(`rank 0 failed: ${message}`);
      this.#left ??= this.#leave();
      throw this.#failure;
    }
  }

  async #leave(): Promise<void> {
    await this.#part.close();
    await this.#group.leave();
  }
}

/** Results whose rows are in the order of the ranks, in the order of the step. */
function inOrder(result: StepResult, { rowOrder, tokenOrder, parts }: DividedStep): StepResult {
  const tokens = parts[0]!.rankTokens.reduce((sum, count) => sum + count, 0);
  const ordered = <T extends Float32Array | Int32Array>(values: T, order: Int32Array): T => {
    if (order.length === 0) return values;
    const width = values.length / (order === rowOrder ? order.length : tokens);
    const copy = values.slice(0, order.length * width) as T;
    for (const [to, from] of order.entries()) {
      copy.set(values.subarray(from * width, (from + 1) * width), to * width);
    }
    return copy;
  };
  return {
    logits: ordered(result.logits, rowOrder),
    output(name) {
      const values = result.output(name);
      return values && ordered(values, name === "logits" ? rowOrder : tokenOrder);
    },
  };
}

function pairsOf(numbers: Int32Array): BlockCopies {
  return Array.from({ length: numbers.length / 2 }, (_, i) => ({
    from: numbers[2 * i]!,
    to: numbers[2 * i + 1]!,
  }));
}

function bytesOf({ buffer, byteOffset, byteLength }: Int32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
