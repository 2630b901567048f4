/**
 * Opening packages that are damaged, forged or far away.
 */
import { strict as assert } from "node:assert";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { exportCheckpoint } from "../../export-tools/export_checkpoint.ts";
import { HybridseekError, InvalidFileError } from "../../src/errors.ts";
import { CHUNK_BYTES, type Manifest, parseManifest } from "../../src/files/manifest.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { LLM } from "../../src/llm.ts";
import { type ModelProto, ModelProtoSchema } from "../../src/onnx/onnx_pb.ts";
import {
  checkpointOf,
  safetensorsOf,
  tinyConfig,
  tinyTensors,
} from "../export/checkpoint_files.ts";
import { temporaryPath } from "../packages.ts";
import { assertSameBytes } from "../same_bytes.ts";

const DATA = "model-00001-of-00001.data";

/** A tiny package of one's own. */
async function tinyPackage(): Promise<string> {
  const checkpoint = await checkpointOf({
    "config.json": tinyConfig,
    "model.safetensors": safetensorsOf(tinyTensors()),
  });
  const path = temporaryPath("package");
  await exportCheckpoint(checkpoint, path, { weights: "f32" });
  return path;
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/** Writes a file of a package anew, its manifest as if it had been exported so. */
async function forge(folder: string, name: string, content: Uint8Array<ArrayBuffer>) {
  await Deno.remove(`${folder}/${name}`);
  await Deno.writeFile(`${folder}/${name}`, content);
  const manifest: Manifest = JSON.parse(await Deno.readTextFile(`${folder}/manifest.json`));
  const entry = manifest.files.find((file) => file.name === name)!;
  entry.bytes = content.length;
  entry.sha256 = content.length === 0 ? [] : [await sha256(content)];
  await Deno.writeTextFile(`${folder}/manifest.json`, JSON.stringify(manifest));
}

/** Changes the graph of a package. */
async function forgeGraph(folder: string, change: (model: ModelProto) => void) {
  const model = fromBinary(ModelProtoSchema, await Deno.readFile(`${folder}/model.onnx`));
  change(model);
  await forge(folder, "model.onnx", toBinary(ModelProtoSchema, model).slice());
}

async function refusesToOpen(folder: string, message: RegExp) {
  for (const backend of ["wasm", "ort"] as const) {
    await assert.rejects(LLM.open(folder, { backend }), (error: HybridseekError) => {
      assert(error instanceof HybridseekError, `${backend}: ${error}`);
      assert.match(error.message, message, backend);
      return true;
    });
  }
}

Deno.test("a damaged byte is found, unless verification is off", async () => {
  const folder = await tinyPackage();
  const file = await Deno.open(`${folder}/${DATA}`, { read: true, write: true });
  await file.seek(64, Deno.SeekMode.Start);
  await file.write(Uint8Array.of(0x55));
  file.close();
  await refusesToOpen(
    folder,
    /Cannot use model-00001.*its bytes from 0 on have the sha256 .*damaged/,
  );
  await using llm = await LLM.open(folder, { verify: false });
  assert.equal(llm.spec.vocabSize, 16);
});

Deno.test("a damaged graph, tokenizer or configuration is found", async () => {
  for (const name of ["model.onnx", "config.json"]) {
    const folder = await tinyPackage();
    const bytes = await Deno.readFile(`${folder}/${name}`);
    bytes[bytes.length >> 1]! ^= 1;
    await Deno.writeFile(`${folder}/${name}`, bytes);
    await refusesToOpen(folder, new RegExp(`Cannot use ${name}`));
  }
});

Deno.test("a truncated data file is found", async () => {
  const folder = await tinyPackage();
  await Deno.truncate(`${folder}/${DATA}`, 5000);
  await refusesToOpen(folder, /it ends at byte 5000, before .*: it is truncated/);
});

Deno.test("a missing data file is found", async () => {
  const folder = await tinyPackage();
  await Deno.remove(`${folder}/${DATA}`);
  await refusesToOpen(folder, /Cannot open .*: it does not exist/);
});

Deno.test("a folder in a file's place is refused", async () => {
  const folder = await tinyPackage();
  await Deno.remove(`${folder}/${DATA}`);
  await Deno.mkdir(`${folder}/${DATA}`);
  await refusesToOpen(folder, /Cannot read .*model-00001-of-00001\.data: it is no file/);
});

Deno.test("a manifest that claims a terabyte costs no memory", async () => {
  const folder = await tinyPackage();
  const manifest: Manifest = JSON.parse(await Deno.readTextFile(`${folder}/manifest.json`));
  const entry = manifest.files.find(({ name }) => name === "model.onnx")!;
  entry.bytes = 2 ** 40;
  entry.sha256 = Array(entry.bytes / CHUNK_BYTES).fill("0".repeat(64));
  await Deno.writeTextFile(`${folder}/manifest.json`, JSON.stringify(manifest));
  await refusesToOpen(
    folder,
    /model\.onnx: it ends at byte \d+, before 1099511627776: it is truncated/,
  );
});

for (
  const location of ["../outside.data", "/etc/passwd", "a/b.data", "", "..", ".", "a\\b", "a\0b"]
) {
  Deno.test(`external data at ${JSON.stringify(location)} is refused`, async () => {
    const folder = await tinyPackage();
    await forgeGraph(folder, ({ graph }) => {
      graph!.initializer[0]!.externalData.find(({ key }) => key === "location")!.value = location;
    });
    await refusesToOpen(folder, /which is no file of the package's folder/);
  });
}

Deno.test("external data that a link leads out of the folder is refused", async () => {
  const folder = await tinyPackage();
  const outside = temporaryPath("outside.data");
  await Deno.rename(`${folder}/${DATA}`, outside);
  await Deno.symlink(outside, `${folder}/${DATA}`);
  await refusesToOpen(folder, /it is a link to .*outside\.data, outside of the package/);
  const inner = `${folder}/inner`;
  await Deno.mkdir(inner);
  await Deno.rename(outside, `${inner}/there.data`);
  await Deno.remove(`${folder}/${DATA}`);
  await Deno.symlink("inner/there.data", `${folder}/${DATA}`);
  await refusesToOpen(folder, /outside of the package/);
});

Deno.test("a folder that is itself a link opens", async () => {
  const link = temporaryPath("link");
  await Deno.symlink(await tinyPackage(), link);
  await using llm = await LLM.open(link);
  assert.equal(llm.spec.vocabSize, 16);
});

Deno.test("external data that the manifest does not name is refused", async () => {
  const folder = await tinyPackage();
  await Deno.copyFile(`${folder}/${DATA}`, `${folder}/other.data`);
  await forgeGraph(folder, ({ graph }) => {
    graph!.initializer[0]!.externalData.find(({ key }) => key === "location")!.value = "other.data";
  });
  await refusesToOpen(folder, /Cannot read other\.data .*its manifest\.json does not name it/);
});

const forgeries: Record<string, [change: (model: ModelProto) => void, message: RegExp]> = {
  "a tensor beyond the file's end": [
    ({ graph }) => entryOf(graph!.initializer[0]!, "offset").value = "99999999",
    /Cannot read bytes 99999999 to/,
  ],
  "a negative offset": [
    ({ graph }) => entryOf(graph!.initializer[0]!, "offset").value = "-4",
    /has no sensible size/,
  ],
  "a length that is not the shape's": [
    ({ graph }) => entryOf(graph!.initializer[0]!, "length").value = "4",
    /is stored in 4 bytes/,
  ],
  "a shape beyond 2^53": [
    ({ graph }) => graph!.initializer[0]!.dims = [2n ** 40n, 2n ** 40n],
    /has no sensible size/,
  ],
  "an unknown element type": [
    ({ graph }) => graph!.initializer[0]!.dataType = 14,
    /is of the unknown type 14/,
  ],
  "two tensors of one name": [
    ({ graph }) => graph!.initializer[1]!.name = graph!.initializer[0]!.name,
    /two tensors are called/,
  ],
  "a node that uses what nobody makes": [
    ({ graph }) => graph!.node[3]!.input[0] = "nothing",
    /uses nothing before it is made/,
  ],
  "no graph": [(model) => model.graph = undefined, /it has no graph/],
  "another contract": [
    (model) => model.metadataProps.find(({ key }) => key === "hybridseek.contract")!.value = "2",
    /it is of step contract 2, this version runs 1/,
  ],
  "no metadata": [(model) => model.metadataProps = [], /it was not made by hybridseek; export/],
  "no logits": [
    ({ graph }) => graph!.output = graph!.output.filter(({ name }) => name !== "logits"),
    /it has no output logits/,
  ],
};

function entryOf(tensor: { externalData: { key: string; value: string }[] }, key: string) {
  return tensor.externalData.find((entry) => entry.key === key)!;
}

for (const [name, [change, message]] of Object.entries(forgeries)) {
  Deno.test(`a graph with ${name} is refused`, async () => {
    const folder = await tinyPackage();
    await forgeGraph(folder, change);
    await refusesToOpen(folder, message);
  });
}

Deno.test("a graph that declares another vocabulary than its head has gives no logits", async () => {
  for (const declared of [15, 17, 4000]) {
    const folder = await tinyPackage();
    await forgeGraph(folder, ({ graph }) => {
      const { type } = graph!.output.find(({ name }) => name === "logits")!;
      assert(type!.value.case === "tensorType");
      type!.value.value.shape!.dim[1]!.value = { case: "dimValue", value: BigInt(declared) };
    });
    for (const backend of ["wasm", "ort"] as const) {
      await using llm = await LLM.open(folder, { backend });
      const message = new RegExp(`they are 48, the graph declares 3 rows of ${declared}`);
      await assert.rejects(llm.forward([1, 2, 3]), { name: "BackendError", message }, backend);
    }
  }
});

Deno.test("a weight of another shape is refused by the engine before it is read", async () => {
  const folder = await tinyPackage();
  await forgeGraph(folder, ({ graph }) => {
    const norm = graph!.initializer.find(({ name }) => name === "model.norm.weight")!;
    norm.dims = [4n];
    entryOf(norm, "length").value = "16";
  });
  await assert.rejects(LLM.open(folder), /RMSNormalization final: its weight does not fit/);
});

Deno.test("an op without a kernel is refused by its name, with the backend that has it", async () => {
  const folder = await tinyPackage();
  await forgeGraph(folder, ({ graph }) => {
    graph!.node.find(({ opType }) => opType === "Sigmoid")!.opType = "Tanh";
  });
  await assert.rejects(
    LLM.open(folder),
    /node sigmoid_\d+ is a Tanh, which has no kernel here; use \{ backend: "ort" \}/,
  );
  await using llm = await LLM.open(folder, { backend: "ort" });
  assert.equal((await llm.forward([1, 2])).logits.length, 32);
});

Deno.test("whatever is done to the graph's bytes, the refusal is a typed error", async () => {
  const original = await Deno.readFile(`${await tinyPackage()}/model.onnx`);
  const folder = await tinyPackage();
  let state = 20261122;
  const random = (below: number) => (state = state * 48271 % 2147483647) % below;
  let opened = 0;
  for (let round = 0; round < 400; round++) {
    let bytes = original.slice();
    for (let change = random(3); change >= 0; change--) {
      bytes[random(bytes.length)]! ^= 1 << random(8);
    }
    if (round % 8 === 0) bytes = bytes.slice(0, random(bytes.length));
    await forge(folder, "model.onnx", bytes);
    try {
      await using _ = await LLM.open(folder);
      opened++; // some changes touch names and descriptions only
    } catch (error) {
      if (!(error instanceof HybridseekError)) throw new Error(`round ${round}`, { cause: error });
    }
  }
  assert(opened < 200);
});

Deno.test("manifests that break their rules are refused", () => {
  const hash = "0".repeat(64);
  const file = { name: "a", bytes: 1, sha256: [hash] };
  const slab = { file: "a", offset: 0, slabBytes: 1, sha256: [hash] };
  const refused: unknown[] = [
    { version: 2, files: [], slabs: {} },
    { version: 1, files: {}, slabs: {} },
    { version: 1, files: [{ ...file, name: "../a" }], slabs: {} },
    { version: 1, files: [{ ...file, name: ".." }], slabs: {} },
    { version: 1, files: [{ ...file, bytes: -1 }], slabs: {} },
    { version: 1, files: [{ ...file, bytes: CHUNK_BYTES + 1 }], slabs: {} },
    { version: 1, files: [{ ...file, sha256: ["x"] }], slabs: {} },
    { version: 1, files: [file], slabs: { t: { ...slab, slabBytes: 0 } } },
    { version: 1, files: [file], slabs: null },
    null,
    [],
    "text",
  ];
  for (const value of refused) {
    assert.throws(() => parseManifest("m", JSON.stringify(value)), InvalidFileError);
  }
  assert.throws(() => parseManifest("m", "{"), /it is no JSON/);
  parseManifest("m", JSON.stringify({ version: 1, files: [file], slabs: { t: slab } }));
});

/** Serves a folder; counts bytes. */
function serve(folder: string, ranges: boolean) {
  const served = { bytes: 0, requests: 0 };
  const server = Deno.serve({ port: 0, onListen: () => {} }, async (request) => {
    served.requests++;
    const [, name] = /^\/models\/tiny\/([^/]+)$/.exec(new URL(request.url).pathname) ?? [];
    const bytes = name && await Deno.readFile(`${folder}/${name}`).catch(() => undefined);
    if (!bytes) return new Response("none", { status: 404 });
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
    const body = ranges && range ? bytes.slice(Number(range[1]), Number(range[2]) + 1) : bytes;
    served.bytes += body.length;
    return new Response(body, { status: ranges && range ? 206 : 200 });
  });
  const address = new URL(`http://127.0.0.1:${(server.addr as Deno.NetAddr).port}/models/tiny`);
  return { address, served, close: () => server.shutdown() };
}

for (const ranges of [true, false]) {
  Deno.test(`a package opens from a server that ${ranges ? "serves" : "ignores"} ranges`, async () => {
    const folder = await tinyPackage();
    const server = serve(folder, ranges);
    const logits = async (location: string | URL, backend: "wasm" | "ort") => {
      await using llm = await LLM.open(location, { backend });
      return (await llm.forward([1, 2, 3])).logits;
    };
    for (const backend of ["wasm", "ort"] as const) {
      assertSameBytes(await logits(server.address, backend), await logits(folder, backend));
    }
    assertSameBytes(await logits(server.address.href, "wasm"), await logits(folder, "wasm"));
    const elsewhere = LLM.open(new URL("/elsewhere", server.address));
    await assert.rejects(elsewhere, { name: "InvalidFileError", code: "not_found" });
    await server.close();
  });
}

Deno.test("a server that sends without end, or too little, is refused", async () => {
  const folder = await tinyPackage();
  const bodies: Record<string, () => BodyInit> = {
    endless: () =>
      new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(65536)) }),
    broken: () => new ReadableStream({ pull: (controller) => controller.error(new Error("gone")) }),
    short: () => new Uint8Array(7),
  };
  const server = Deno.serve(
    { port: 0, onListen: () => {}, onError: () => new Response() },
    (request) => {
      const [, kind, name] = new URL(request.url).pathname.split("/");
      if (name !== "manifest.json") return new Response(bodies[kind!]!(), { status: 206 });
      return new Response(Deno.readFileSync(`${folder}/${name}`));
    },
  );
  const { port } = server.addr as Deno.NetAddr;
  const open = (kind: string) => LLM.open(`http://127.0.0.1:${port}/${kind}`);
  const refusal = (message: RegExp) => ({ name: "InvalidFileError", message });
  await assert.rejects(open("endless"), refusal(/model\.onnx: more came than the \d+ bytes asked/));
  await assert.rejects(open("broken"), refusal(/model\.onnx: the connection broke/));
  await assert.rejects(open("short"), refusal(/model\.onnx: .* was asked for and 7 bytes came/));
  await server.shutdown();
});

Deno.test("an address without a server is refused", async () => {
  await assert.rejects(LLM.open("http://127.0.0.1:9/none"), /Cannot read http:.*manifest\.json: /);
});

Deno.test("reads across chunks give the file's bytes", async () => {
  const folder = temporaryPath("chunks");
  await Deno.mkdir(folder);
  const content = new Uint8Array(2 * CHUNK_BYTES + 100);
  for (let i = 0; i < content.length; i += 997) content[i] = i;
  const chunks = [0, 1, 2].map((i) => content.slice(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES));
  const file = {
    name: "big",
    bytes: content.length,
    sha256: await Promise.all(chunks.map(sha256)),
  };
  await Deno.writeFile(`${folder}/big`, content);
  const manifest = { version: 1, files: [file], slabs: {} };
  await Deno.writeTextFile(`${folder}/manifest.json`, JSON.stringify(manifest));
  const opened = await ModelPackage.open(folder);
  const [begin, length] = [CHUNK_BYTES - 10, CHUNK_BYTES + 30];
  assertSameBytes(await opened.read("big", begin, length), content.slice(begin, begin + length));
  assertSameBytes(await opened.readAll("big"), content);
  await assert.rejects(opened.read("big", 0, content.length + 1), InvalidFileError);
  await opened.close();
});
