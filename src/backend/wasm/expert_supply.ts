/**
 * Experts on demand, the host's side of `wasm/engine/src/kernels/supply.rs`: a pool of places, each for the
 * weights of one expert of any node. The team asks for experts that are missing; they are read, compared
 * with their hashes, and take the places of those that were used longest ago.
 * @module
 */
import type { ModelPackage } from "../../files/model_package.ts";
import type { ExpertStats } from "../backend.ts";
import { expertRow } from "./expert_places.ts";
import type { MemoryPlan } from "./memory_plan.ts";
import type { ExpertLayer } from "./program_builder.ts";

/** Offsets in a `SupplyState`, bytes. */
const STATE = {
  ...{ asked: 0, answered: 4, layer: 8, count: 12, arrived: 16 }, // 32 bits each
  ...{ clock: 24, uses: 32, misses: 40, staging: 48 }, // 64 bits each
  list: 64,
} as const;
/** Stored tensors of an expert begin at multiples of this, bytes. */
const ALIGNMENT = 64;

/** A place of the pool. */
interface Place {
  /** Of gate_up and down. */
  address: number;
  /** The table's row of the expert whose weights it holds. */
  row?: BigUint64Array;
}

/** Where a supply works. */
export interface SupplySite {
  /** The nodes, in the order of their numbers. */
  layers: readonly ExpertLayer[];
  /** Where everything lies. */
  plan: MemoryPlan;
  /** Address of the state. */
  state: number;
  /** The engine's memory. */
  memory: WebAssembly.Memory;
}

/** Reads the experts that a team asks for. */
export class ExpertSupply {
  readonly #model: ModelPackage;
  readonly #site: SupplySite;
  readonly #state: DataView;
  readonly #answered: Int32Array;
  readonly #places: Place[];
  readonly #mostAtOnce: number;
  readonly #closing = new AbortController();
  #evictions = 0;
  #bytesRead = 0;

  /**
   * @param model The package; the supply closes it.
   * @param site Where it works.
   */
  constructor(model: ModelPackage, site: SupplySite) {
    const { plan: { pool }, memory: { buffer }, state, layers } = site;
    this.#model = model;
    this.#site = site;
    this.#state = new DataView(buffer, state, STATE.list);
    this.#answered = new Int32Array(buffer, state + STATE.answered, 1);
    this.#places = Array.from({ length: pool.count }, (_, i) => ({
      address: pool.address + i * pool.placeBytes,
    }));
    this.#mostAtOnce = expertsAtOnce(layers);
    this.#state.setBigUint64(STATE.staging, BigInt(pool.staging), true);
  }

  /** What has happened so far. */
  get stats(): ExpertStats {
    const uses = Number(this.#state.getBigUint64(STATE.uses, true));
    const misses = Number(this.#state.getBigUint64(STATE.misses, true));
    return {
      ...{ places: this.#places.length, uses, misses },
      ...{ evictions: this.#evictions, bytesRead: this.#bytesRead },
    };
  }

  /**
   * Reads what the team asks for, or as much of it as there is room for now, and wakes the team.
   *
   * @throws {InvalidFileError} If a file is missing, too short or damaged; the team waits on.
   */
  async answer(): Promise<void> {
    const { layers, memory, plan, state } = this.#site;
    const word = (offset: number) => this.#state.getUint32(offset, true);
    const layer = layers[word(STATE.layer)]!;
    const asked = new Uint32Array(memory.buffer, state + STATE.list, word(STATE.count));
    const places = this.#leastUsed(Math.min(asked.length, this.#mostAtOnce));
    await Promise.all(places.map((_, i) => this.#read(layer, asked[i]!, i)));
    for (const [i, place] of places.entries()) {
      if (place.row) {
        place.row.fill(0n);
        this.#evictions++;
      }
      place.row = expertRow(memory, plan, layer, asked[i]!);
      place.row.set([place.address, place.address + layer.packed.gateUp].map(BigInt));
    }
    this.#state.setUint32(STATE.arrived, places.length, true);
    Atomics.store(this.#answered, 0, word(STATE.asked));
    Atomics.notify(this.#answered, 0);
  }

  /** Stops reading and closes the package. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#model.close();
  }

  /** Empty places, then those used longest ago, but none that the team computes with now. */
  #leastUsed(count: number): Place[] {
    const now = Number(this.#state.getBigUint64(STATE.clock, true));
    const found: { place: Place; time: number }[] = []; // by rising time
    for (const place of this.#places) {
      const time = place.row ? Number(place.row[2]) : -1;
      if (time === now || (found.length === count && time >= found[count - 1]!.time)) continue;
      found.splice(found.findLastIndex((other) => other.time <= time) + 1, 0, { place, time });
      found.length = Math.min(found.length, count);
    }
    return found.map(({ place }) => place);
  }

  /** Reads the stored tensors of an expert into the staging memory, as the `i`-th there. */
  async #read({ held, stored, stagedBytes }: ExpertLayer, expert: number, i: number) {
    const memory = new Uint8Array(this.#site.memory.buffer);
    let address = this.#site.plan.pool.staging + i * stagedBytes;
    await Promise.all(stored.map((tensor) => {
      const bytes = tensor.bytes / held;
      const into = memory.subarray(address, address + bytes);
      address += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
      this.#bytesRead += bytes;
      return this.#model.readSlab(tensor, expert, into, this.#closing.signal);
    }));
  }
}

/**
 * How many experts are read at once: those of a token.
 *
 * @param layers The nodes.
 * @returns The number.
 */
export function expertsAtOnce(layers: readonly ExpertLayer[]): number {
  return layers.reduce((most, { k, held }) => Math.max(most, Math.min(k, held)), 0);
}
