/**
 * The committed WebAssembly modules are what their sidecars say, and made of the sources beside them.
 */
import { strict as assert } from "node:assert";
import { embeddedBytes } from "../src/embedded_bytes.ts";
import { artifacts, distFolder, sha256Hex, type Sidecar, sourceHash } from "../wasm/artifacts.ts";
import { assertSameBytes } from "./same_bytes.ts";

for (const artifact of artifacts) {
  const { name } = artifact;
  Deno.test(`wasm/dist/${name}.wasm has the hash of its sidecar and was built from these sources`, async () => {
    const sidecar: Sidecar = JSON.parse(
      await Deno.readTextFile(new URL(`${name}.json`, distFolder)),
    );
    const wasm = await Deno.readFile(new URL(`${name}.wasm`, distFolder));
    assert.equal(await sha256Hex(wasm), sidecar.wasmSha256, "the module was exchanged");
    const rebuild = `rebuild with: deno task build:wasm ${name}`;
    assert.equal(await sourceHash(artifact), sidecar.sourceSha256, rebuild);
    const { embedded } = await import(new URL(`${name}.ts`, distFolder).href);
    assertSameBytes(embeddedBytes(embedded), new Uint8Array(wasm), rebuild);
  });
}
