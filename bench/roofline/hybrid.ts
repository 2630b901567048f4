/**
 * One GPU whose host has some layers' routed experts: what a step takes at least.
 *
 * A model as `step_cost.ts` is, with its assumptions. The host computes its experts and their routers while the
 * GPU waits; rows of the residual stream go to the host and back in f32, one layer after the other.
 * @module
 */
import { type CudaMemoryPlan, planCudaMemory } from "../../src/backend/native/cuda_model.ts";
import { PREFERENCES } from "../../src/backend/native/native_session.ts";
import { type Placement, planPlacement } from "../../src/backend/native/placement.ts";
import { CapacityError } from "../../src/errors.ts";
import { modelSpec } from "../../src/model_spec.ts";
import type { GraphModel } from "../../src/onnx/read_model.ts";
import type { Device, Host } from "./devices.ts";
import { type ModelConfig, parameters, seconds, type Setting, stepCost } from "./step_cost.ts";

/** Share of either memory that is used. */
const USE = 0.9;

/** The time of a step by what takes it, seconds. */
export interface HybridSeconds {
  /** On the GPU. */
  gpu: number;
  /** Experts on the host. */
  host: number;
  /** Rows between them. */
  link: number;
  /** All of them in turn. */
  total: number;
}

/**
 * The backend's plan with the fewest layers on the host from some number on, the cache in bf16.
 *
 * @param graph A package's graph.
 * @param device The GPU.
 * @param host Its machine.
 * @param contextLength Tokens that the cache must hold.
 * @param least So many layers at least.
 * @returns The plan; `undefined` if nothing fits.
 */
export function leastPlacement(
  graph: GraphModel,
  device: Device,
  host: Host,
  contextLength: number,
  least = 0,
): Placement<CudaMemoryPlan> | undefined {
  const spec = modelSpec(graph);
  const memory = { free: device.memory, total: device.memory };
  const wanted = { ...PREFERENCES, cacheType: "bf16", gpuMemory: USE, contextLength } as const;
  for (let count = least; count <= spec.expertLayers.length; count++) {
    try {
      return planPlacement(
        graph,
        count,
        USE * host.memory,
        (part) => planCudaMemory(part, spec, memory, wanted),
      );
    } catch (error) {
      if (!(error instanceof CapacityError)) throw error;
    }
  }
  return undefined;
}

/**
 * The time of a step.
 *
 * @param c The model.
 * @param device The GPU.
 * @param host Its machine.
 * @param setting What is computed; on one rank.
 * @param layers Layers whose experts are on the host.
 * @returns It.
 */
export function hybridSeconds(
  c: ModelConfig,
  device: Device,
  host: Host,
  setting: Omit<Setting, "ranks" | "layout">,
  layers: number,
): HybridSeconds {
  const share = layers / (c.num_hidden_layers - c.first_k_dense_replace);
  let gpu = 0;
  const moved = { bytes: 0, operations: 0 };
  for (const op of stepCost(c, { ...setting, ranks: 1, layout: "tensor" })) {
    const divided = op.op === "routed experts" || op.op === "router";
    const left = divided ? 1 - share : 1;
    const { bytes, operations } = op;
    const part = { ...op, bytes: bytes * left, operations: operations * left };
    gpu += seconds(part, device, setting.weights === "fp8");
    if (op.op === "routed experts") moved.bytes += bytes * share;
    if (divided) moved.operations += operations * share;
  }
  moved.bytes += 4 * parameters(c).router * share; // f32 on the host
  const rows = 4 * setting.tokens * c.hidden_size * layers;
  const time = Math.max(moved.bytes / host.bandwidth, moved.operations / host.operations);
  const link = 2 * rows / host.link;
  return { gpu, host: time, link, total: gpu + time + link };
}
