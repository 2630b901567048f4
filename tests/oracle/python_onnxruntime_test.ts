/**
 * The same files in stock Python onnxruntime: bodies against the op cases, packages against the goldens, and
 * a package with one op of a body exchanged, which must fail; and the native library's ops, registered in it.
 * Needs HYBRIDSEEK_PYTHON, a Python that has onnx, onnxruntime, safetensors and numpy.
 */
import { strict as assert } from "node:assert";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema } from "../../src/onnx/onnx_pb.ts";
import { bodyModel, opCases } from "../ops/op_case.ts";
import { checkpointFolder, fixtures, packageOf, temporaryPath } from "../packages.ts";
import { nativeLibrary, needs as needsHere } from "../shared.ts";

const python = Deno.env.get("HYBRIDSEEK_PYTHON");

/** Ends a test's name with the reason where it is left out. */
function needs(name: string, shared: boolean, native = false): { name: string; ignore: boolean } {
  if (!python) return { name: `${name} (ignored: HYBRIDSEEK_PYTHON is not set)`, ignore: true };
  return needsHere(name, { shared, native });
}

/** Runs a script of tests/python; its output is shown. */
async function run(script: string, ...args: string[]): Promise<boolean> {
  const path = new URL(`../python/${script}`, import.meta.url).pathname;
  const command = new Deno.Command(python!, { args: [path, ...args], stderr: "inherit" });
  const { success, stdout } = await command.output();
  console.log(new TextDecoder().decode(stdout));
  return success;
}

/** A folder with the op cases' models. */
async function opCaseModels(): Promise<string> {
  const folder = temporaryPath("models");
  await Deno.mkdir(folder);
  for (const opCase of opCases()) {
    await Deno.writeFile(`${folder}/${opCase.name}.onnx`, bodyModel(opCase));
  }
  return folder;
}

Deno.test(
  needs("stock Python onnxruntime: the bodies pass the full check and give the op cases", false),
  async () => assert(await run("check_op_cases.py", await opCaseModels())),
);

Deno.test(
  needs("the native library in Python: its kernels give the op cases", false, true),
  async () => assert(await run("check_op_cases.py", await opCaseModels(), nativeLibrary)),
);

for (const name of fixtures) {
  Deno.test(
    needs(`the native library in Python: ${name} against its goldens, in place`, true, true),
    async () => {
      const folder = await packageOf(name, { weights: "f32" });
      const library = ["--library", nativeLibrary];
      assert(await run("check_package.py", folder, checkpointFolder(name), ...library));
    },
  );
  Deno.test(needs(`stock Python onnxruntime: ${name} against its goldens`, true), async () => {
    const folder = await packageOf(name, { weights: "f32" });
    assert(await run("check_package.py", folder, checkpointFolder(name)));
  });
}

Deno.test(
  needs("stock Python onnxruntime: the reference model against its goldens", true),
  async () => {
    const goldens = new URL("../../../shared/reference-goldens", import.meta.url).pathname;
    const folder = await packageOf("reference-model", { weights: "f32" });
    assert(await run("check_reference.py", folder, goldens));
  },
);

Deno.test(
  needs("the native library in Python: the reference model against its goldens", true, true),
  async () => {
    const goldens = new URL("../../../shared/reference-goldens", import.meta.url).pathname;
    const folder = await packageOf("reference-model", { weights: "f32" });
    assert(await run("check_reference.py", folder, goldens, nativeLibrary));
  },
);

Deno.test(
  needs("stock Python onnxruntime: one op of a body exchanged and the goldens fail", true),
  async () => {
    const folder = temporaryPath("broken");
    await Deno.mkdir(folder);
    const sound = await packageOf("deepseek-v2-lite", { weights: "f32" });
    for (const { name } of Deno.readDirSync(sound)) {
      await Deno.copyFile(`${sound}/${name}`, `${folder}/${name}`);
    }
    const model = fromBinary(ModelProtoSchema, await Deno.readFile(`${folder}/model.onnx`));
    const body = model.functions.find(({ name }) => name === "LatentAttention")!;
    const loop = body.node.flatMap(({ attribute }) => attribute.flatMap(({ g }) => g?.node ?? []));
    loop.find(({ opType }) => opType === "LessOrEqual")!.opType = "Less";
    await Deno.writeFile(`${folder}/model.onnx`, toBinary(ModelProtoSchema, model));
    assert(await run("check_package.py", folder, checkpointFolder("deepseek-v2-lite"), "--broken"));
  },
);
