/**
 * Experts in the host's memory: which layers' experts a GPU leaves to the CPU, what that takes on either side,
 * and the pass over the graph that says so to ONNX Runtime.
 *
 * A layer on the host is computed by the CPU kernel from weights that never leave the host; attention, shared
 * experts and everything else stay on the GPU, which gets the layer's rows back. The last layers go first: all
 * layers with experts are of one size, so that any n cost the same, and with the last ones a step begins with an
 * unbroken run of work for the GPU, which is queued before anyone waits.
 *
 * Pure: nothing is read here. ARCHITECTURE.md, "The native library".
 * @module
 */
import { CapacityError, InvalidArgumentError } from "../../errors.ts";
import { DOMAIN } from "../../onnx/graph_builder.ts";
import type { ModelProto } from "../../onnx/onnx_pb.ts";
import type { GraphModel, Initializer } from "../../onnx/read_model.ts";

/** Where routed experts are: all on the GPU, all on the host, or those of so many layers on the host. */
export type ExpertsPlace = "gpu" | "cpu" | number;

/** What a model may take. */
export interface PlacementRoom {
  /** Memory of the GPU for what is planned here, bytes; the activations of a step are not. */
  deviceBytes: number;
  /** Memory of the host for experts, bytes. */
  hostBytes: number;
  /** Of a block of the cache, all caches together, bytes. */
  blockBytes: number;
  /** Blocks without which nothing can be done, the scratch block included. */
  leastBlocks: number;
  /** Most rows of logits of a step. */
  logitRows: number;
}

/** What lies where. */
export interface Placement {
  /** Layers with experts, and how many of them have theirs on the host. */
  layers: { all: number; host: number };
  /** The routers of those on the host, by which {@linkcode placeExperts} knows them. */
  hostRouters: ReadonlySet<string>;
  /** Bytes on the GPU. `workspace`: a quantized matrix in f32, and the logits. */
  device: { weights: number; experts: number; workspace: number; cache: number };
  /** Bytes on the host, as the CPU kernel packs them. */
  host: { experts: number };
  /** Blocks of the cache: what is left on the GPU. */
  blocks: number;
}

const EXPERTS = "SparseExperts";
/** The same op where only the CPU has a kernel, see `gpu/ops/ops.h`. */
const HOST_EXPERTS = "HostSparseExperts";
/** Rows that the CPU kernels pack together. */
const PACKED_ROWS = 8;
/** Columns of a block of quantized weights. */
const BLOCK = 32;

/** A layer's routed experts, and the bytes that they take on either side. */
interface ExpertLayer {
  router: string;
  device: number;
  host: number;
}

/**
 * Plans where everything lies.
 *
 * @param graph The model, or a rank's part of it.
 * @param room What it may take.
 * @param experts Where routed experts are.
 * @returns The plan.
 * @throws {InvalidArgumentError} If the model has not so many layers with experts.
 * @throws {CapacityError} If it does not fit; the message says what does.
 */
export function planPlacement(
  graph: GraphModel,
  room: PlacementRoom,
  experts: ExpertsPlace,
): Placement {
  const layers = expertLayers(graph);
  const hostCount = experts === "gpu" ? 0 : experts === "cpu" ? layers.length : experts;
  if (!(Number.isInteger(hostCount) && hostCount >= 0 && hostCount <= layers.length)) {
    throw new InvalidArgumentError(
      "experts",
      `Cannot open the model: experts is ${
        JSON.stringify(experts)
      }, it can be "gpu", "cpu" or the number of ` +
        `layers whose experts are on the host, 0 to ${layers.length}.`,
    );
  }
  const weights = otherBytes(graph);
  const workspace = workspaceBytes(graph, room.logitRows);
  const leastCache = room.leastBlocks * room.blockBytes;
  /** With the experts of so many layers on the host. */
  const taken = (count: number) => {
    const split = layers.length - count;
    const onDevice = layers.slice(0, split).reduce((sum, { device }) => sum + device, 0);
    const onHost = layers.slice(split).reduce((sum, { host }) => sum + host, 0);
    const device = weights + onDevice + workspace + leastCache;
    return { onDevice, onHost, device, fits: device <= room.deviceBytes };
  };
  const { onDevice, onHost, device, fits } = taken(hostCount);
  if (!fits || onHost > room.hostBytes) {
    const what = fits
      ? `the experts of ${hostCount} layers take ${gib(onHost)} of the host's ${
        gib(room.hostBytes)
      }`
      : `on the GPU weights take ${gib(weights)}, experts ${gib(onDevice)}, a workspace ${
        gib(workspace)
      } and ` +
        `the least cache ${gib(leastCache)}, together ${gib(device)} of ${gib(room.deviceBytes)}`;
    const least = [...layers.keys(), layers.length].find((count) => taken(count).fits);
    throw new CapacityError(
      "out_of_memory",
      `Cannot open the model: ${what}; ` +
        wayOut(least, least === undefined ? 0 : taken(least).onHost, room.hostBytes),
    );
  }
  const blocks = Math.floor((room.deviceBytes - weights - onDevice - workspace) / room.blockBytes);
  return {
    layers: { all: layers.length, host: hostCount },
    hostRouters: new Set(layers.slice(layers.length - hostCount).map(({ router }) => router)),
    device: { weights, experts: onDevice, workspace, cache: blocks * room.blockBytes },
    host: { experts: onHost },
    blocks,
  };
}

/** The end of a refusal. */
function wayOut(least: number | undefined, needed: number, hostBytes: number): string {
  const smaller = "lower contextLength or cacheTokens, or export with fewer bits (--weights int4).";
  if (least === undefined) return `without any experts it does not fit either: ${smaller}`;
  if (needed <= hostBytes) {
    return `experts: ${least} (--experts ${least}) fits, with ${
      gib(needed)
    } of experts on the host.`;
  }
  return `the GPU would need ${
    gib(needed)
  } of experts (of ${least} layers) to be on the host, which has ` +
    `${gib(hostBytes)}: ${smaller}`;
}

/**
 * Gives layers' routed experts to the CPU.
 *
 * @param model The model; changed here.
 * @param hostRouters The routers of the layers, see {@linkcode Placement}.
 */
export function placeExperts(model: ModelProto, hostRouters: ReadonlySet<string>): void {
  for (const node of model.graph?.node ?? []) {
    if (node.domain !== DOMAIN || node.opType !== EXPERTS) continue;
    if (hostRouters.has(node.input[1]!)) node.opType = HOST_EXPERTS;
  }
}

/** Nodes of routed experts, and whether their weights are float. */
function expertNodes(graph: GraphModel): { inputs: string[]; float: boolean }[] {
  return graph.nodes.filter(({ op }) => op === `${DOMAIN}.${EXPERTS}`).map(({ inputs }) => ({
    inputs: inputs.slice(1),
    float: inputs.length === 4,
  }));
}

/** The layers with routed experts, in order. Each node of a layer has some of its experts. */
function expertLayers(graph: GraphModel): ExpertLayer[] {
  const layers = new Map<string, ExpertLayer>();
  for (const { inputs: [router, ...stacks], float } of expertNodes(graph)) {
    let layer = layers.get(router!);
    if (!layer) {
      const { bytes } = graph.initializers.get(router!)!;
      layer = {
        router: router!,
        device: bytes,
        host: packedBytes(graph.initializers.get(router!)!),
      };
      layers.set(router!, layer);
    }
    for (const name of stacks) {
      const tensor = graph.initializers.get(name)!;
      // The GPU's kernels have float experts once more, in bf16.
      layer.device += tensor.bytes + (float ? 2 * elementsOf(tensor) : 0);
      layer.host += packedBytes(tensor);
    }
  }
  return [...layers.values()];
}

/** Bytes on the GPU of everything but routed experts. */
function otherBytes(graph: GraphModel): number {
  const ofExperts = new Set(expertNodes(graph).flatMap(({ inputs }) => inputs));
  let bytes = 0;
  for (const [name, tensor] of graph.initializers) {
    if (!ofExperts.has(name)) bytes += tensor.bytes;
  }
  for (const { op, inputs } of graph.nodes) {
    const [first, , , kvB] = inputs.map((name) => graph.initializers.get(name));
    // ONNX Runtime keeps the f32 of halves that pass through a Cast, and not the halves.
    if (op === "Cast" && first) bytes += 4 * elementsOf(first) - first.bytes;
    // Its kernel on the GPU has both parts of kv_b once more, in bf16.
    if (op === `${DOMAIN}.LatentAttention` && kvB) bytes += 2 * elementsOf(kvB);
  }
  return bytes;
}

/** The most that ONNX Runtime's MatMulNBits takes, which writes a matrix out for steps of many rows; the logits. */
function workspaceBytes(graph: GraphModel, logitRows: number): number {
  const matrices = graph.nodes.filter(({ op }) => op === "com.microsoft.MatMulNBits").map(
    ({ attributes }) => {
      const [rows, columns] = ["N", "K"].map((name) => attributes.get(name) as number);
      return 4 * rows! * Math.ceil(columns! / BLOCK) * BLOCK;
    },
  );
  const [, vocabulary] = graph.outputs.find(({ name }) => name === "logits")!.dims;
  return Math.max(0, ...matrices) + 4 * logitRows * Number(vocabulary);
}

/** Bytes of a matrix, or of each of a stack's, whose rows are packed. */
function packedBytes({ dims, bytes }: Initializer): number {
  const rows = dims.at(-2)!;
  return bytes / rows * Math.ceil(rows / PACKED_ROWS) * PACKED_ROWS;
}

function elementsOf({ dims }: Initializer): number {
  return dims.reduce((product, size) => product * size, 1);
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
