/**
 * The compiler of the CUDA kernels: an installed one is taken where it is of the right version.
 */
import { strict as assert } from "node:assert";
import { compileCuda, cudaToolchain } from "../../src/cli/cuda_toolchain.ts";
import { UnsupportedError } from "../../src/errors.ts";
import { needs } from "./gpu.ts";

const gpu = new URL("../../gpu/", import.meta.url).pathname;

/** A toolkit whose nvcc only tells its version. */
async function pretended(version: string): Promise<string> {
  const folder = await Deno.makeTempDir();
  await Deno.mkdir(`${folder}/bin`);
  const script = `#!/bin/sh\necho 'Cuda compilation tools, ${version}'\n`;
  await Deno.writeTextFile(`${folder}/bin/nvcc`, script, { mode: 0o755 });
  return folder;
}

Deno.test("a toolkit of another version, and a folder that is none, are refused", async () => {
  const old = await pretended("release 12.4, V12.4.131");
  await assert.rejects(cudaToolchain(gpu, old), (error) => {
    assert(error instanceof UnsupportedError);
    assert(error.message.includes(`${old}/bin/nvcc is release 12.4, V12.4.131`), error.message);
    assert.match(error.message, /needed is release 13/);
    return true;
  });
  const none = await Deno.makeTempDir();
  await assert.rejects(cudaToolchain(gpu, none), UnsupportedError);
  await Deno.remove(old, { recursive: true });
  await Deno.remove(none);
});

Deno.test(needs("an installed toolkit compiles a kernel", "nvcc"), async () => {
  // The fetched one, in the place where somebody else has put it.
  const { cudaHome } = await cudaToolchain(gpu);
  const folder = await Deno.makeTempDir();
  await Deno.symlink(cudaHome, `${folder}/cuda`);
  const toolchain = await cudaToolchain(gpu, `${folder}/cuda`);
  assert.equal(toolchain.cudaHome, `${folder}/cuda`);
  const source = `${folder}/twice.cu`;
  await Deno.writeTextFile(source, "__global__ void twice(float* x) { x[threadIdx.x] *= 2; }\n");
  const object = await compileCuda(toolchain, source, ["arch=compute_80,code=compute_80"]);
  assert.match(new TextDecoder().decode(await Deno.readFile(object)), /\.visible \.entry \w*twice/);
  await Deno.remove(object);
  await Deno.remove(folder, { recursive: true });
});
