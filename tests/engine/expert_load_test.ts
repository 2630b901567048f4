/**
 * How evenly experts are used, against routing made by hand and entropies computed by hand.
 */
import { strict as assert } from "node:assert";
import type { StepResult } from "../../src/backend/backend.ts";
import { ExpertLoad } from "../../src/engine/expert_load.ts";
import { LLM } from "../../mod.ts";

/** A step in which layers choose these experts. */
const step = (chosen: Record<string, number[]>): StepResult => ({
  logits: new Float32Array(),
  output: (name) => chosen[name] && Int32Array.from(chosen[name]),
});
const close = (got: number | undefined, want: number) =>
  assert(Math.abs(got! - want) < 1e-12, `${got}, not ${want}`);
const layers = [
  { layer: 1, output: "layers.1.experts", experts: 4 },
  { layer: 2, output: "layers.2.experts", experts: 8 },
];

Deno.test("the entropy of expert load is 1 for equal shares, 0 for one expert, and by layer", () => {
  const load = new ExpertLoad(layers);
  assert.deepEqual(load.entropies(), [
    { layer: 1, entropy: undefined },
    { layer: 2, entropy: undefined },
  ]);
  load.add(step({ "layers.1.experts": [0, 1, 2, 3], "layers.2.experts": [5, 5, 5, 5] }), 2);
  const [even, one] = load.entropies();
  close(even!.entropy, 1);
  close(one!.entropy, 0);
  // Half of the choices on one of 8, the rest on two more: 1/2, 1/4, 1/4 has 1.5 of 3 bits.
  load.add(step({ "layers.2.experts": [0, 0, 7, 7] }), 2);
  close(load.entropies()[1]!.entropy, 1.5 / 3);
  assert.deepEqual(new ExpertLoad([]).entropies(), []);
});

Deno.test("what experts did long ago does not count", () => {
  const load = new ExpertLoad([layers[0]!]);
  const even = [0, 1, 2, 3];
  for (let token = 0; token < 4096; token++) load.add(step({ "layers.1.experts": even }), 1);
  const narrow = () => load.add(step({ "layers.1.experts": [3, 3, 3, 3] }), 1);
  for (let token = 0; token < 4096; token++) narrow();
  // Half of the choices are spread over all, half fall on one: 1/8, 1/8, 1/8 and 5/8.
  const mixed = -(3 / 8 * Math.log(1 / 8) + 5 / 8 * Math.log(5 / 8)) / Math.log(4);
  close(load.entropies()[0]!.entropy, mixed);
  narrow();
  close(load.entropies()[0]!.entropy, 0);
});

Deno.test("llm.stats() has the expert load of every layer with experts", async () => {
  await using llm = await LLM.open();
  assert.deepEqual(
    llm.stats().expertLoad.map(({ entropy }) => entropy),
    [1, 2, 3, 4].map(() => undefined),
  );
  await llm.generate("Once upon a time there was", { maxTokens: 60, temperature: 0 });
  const load = llm.stats().expertLoad;
  assert.deepEqual(load.map(({ layer }) => layer), [1, 2, 3, 4]);
  for (const { entropy } of load) assert(entropy! > 0.3 && entropy! <= 1, String(entropy));
});
