/**
 * How evenly a model's experts are used.
 * @module
 */
import type { StepResult } from "../backend/backend.ts";
import type { ExpertLayer } from "../model_spec.ts";

/** How evenly a layer's experts have been used lately. */
export interface ExpertLoadEntropy {
  /** The layer's number, from 0. */
  layer: number;
  /**
   * Entropy of the experts' shares of the choices, over that of equal shares: 1 if all are chosen equally
   * often, 0 if all choices fall on one. `undefined` if it has not been chosen yet.
   */
  entropy: number | undefined;
}

/** Tokens after which the counts begin anew; those before still count until the next time. */
const WINDOW = 4096;

/** Counts the choices of the last {@linkcode WINDOW} tokens to twice as many. */
export class ExpertLoad {
  readonly #layers: readonly ExpertLayer[];
  /** By layer, how often each expert was chosen. */
  #counts: Uint32Array[];
  /** The same of the window before. */
  #before: Uint32Array[];
  #tokens = 0;

  /** @param layers The model's layers that have experts. */
  constructor(layers: readonly ExpertLayer[]) {
    this.#layers = layers;
    this.#counts = zeros(layers);
    this.#before = zeros(layers);
  }

  /**
   * Takes note of a step.
   *
   * @param result Its results, valid now.
   * @param tokens How many tokens it had.
   */
  add(result: StepResult, tokens: number): void {
    if (this.#layers.length === 0) return;
    if (this.#tokens >= WINDOW) {
      [this.#before, this.#counts] = [this.#counts, this.#before];
      for (const counts of this.#counts) counts.fill(0);
      this.#tokens = 0;
    }
    this.#tokens += tokens;
    for (let i = 0; i < this.#layers.length; i++) {
      const chosen = result.output(this.#layers[i]!.output);
      if (!chosen) continue;
      const counts = this.#counts[i]!;
      for (let j = 0; j < chosen.length; j++) counts[chosen[j]!]!++;
    }
  }

  /** How evenly each layer's experts were used. @returns A value for each layer, in order. */
  entropies(): ExpertLoadEntropy[] {
    return this.#layers.map(({ layer, experts }, i) => {
      const counts = this.#counts[i]!.map((count, expert) => count + this.#before[i]![expert]!);
      const total = counts.reduce((sum, count) => sum + count, 0);
      if (total === 0) return { layer, entropy: undefined };
      let nats = 0;
      for (const count of counts) if (count > 0) nats -= count / total * Math.log(count / total);
      return { layer, entropy: experts === 1 ? 1 : nats / Math.log(experts) };
    });
  }
}

function zeros(layers: readonly ExpertLayer[]): Uint32Array[] {
  return layers.map(({ experts }) => new Uint32Array(experts));
}
