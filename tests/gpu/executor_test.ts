/**
 * The PTX executor: vectors of single instructions against numpy, kernels that must fault, the emulated NCCL
 * between processes, and a CUDA program on the emulated runtime.
 */
import { strict as assert } from "node:assert";
import { compileKernels, linkEmulated } from "../../gpu/emulated.ts";
import { emulator, needs, python, succeeds } from "./gpu.ts";

const tests = new URL("../../gpu/emu/tests/", import.meta.url);

Deno.test(needs("PTX executor: instructions give what numpy does", "build", "python"), async () => {
  const { runtime } = await emulator();
  assert(await succeeds(python!, [new URL("vectors.py", tests).pathname, runtime]));
});

/** The first lines of a file of `faults/`: what its run must say, and ptxrun's arguments. */
function expectation(text: string): { expected: string; args: string[] } {
  const line = (key: string) => new RegExp(`^// ${key}: (.*)$`, "m").exec(text)?.[1] ?? "";
  return { expected: line("expect"), args: line("run").split(" ").filter(Boolean) };
}

Deno.test(needs("PTX executor: what kernels must not do is told", "build"), async (t) => {
  const { ptxrun } = await emulator();
  const files = [...Deno.readDirSync(new URL("faults/", tests))].map(({ name }) => name).sort();
  assert(files.length > 0);
  for (const file of files) {
    const path = new URL(`faults/${file}`, tests).pathname;
    const { expected, args } = expectation(await Deno.readTextFile(path));
    await t.step(`${file}: ${expected}`, async () => {
      const command = new Deno.Command(ptxrun, { args: [path, ...args] });
      const { code, stderr } = await command.output();
      const said = new TextDecoder().decode(stderr);
      if (expected === "ok") {
        assert.equal(code, 0, said);
        assert.equal(said, "");
      } else {
        assert.match(said, new RegExp(expected.replaceAll(".", "\\.")));
      }
    });
  }
});

Deno.test(
  needs("emulated NCCL: 1, 2, 4 and 8 processes, a killed and a late one", "build"),
  async () => {
    const { folder, nccl } = await emulator();
    assert(await succeeds(`${folder}/nccl_test`, [nccl]));
  },
);

Deno.test(needs("emulated CUDA runtime: a program compiled by nvcc", "build", "nvcc"), async () => {
  const built = await emulator();
  const source = { path: "../emu/tests/runtime.cu", targets: ["arch=compute_80,code=compute_80"] };
  const objects = await compileKernels([source]);
  const program = await linkEmulated(objects, `${built.folder}/runtime_test`, built, false);
  assert(await succeeds(program, []));
});
