/**
 * A module whose import of a memory was given a size takes memories of that size alone, as the runtime
 * itself judges.
 */
import { strict as assert } from "node:assert";
import { withFixedMemory } from "../../src/backend/wasm/fixed_memory.ts";

/** A module that imports a function () -> () and a memory with the given flags and limits. */
function importing(limits: number[]): Uint8Array<ArrayBuffer> {
  const name = (text: string) => [text.length, ...new TextEncoder().encode(text)];
  const imports = [
    ...[2, ...name("env"), ...name("f"), 0, 0],
    ...[...name("env"), ...name("memory"), 2, ...limits],
  ];
  return new Uint8Array([
    ...[0, 97, 115, 109, 1, 0, 0, 0], // header
    ...[1, 4, 1, 0x60, 0, 0], // type: () -> ()
    ...[2, imports.length, ...imports],
    ...[3, 2, 1, 0, 10, 4, 1, 2, 0, 11], // a function, so that sections follow
  ]);
}

const PAGES = 300; // two bytes in the module
const SHARED = { initial: PAGES, maximum: PAGES, shared: true };

Deno.test("a module with a fixed memory takes memories of that size alone", () => {
  for (const limits of [[3, 1, 0x80, 0x80, 0x04], [3, 0x80, 0x01, 0x80, 0x80, 0x04]]) {
    const module = new WebAssembly.Module(withFixedMemory(importing(limits), PAGES));
    const join = (descriptor: WebAssembly.MemoryDescriptor) =>
      new WebAssembly.Instance(module, {
        env: { f: () => {}, memory: new WebAssembly.Memory(descriptor) },
      });
    join(SHARED);
    for (const other of [{ initial: PAGES - 1 }, { maximum: PAGES + 1 }, { shared: false }]) {
      assert.throws(() => join({ ...SHARED, ...other }), WebAssembly.LinkError);
    }
  }
});

Deno.test("limits without a maximum get one, those of 64 bits stay such", () => {
  const plain = withFixedMemory(importing([0, 1]), PAGES);
  assert.deepEqual(plain, importing([1, 0xac, 0x02, 0xac, 0x02]));
  const wide = withFixedMemory(importing([7, 1, 0x80, 0x80, 0x10]), 200_000);
  assert.deepEqual(wide, importing([7, 0xc0, 0x9a, 0x0c, 0xc0, 0x9a, 0x0c]));
});
