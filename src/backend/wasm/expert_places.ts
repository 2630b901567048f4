/**
 * The tables that tell the engine where the experts of a node are (`ExpertPlace` in
 * `wasm/engine/src/kernels/experts.rs`).
 * @module
 */
import type { MemoryPlan } from "./memory_plan.ts";
import type { ExpertLayer } from "./program_builder.ts";

/** Bytes of a row: addresses of gate_up and down, and when they were last used. */
export const PLACE_BYTES = 24;

/**
 * The row of an expert.
 *
 * @param memory The engine's memory.
 * @param plan The layout.
 * @param layer The node.
 * @param expert The expert, counted from the first one that the node holds.
 * @returns Addresses of gate_up and down, and when they were last used; a view.
 */
export function expertRow(
  memory: WebAssembly.Memory,
  plan: MemoryPlan,
  layer: ExpertLayer,
  expert: number,
): BigUint64Array {
  const address = plan.tensors[layer.places]! + expert * PLACE_BYTES;
  return new BigUint64Array(memory.buffer, address, PLACE_BYTES / 8);
}

/**
 * Writes where experts are that have been loaded.
 *
 * @param memory The engine's memory.
 * @param plan The layout.
 * @param layers Nodes; those whose experts are read on demand stay as they are.
 */
export function placeLoadedExperts(
  memory: WebAssembly.Memory,
  plan: MemoryPlan,
  layers: readonly ExpertLayer[],
): void {
  for (const layer of layers) {
    const { held, stacks, packed } = layer;
    if (!stacks) continue;
    const [gateUp, down] = [plan.tensors[stacks.gateUp]!, plan.tensors[stacks.down]!];
    for (let expert = 0; expert < held; expert++) {
      expertRow(memory, plan, layer, expert).set([
        BigInt(gateUp + expert * packed.gateUp),
        BigInt(down + expert * packed.down),
      ]);
    }
  }
}
