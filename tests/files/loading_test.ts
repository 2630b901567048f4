/**
 * Loading: every chunk of a package is read once, in order, and compared; what is in the way of that ends
 * it.
 */
import { strict as assert } from "node:assert";
import { CHUNK_BYTES } from "../../src/files/manifest.ts";
import { LLM } from "../../src/llm.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import { expertPackage } from "../export/expert_model.ts";
import { assertSameBytes } from "../same_bytes.ts";

const DATA = "model-00001-of-00001.data";
/** Enough tokens that every expert is chosen by one. */
const tokens = Array.from({ length: 120 }, (_, i) => (i * 389 + 7) % 1000);

const packages = new Map<string, Promise<string>>();

function packageOf(weights: "f32" | "f16" | "int8"): Promise<string> {
  if (!packages.has(weights)) packages.set(weights, expertPackage(weights));
  return packages.get(weights)!;
}

/** A range of a file that a server was asked for. */
interface Served {
  name: string;
  begin: number;
  end: number;
}

/** Serves a folder by ranges, and tells what was asked for. */
function serve(folder: string, onRange: (range: Served) => Promise<void> | void = () => {}) {
  const ranges: Served[] = [];
  const server = Deno.serve({ port: 0, onListen: () => {} }, async (request) => {
    const name = new URL(request.url).pathname.slice(1);
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
    if (!range) return new Response(await Deno.readFile(`${folder}/${name}`));
    const served = { name, begin: Number(range[1]), end: Number(range[2]) + 1 };
    ranges.push(served);
    await onRange(served);
    const bytes = await Deno.readFile(`${folder}/${name}`);
    return new Response(bytes.slice(served.begin, served.end), { status: 206 });
  });
  const { port } = server.addr as Deno.NetAddr;
  return { address: `http://127.0.0.1:${port}/`, ranges, close: () => server.shutdown() };
}

async function logitsOf(location: string, options: OpenOptions = {}): Promise<Float32Array> {
  await using llm = await LLM.open(location, options);
  return (await llm.forward(tokens)).logits;
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

for (const weights of ["f32", "f16", "int8"] as const) {
  Deno.test(`${weights} weights that lie across chunks are those that onnxruntime computes with`, async () => {
    const folder = await packageOf(weights);
    const { size } = await Deno.stat(`${folder}/${DATA}`);
    assert(size > CHUNK_BYTES, `${size} bytes`);
    const want = await logitsOf(folder, { backend: "ort" });
    const got = await logitsOf(folder);
    // int8 activations make a small error each, and now and then a choice of another expert.
    const [most, mean] = weights === "int8" ? [0.3, 0.05] : [1e-4, 1e-4];
    const errors = tokens.map((_, row) => {
      const [of, is] = [want, got].map((logits) => logits.subarray(row * 1000, (row + 1) * 1000));
      return norm(of!.map((value, i) => value - is![i]!)) / norm(of!);
    });
    const sum = errors.reduce((sum, error) => sum + error, 0);
    assert(Math.max(...errors) < most && sum / tokens.length < mean, `errors of tokens: ${errors}`);
    for (const options of [{ verify: false }, { threads: 2 }, { threads: 2, verify: false }]) {
      assertSameBytes(await logitsOf(folder, options), got, JSON.stringify(options));
    }
  });
}

for (const verify of [true, false]) {
  Deno.test(`each chunk is read once and in order, ${verify ? "with" : "without"} verification`, async () => {
    const folder = await packageOf("f32");
    const server = serve(folder);
    await using llm = await LLM.open(server.address, { verify });
    assert.equal(llm.info.verified, verify);
    const { size } = await Deno.stat(`${folder}/${DATA}`);
    const ranges = server.ranges.filter(({ name }) => name === DATA);
    assert.equal(ranges.length, Math.ceil(size / CHUNK_BYTES));
    for (const [i, { begin, end }] of ranges.entries()) {
      assert.equal(begin, i * CHUNK_BYTES);
      assert(end <= Math.min(begin + CHUNK_BYTES, size));
      if (i < ranges.length - 1) assert.equal(end, begin + CHUNK_BYTES);
    }
    await server.close();
  });
}

Deno.test("progress rises from chunk to chunk to the whole", async () => {
  const seen: [done: number, total: number][] = [];
  const options = { onProgress: (...at: [number, number]) => void seen.push(at) };
  await using _llm = await LLM.open(await packageOf("f32"), options);
  const total = seen[0]![1];
  assert(seen.length > 3);
  assert(seen.every(([done, of], i) => of === total && done > (seen[i - 1]?.[0] ?? 0)));
  assert.equal(seen.at(-1)![0], total);
});

Deno.test("a changed byte in any chunk is found", async () => {
  const folder = await packageOf("f32");
  const { size } = await Deno.stat(`${folder}/${DATA}`);
  using file = await Deno.open(`${folder}/${DATA}`, { read: true, write: true });
  const flip = async (position: number) => {
    const byte = new Uint8Array(1);
    await file.seek(position, Deno.SeekMode.Start);
    await file.read(byte);
    await file.seek(position, Deno.SeekMode.Start);
    await file.write(byte.map((bits) => bits ^ 16));
  };
  for (let begin = 0; begin < size; begin += CHUNK_BYTES) {
    const position = Math.min(begin + (begin / CHUNK_BYTES * 1234567) % CHUNK_BYTES, size - 1);
    await flip(position);
    for (const threads of [undefined, 2]) {
      await assert.rejects(LLM.open(folder, { threads }), {
        name: "InvalidFileError",
        message: new RegExp(`its bytes from ${begin} on have the sha256 .*damaged`),
      });
    }
    await flip(position);
  }
  await using llm = await LLM.open(folder);
  assert.equal(llm.info.verified, true);
});

for (const threads of [undefined, 2]) {
  Deno.test(`an abort ends loading within a chunk, ${threads ?? "no"} workers`, async () => {
    const controller = new AbortController();
    const server = serve(await packageOf("f32"), ({ begin }) => {
      if (begin === 3 * CHUNK_BYTES) controller.abort();
    });
    const seen: number[] = [];
    const opening = LLM.open(server.address, {
      threads,
      signal: controller.signal,
      onProgress: (done) => void seen.push(done),
    });
    await assert.rejects(opening, { name: "AbortError" });
    assert(seen.length <= 3, `${seen.length} chunks were loaded`);
    // What was under way then, and nothing after it.
    assert(Math.max(...server.ranges.map(({ begin }) => begin)) <= 5 * CHUNK_BYTES);
    await server.close();
  });

  Deno.test(`an abort while the server says nothing ends loading, ${threads ?? "no"} workers`, async () => {
    const controller = new AbortController();
    const never = Promise.withResolvers<void>();
    const server = serve(await packageOf("f32"), async ({ begin }) => {
      if (begin !== 2 * CHUNK_BYTES) return;
      setTimeout(() => controller.abort(), 20);
      await never.promise;
    });
    const opening = LLM.open(server.address, { threads, signal: controller.signal });
    await assert.rejects(opening, { name: "AbortError" });
    never.resolve();
    await server.close();
  });
}
