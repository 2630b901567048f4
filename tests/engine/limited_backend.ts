/**
 * A backend with other limits than its own, whose steps may be looked at.
 * @module
 */
import type { Backend } from "../../src/backend/backend.ts";
import type { StepLimits, StepPlan } from "../../src/backend/step_plan.ts";

/**
 * Makes one of another.
 *
 * @param backend It; closing the result closes it.
 * @param limits Limits that are not above its own.
 * @param onRun Told of every step before it runs.
 * @returns The backend.
 */
export function limitBackend(
  backend: Backend,
  limits: Partial<StepLimits>,
  onRun: (plan: StepPlan) => void = () => {},
): Backend {
  return {
    info: backend.info,
    limits: { ...backend.limits, ...limits },
    run(plan) {
      onRun(plan);
      return backend.run(plan);
    },
    cacheLayout: backend.cacheLayout,
    blockBytes: backend.blockBytes,
    copyBlocks: (copies) => backend.copyBlocks(copies),
    readBlocks: (blocks) => backend.readBlocks(blocks),
    writeBlocks: (blocks, bytes) => backend.writeBlocks(blocks, bytes),
    close: () => backend.close(),
  };
}
