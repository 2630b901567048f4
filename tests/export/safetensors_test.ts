/**
 * One smallest hostile file for each rule of the safetensors format.
 */
import { strict as assert } from "node:assert";
import { SafetensorsFile } from "../../export-tools/safetensors.ts";
import { InvalidFileError } from "../../src/errors.ts";
import { temporaryPath } from "../packages.ts";

/** A file: length of the header, header, data. */
function fileOf(header: unknown, dataBytes: number, claimed?: number): Uint8Array {
  const text = typeof header === "string" ? header : JSON.stringify(header);
  const json = new TextEncoder().encode(text);
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(claimed ?? json.length), true);
  bytes.set(json, 8);
  return bytes;
}

const entry = (begin: number, end: number, more: object = {}) => ({
  dtype: "F32",
  shape: [(end - begin) / 4],
  data_offsets: [begin, end],
  ...more,
});

const refused: Record<string, [bytes: Uint8Array, message: RegExp]> = {
  "fewer than 8 bytes": [new Uint8Array(5), /it has 5 bytes, too few/],
  "a header beyond the format's limit": [
    fileOf("{}", 0, 100_000_001),
    /above the format's 100000000/,
  ],
  "a header length of 64 bits": [fileOf("{}", 0, 2 ** 52), /above the format's/],
  "a header beyond the end": [
    fileOf("{}", 0, 50),
    /claims 50 bytes, but the file has 10: it is truncated/,
  ],
  "a header that is no JSON": [fileOf("{x", 0), /its header is no JSON/],
  "a header that is no UTF-8": [new Uint8Array([2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe]), /no JSON/],
  "a header that is a list": [fileOf([], 0), /no JSON object/],
  "a key twice": [
    fileOf('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":1}', 1),
    /names 1 keys twice/,
  ],
  "a key twice, escaped": [
    fileOf('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":1}', 1),
    /names 1 keys twice/,
  ],
  "an unknown dtype": [fileOf({ a: entry(0, 4, { dtype: "F13" }) }, 4), /unknown dtype "F13"/],
  "a dtype of the prototype": [
    fileOf({ a: entry(0, 4, { dtype: "toString" }) }, 4),
    /unknown dtype/,
  ],
  "an entry that is null": [fileOf({ a: null }, 0), /tensor a has the unknown dtype/],
  "a shape that is negative": [fileOf({ a: entry(0, 4, { shape: [-1] }) }, 4), /the shape \[-1\]/],
  "a shape beyond 2^53": [fileOf({ a: entry(0, 4, { shape: [2 ** 60] }) }, 4), /the shape/],
  "a shape that is no list": [fileOf({ a: entry(0, 4, { shape: 1 }) }, 4), /the shape 1/],
  "offsets in the wrong order": [
    fileOf({ a: entry(0, 4, { data_offsets: [4, 0] }) }, 4),
    /the data_offsets \[4,0\]/,
  ],
  "offsets that are three": [
    fileOf({ a: entry(0, 4, { data_offsets: [0, 4, 8] }) }, 4),
    /the data_offsets/,
  ],
  "a size that is not the shape's": [
    fileOf({ a: entry(0, 4, { shape: [2] }) }, 4),
    /takes 8 bytes but spans 4/,
  ],
  "a tensor beyond the end": [fileOf({ a: entry(0, 8) }, 4), /the file at .*: it is truncated/],
  "tensors that overlap": [fileOf({ a: entry(0, 8), b: entry(4, 12) }, 12), /tensor b overlaps/],
  "the same bytes twice": [fileOf({ a: entry(0, 4), b: entry(0, 4) }, 4), /overlaps/],
  "a gap": [fileOf({ a: entry(0, 4), b: entry(8, 12) }, 12), /4 bytes before tensor b are unused/],
  "bytes behind the last tensor": [fileOf({ a: entry(0, 4) }, 6), /2 bytes after the last tensor/],
};

for (const [name, [bytes, message]] of Object.entries(refused)) {
  Deno.test(`safetensors: ${name} is refused`, async () => {
    const path = temporaryPath("hostile.safetensors");
    await Deno.writeFile(path, bytes);
    await assert.rejects(SafetensorsFile.open(path), (error: InvalidFileError) => {
      assert(error instanceof InvalidFileError, String(error));
      assert.equal(error.file, path);
      assert.match(error.message, message);
      return true;
    });
  });
}

Deno.test("safetensors: a sound file gives its tensors' places", async () => {
  const path = temporaryPath("sound.safetensors");
  const header = { __metadata__: { format: "pt" }, b: entry(4, 12), a: entry(0, 4, { shape: [] }) };
  const bytes = fileOf(header, 12);
  bytes.set([1, 2, 3, 4], bytes.length - 12);
  await Deno.writeFile(path, bytes);
  const file = await SafetensorsFile.open(path);
  const { offset, bytes: length, shape } = file.tensors.get("a")!;
  assert.deepEqual([file.tensors.size, length, shape], [2, 4, []]);
  const read = new Uint8Array(4);
  await file.read(read, offset);
  assert.deepEqual([...read], [1, 2, 3, 4]);
  await file.close();
});

Deno.test("safetensors: a missing file is refused as not found", async () => {
  await assert.rejects(SafetensorsFile.open(temporaryPath("none")), { code: "not_found" });
});
