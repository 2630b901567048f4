/**
 * `HYBRIDSEEK_PYTHON=... deno run -A bench/tokenizer.ts`: our tokenizer in WASM against Hugging Face
 * `tokenizers` (native, one thread), on the same text in the same run. Writes JSON lines.
 *
 * The text: a third each of Python source, English prose (both from the Python that is named) and
 * random Chinese words, in pieces of 8,192 characters. Ids are compared before anything is timed.
 * @module
 */
import {
  openTokenizer,
  readTokenizerJson,
  type TokenizerName,
} from "../tests/text/real_tokenizers.ts";

const CHARACTERS_PER_PIECE = 8192;
const MEGABYTES_PER_KIND = 2;
const ROUNDS = 5;

const python = Deno.env.get("HYBRIDSEEK_PYTHON");
if (!python) {
  throw new Error("Cannot compare: set HYBRIDSEEK_PYTHON to a Python with `tokenizers`.");
}
const oracle = new URL("../tests/python/tokenizer_oracle.py", import.meta.url).pathname;

async function runPython(args: string[], input = ""): Promise<string> {
  const process = new Deno.Command(python!, { args, stdin: "piped", stdout: "piped" }).spawn();
  const written = new Blob([input]).stream().pipeTo(process.stdin);
  const { code, stdout } = await process.output();
  await written;
  if (code !== 0) throw new Error(`Cannot compare: ${python} exited with ${code}.`);
  return new TextDecoder().decode(stdout);
}

/** Python source and prose, none of it twice. */
async function pythonTexts(): Promise<{ code: string; prose: string }> {
  const script = `
import glob, json, os, sysconfig
import pydoc_data.topics
root = sysconfig.get_path("stdlib")
read = lambda path: open(path, encoding="utf-8", errors="ignore").read()
code = "".join(read(path) for path in sorted(glob.glob(root + "/*.py")))
prose = "\\n".join(pydoc_data.topics.topics.values())
print(json.dumps({"code": code, "prose": prose}))`;
  return JSON.parse(await runPython(["-c", script]));
}

/** Words of two ideographs and more from a vocabulary, in sentences. */
function chineseText(vocabulary: Iterable<string>, bytes: number): string {
  const words = [...vocabulary].filter((word) => /^[\u4e00-\u9fa5]+$/.test(word));
  let state = 1;
  const random = (below: number) => (state = state * 48271 % 0x7fffffff) % below;
  let text = "";
  while (text.length * 3 < bytes) {
    const sentence = Array.from({ length: 3 + random(18) }, () => words[random(words.length)]);
    text += sentence.join("") + "，。、？\n"[random(5)];
  }
  return text;
}

function pieces(text: string, megabytes: number): string[] {
  const limit = megabytes * 1e6;
  const out: string[] = [];
  for (let start = 0, bytes = 0; start < text.length && bytes < limit;) {
    const piece = text.slice(start, start += CHARACTERS_PER_PIECE);
    bytes += new TextEncoder().encode(piece).length;
    out.push(piece);
  }
  return out;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

function cpu(): { cpu: string; flags: string } {
  const info = Deno.readTextFileSync("/proc/cpuinfo");
  const field = (name: string) => info.match(new RegExp(`^${name}\\s*: (.*)$`, "m"))?.[1] ?? "";
  const wanted = /^(avx2|avx512f|avx512vbmi|fma|sse4_2|bmi2)$/;
  return {
    cpu: field("model name"),
    flags: field("flags").split(" ").filter((f) => wanted.test(f)).join(" "),
  };
}

const { code, prose } = await pythonTexts();

for (const name of ["deepseek-v3", "deepseek-llm"] as const satisfies TokenizerName[]) {
  const json = await readTokenizerJson(name);
  const tokenizer = await openTokenizer(name);
  const vocabulary = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.decode([id]));
  const kinds = {
    code: pieces(code, MEGABYTES_PER_KIND),
    prose: pieces(prose, MEGABYTES_PER_KIND),
    chinese: pieces(chineseText(vocabulary, MEGABYTES_PER_KIND * 1e6), MEGABYTES_PER_KIND),
  };
  const file = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(file, json);
  const texts = { ...kinds, mixed: Object.values(kinds).flat() };
  for (const [kind, chunks] of Object.entries(texts)) {
    const input = chunks.map((chunk) => JSON.stringify(chunk) + "\n").join("");
    const expected = (await runPython([oracle, "encode", file], input)).trimEnd().split("\n");
    chunks.forEach((chunk, index) => {
      const ids = tokenizer.encode(chunk, { addSpecialTokens: false });
      if (JSON.parse(expected[index]!)[1].join() !== ids.join()) {
        throw new Error(`Cannot compare: ids of ${kind} piece ${index} differ.`);
      }
    });
    const bytes = new TextEncoder().encode(chunks.join("")).length;
    const seconds = Array.from({ length: ROUNDS }, () => {
      const start = performance.now();
      for (const chunk of chunks) tokenizer.encode(chunk, { addSpecialTokens: false });
      return (performance.now() - start) / 1e3;
    });
    const ours = bytes / 1e6 / median(seconds);
    const speed = await runPython([oracle, "speed", file], JSON.stringify(chunks));
    const theirs = JSON.parse(speed).megabytesPerSecond;
    console.log(JSON.stringify({
      bench: "tokenizer.encode",
      tokenizer: name,
      text: kind,
      megabytes: +(bytes / 1e6).toFixed(2),
      oursWasmMBps: +ours.toFixed(2),
      huggingFaceNativeMBps: +theirs.toFixed(2),
      ratio: +(ours / theirs).toFixed(2),
      deno: Deno.version.deno,
      ...cpu(),
    }));
  }
  await Deno.remove(file);
}
