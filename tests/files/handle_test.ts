/**
 * Packages behind a directory's handle, as browsers have them, on handles that keep their files in memory and
 * fail as the File System standard says. `tests/runtimes/browser_test.ts` has real ones.
 */
import { strict as assert } from "node:assert";
import { CHUNK_BYTES } from "../../src/files/manifest.ts";
import { LLM, type OpenOptions } from "../../mod.ts";
import { expertPackage } from "../export/expert_model.ts";
import { assertSameBytes } from "../same_bytes.ts";

const DATA = "model-00001-of-00001.data";
const tokens = Array.from({ length: 60 }, (_, i) => (i * 389 + 7) % 1000);

/** A file that counts what is read of it; a read fails once it has been changed. */
class MemoryFile extends File {
  readonly slices: [begin: number, end: number][] = [];
  changed = false;

  override slice(begin = 0, end = this.size): Blob {
    this.slices.push([begin, end]);
    if (!this.changed) return super.slice(begin, end);
    const gone = new DOMException("the file was changed", "NotReadableError");
    return Object.assign(new Blob(), { arrayBuffer: () => Promise.reject(gone) });
  }
}

class MemoryDirectory {
  readonly kind = "directory";
  readonly name: string;
  readonly entries = new Map<string, MemoryFile | MemoryDirectory>();
  allowed = true;

  constructor(name: string) {
    this.name = name;
  }

  getFileHandle(name: string): Promise<{ kind: "file"; getFile(): Promise<File> }> {
    const fail = (type: string) => Promise.reject(new DOMException(`no ${name}: ${type}`, type));
    if (["", ".", ".."].includes(name) || name.includes("/")) {
      return Promise.reject(new TypeError("no name of a file"));
    }
    if (!this.allowed) return fail("NotAllowedError");
    const entry = this.entries.get(name);
    if (!entry) return fail("NotFoundError");
    if (entry instanceof MemoryDirectory) return fail("TypeMismatchError");
    return Promise.resolve({ kind: "file", getFile: () => Promise.resolve(entry) });
  }
}

let folder: Promise<string> | undefined;

/** The package on the disk, and in memory. */
async function both(): Promise<{ path: string; directory: MemoryDirectory; data: MemoryFile }> {
  const path = await (folder ??= expertPackage("int8"));
  const directory = new MemoryDirectory("models");
  for await (const { name } of Deno.readDir(path)) {
    directory.entries.set(name, new MemoryFile([await Deno.readFile(`${path}/${name}`)], name));
  }
  return { path, directory, data: directory.entries.get(DATA) as MemoryFile };
}

async function logitsOf(location: string | MemoryDirectory, options: OpenOptions) {
  await using llm = await LLM.open(location, options);
  return (await llm.forward(tokens)).logits;
}

Deno.test("a package behind a handle gives the logits of the folder, and is read once", async () => {
  const { path, directory, data } = await both();
  for (const options of [{}, { verify: false }, { threads: 2 }]) {
    data.slices.length = 0;
    assertSameBytes(await logitsOf(directory, options), await logitsOf(path, options));
    assert.equal(data.slices.length, Math.ceil(data.size / CHUNK_BYTES));
    assert(data.slices.every(([begin], i) => begin === i * CHUNK_BYTES));
  }
});

Deno.test("experts are read on demand from behind a handle", async () => {
  const { path, directory, data } = await both();
  const refusal = await LLM.open(directory, { threads: 2, memoryBytes: 1 }).catch((e) => e);
  const memoryBytes = Number(/it needs (\d+) MiB/.exec(refusal.message)![1]) * 2 ** 20;
  data.slices.length = 0;
  await using llm = await LLM.open(directory, { threads: 2, memoryBytes });
  const { logits } = await llm.forward(tokens);
  assertSameBytes(logits, await logitsOf(path, {}));
  const { misses, bytesRead, evictions } = llm.expertStats!;
  assert(misses > 0 && evictions > 0);
  const read = data.slices.reduce((sum, [begin, end]) => sum + end - begin, 0);
  assert(bytesRead < read, `${bytesRead} of ${read}`);
});

Deno.test("what a handle refuses is a typed error", async () => {
  const refuses = async (
    change: (directory: MemoryDirectory) => void,
    code: string,
    message: RegExp,
  ) => {
    const { directory } = await both();
    change(directory);
    await assert.rejects(LLM.open(directory), { name: "InvalidFileError", code, message });
  };
  await refuses(({ entries }) => entries.clear(), "not_found", /models: it has no manifest\.json/);
  await refuses(
    ({ entries }) => entries.delete(DATA),
    "not_found",
    /models\/model-00001.*: it does not exist/,
  );
  await refuses(
    ({ entries }) => entries.set(DATA, new MemoryDirectory(DATA)),
    "invalid_file",
    /TypeMismatchError/,
  );
  await refuses((directory) => directory.allowed = false, "invalid_file", /NotAllowedError/);
  await refuses(
    ({ entries }) => entries.set(DATA, new MemoryFile([new Uint8Array(5000)], DATA)),
    "invalid_file",
    /it ends at byte 5000, before .*: it is truncated/,
  );
  await refuses(
    ({ entries }) => (entries.get(DATA) as MemoryFile).changed = true,
    "invalid_file",
    /the file was changed; get the file anew/,
  );
});
