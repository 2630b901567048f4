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
import type { GraphModel, GraphNode, Initializer } from "../../onnx/read_model.ts";

/** Where routed experts are: all on the GPU, all on the host, or those of so many layers on the host. */
export type ExpertsPlace = "gpu" | "cpu" | number;

/** What lies where. */
export interface Placement<Device> {
  /** Layers with experts, and how many of them have theirs on the host. */
  layers: { all: number; host: number };
  /** The routers of those on the host, by which {@linkcode placeExperts} knows them. */
  hostRouters: ReadonlySet<string>;
  /** Bytes of experts on the host, as the CPU kernel packs them. */
  hostBytes: number;
  /** The plan of the GPU's memory. */
  device: Device;
}

const EXPERTS = "SparseExperts";
/** The same op where only the CPU has a kernel, see `gpu/ops/ops.h`. */
const HOST_EXPERTS = "HostSparseExperts";
/** Rows that the CPU kernels pack together. */
const PACKED_ROWS = 8;

/**
 * Plans where everything lies.
 *
 * @param graph The model, or a rank's part of it.
 * @param experts Where routed experts are.
 * @param hostBytes What they may take of the host's memory.
 * @param planDevice Plans the GPU's memory for the part of the graph that it gets.
 * @returns The plan.
 * @throws {InvalidArgumentError} If the model has not so many layers with experts.
 * @throws {CapacityError} If it does not fit; the message says with how many layers on the host it does.
 */
export function planPlacement<Device>(
  graph: GraphModel,
  experts: ExpertsPlace,
  hostBytes: number,
  planDevice: (graph: GraphModel) => Device,
): Placement<Device> {
  const layers = expertLayers(graph);
  const count = experts === "gpu" ? 0 : experts === "cpu" ? layers.length : experts;
  if (!(Number.isInteger(count) && count >= 0 && count <= layers.length)) {
    throw new InvalidArgumentError(
      "experts",
      `Cannot open the model: experts is ${
        JSON.stringify(experts)
      }, it can be "gpu", "cpu" or the number of ` +
        `layers whose experts are on the host, 0 to ${layers.length}.`,
    );
  }
  const place = (host: number): Omit<Placement<Device>, "device"> => {
    const last = layers.slice(layers.length - host);
    return {
      layers: { all: layers.length, host },
      hostRouters: new Set(last.map(({ router }) => router)),
      hostBytes: last.reduce((sum, { bytes }) => sum + bytes, 0),
    };
  };
  const asked = place(count);
  const tooMany = asked.hostBytes > hostBytes;
  try {
    if (!tooMany) return { ...asked, device: planDevice(onDevice(graph, asked.hostRouters)) };
  } catch (error) {
    if (!(error instanceof CapacityError)) throw error;
    const message = `${error.message} ${wayOut()}`;
    throw new CapacityError("out_of_memory", message, { cause: error });
  }
  throw new CapacityError(
    "out_of_memory",
    `Cannot open the model: the experts of ${count} layers take ${
      gib(asked.hostBytes)
    } of the host's memory, ` +
      `which has ${gib(hostBytes)}. ${wayOut()}`,
  );

  function fits(host: number): boolean {
    try {
      planDevice(onDevice(graph, place(host).hostRouters));
      return true;
    } catch (error) {
      if (error instanceof CapacityError) return false;
      throw error;
    }
  }

  /** What the least number of layers is that fits. */
  function wayOut(): string {
    let [least, most] = [0, layers.length];
    if (!fits(most)) return "With all experts on the host it does not fit either.";
    while (least < most) {
      const middle = Math.floor((least + most) / 2);
      if (fits(middle)) most = middle;
      else least = middle + 1;
    }
    const needed = place(least).hostBytes;
    return needed <= hostBytes
      ? `With experts: ${least} (--experts ${least}) it fits: ${
        gib(needed)
      } of experts on the host.`
      : `${gib(needed)} of experts, of ${least} layers, would have to be on the host, which has ${
        gib(hostBytes)
      }.`;
  }
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

/** The layers with routed experts in order, and their bytes on the host. Each node of a layer has some of them. */
function expertLayers(graph: GraphModel): { router: string; bytes: number }[] {
  const layers = new Map<string, number>();
  for (const { inputs: [router, ...stacks] } of expertNodes(graph)) {
    const own = layers.has(router!) ? stacks : [router!, ...stacks];
    const bytes = own.map((name) => packedBytes(graph.initializers.get(name)!));
    layers.set(router!, bytes.reduce((sum, part) => sum + part, layers.get(router!) ?? 0));
  }
  return [...layers].map(([router, bytes]) => ({ router, bytes }));
}

/** Nodes of routed experts, with the weights that they use. */
function expertNodes(graph: GraphModel): { node: GraphNode; inputs: string[] }[] {
  return graph.nodes.filter(({ op }) => op === `${DOMAIN}.${EXPERTS}`)
    .map((node) => ({ node, inputs: node.inputs.slice(1) }));
}

/** What is left to the GPU. */
function onDevice(graph: GraphModel, hostRouters: ReadonlySet<string>): GraphModel {
  const gone = expertNodes(graph).filter(({ inputs: [router] }) => hostRouters.has(router!));
  const nodes = new Set(gone.map(({ node }) => node));
  const weights = new Set(gone.flatMap(({ inputs }) => inputs));
  return {
    ...graph,
    nodes: graph.nodes.filter((node) => !nodes.has(node)),
    initializers: new Map([...graph.initializers].filter(([name]) => !weights.has(name))),
  };
}

/** Bytes of a matrix, or of each of a stack's, whose rows are packed. */
function packedBytes({ dims, bytes }: Initializer): number {
  const rows = dims.at(-2)!;
  return bytes / rows * Math.ceil(rows / PACKED_ROWS) * PACKED_ROWS;
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
