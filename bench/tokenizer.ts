/**
 * `HYBRIDSEEK_PYTHON=... deno task bench:tokenizer`: our tokenizer in WASM against Hugging Face
 * `tokenizers` and, for the tokenizer of V3, `tiktoken`, both native, all on one thread. Writes JSON lines.
 *
 * The text: a third each of Python source, English prose (both from the Python that is named) and random
 * Chinese words, in texts of 8,192 characters; `mixed`, 10 MB, takes them in turn. Ids must be Hugging
 * Face's before anything is timed; how many texts tiktoken gives the same ids for is printed. The rounds
 * of all three alternate; a speed is that of the median round, by the process's CPU seconds (ours with
 * those of V8's garbage collection), which are the wall's where nothing else runs.
 * @module
 */
import { cpuUsage } from "node:process";
import {
  openTokenizer,
  readTokenizerJson,
  type TokenizerName,
} from "../tests/text/real_tokenizers.ts";
import { machine } from "./machine.ts";

const CHARACTERS_PER_TEXT = 8192;
const BYTES_PER_KIND = 3_400_000;
const ROUNDS = 5;

const python = Deno.env.get("HYBRIDSEEK_PYTHON");
if (!python) {
  throw new Error(
    "Cannot compare: set HYBRIDSEEK_PYTHON to a Python with `tokenizers` and `tiktoken`.",
  );
}
const peers = new URL("tokenizer_peers.py", import.meta.url).pathname;

/** A Python process that encodes when asked to. */
class Peers {
  /** What it has: `huggingFace`, and `tiktoken` for some tokenizers. */
  rivals: string[] = [];
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: AsyncIterator<string>;

  private constructor(json: string) {
    const args = [peers, "serve", json];
    this.#process = new Deno.Command(python!, { args, stdin: "piped", stdout: "piped" }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#lines = linesOf(this.#process.stdout);
  }

  /** Starts it with a tokenizer.json. */
  static async start(json: string): Promise<Peers> {
    const started = new Peers(json);
    started.rivals = await started.#answer();
    return started;
  }

  /** Asks one thing, see tokenizer_peers.py. */
  async ask<Answer>(request: Record<string, string>): Promise<Answer> {
    await this.#input.write(new TextEncoder().encode(JSON.stringify(request) + "\n"));
    return await this.#answer();
  }

  /** Ends it. */
  async close(): Promise<void> {
    await this.#input.close();
    await this.#process.status;
  }

  async #answer<Answer>(): Promise<Answer> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`Cannot compare: ${python} ended, its messages are above.`);
    return JSON.parse(value);
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

/** Python source and prose, none of it twice. */
async function pythonTexts(): Promise<{ code: string; prose: string }> {
  const args = [peers, "texts", `${BYTES_PER_KIND}`];
  const { success, stdout } = await new Deno.Command(python!, { args, stderr: "inherit" }).output();
  if (!success) throw new Error(`Cannot compare: ${python} makes no texts.`);
  return JSON.parse(new TextDecoder().decode(stdout));
}

/** Words of ideographs from a vocabulary, in sentences. */
function chineseText(vocabulary: Iterable<string>): string {
  const words = [...vocabulary].filter((word) => /^[\u4e00-\u9fa5]+$/.test(word));
  let state = 1;
  const random = (below: number) => (state = state * 48271 % 0x7fffffff) % below;
  let text = "";
  while (text.length * 3 < BYTES_PER_KIND) {
    const sentence = Array.from({ length: 3 + random(18) }, () => words[random(words.length)]);
    text += sentence.join("") + "，。、？\n"[random(5)];
  }
  return text;
}

function cut(text: string): string[] {
  const count = Math.ceil(text.length / CHARACTERS_PER_TEXT);
  return Array.from(
    { length: count },
    (_, i) => text.slice(i * CHARACTERS_PER_TEXT, (i + 1) * CHARACTERS_PER_TEXT),
  );
}

/** The texts of all kinds in turn. */
function inTurn(kinds: string[][]): string[] {
  const most = Math.max(...kinds.map(({ length }) => length));
  return Array.from({ length: most }, (_, i) => kinds.flatMap((texts) => texts.slice(i, i + 1)))
    .flat();
}

/** How many texts have the ids that a rival wrote to a file. */
function countSame(ids: number[][], file: string): number {
  const theirs = new Uint32Array(Deno.readFileSync(file).buffer);
  let same = 0;
  let at = 0;
  for (const ours of ids) {
    const length = theirs[at++]!;
    if (length === ours.length && ours.every((id, i) => id === theirs[at + i])) same++;
    at += length;
  }
  return same;
}

function cpuSeconds(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1e6;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

const { code, prose } = await pythonTexts();
const folder = await Deno.makeTempDir();

for (const name of ["deepseek-v3", "deepseek-llm"] as const satisfies TokenizerName[]) {
  const tokenizer = await openTokenizer(name);
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const vocabulary = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.decode([id]));
  const kinds = { code: cut(code), prose: cut(prose), chinese: cut(chineseText(vocabulary)) };
  await Deno.writeTextFile(`${folder}/tokenizer.json`, await readTokenizerJson(name));
  const python = await Peers.start(`${folder}/tokenizer.json`);
  for (const [kind, texts] of Object.entries({ ...kinds, mixed: inTurn(Object.values(kinds)) })) {
    await Deno.writeTextFile(`${folder}/texts.json`, JSON.stringify(texts));
    const bytes = await python.ask<number>({ texts: `${folder}/texts.json` });
    const ids = texts.map(encode);
    const same: Record<string, number> = {};
    for (const rival of python.rivals) {
      await python.ask({ ids: rival, into: `${folder}/ids` });
      same[rival] = countSame(ids, `${folder}/ids`);
    }
    if (same.huggingFace !== texts.length) {
      throw new Error(`Cannot compare: ids of ${texts.length - same.huggingFace!} texts differ.`);
    }

    const seconds: Record<string, number[]> = { ours: [] };
    for (const rival of python.rivals) seconds[rival] = [];
    const names = Object.keys(seconds);
    for (let round = 0; round < ROUNDS; round++) {
      // Each comes first in turn.
      for (const i of names.keys()) {
        const who = names[(round + i) % names.length]!;
        if (who === "ours") {
          const start = cpuSeconds();
          for (const text of texts) encode(text);
          seconds.ours!.push(cpuSeconds() - start);
        } else seconds[who]!.push(await python.ask<number>({ time: who }));
      }
    }
    const speed = (who: string) => bytes / 1e6 / median(seconds[who]!);
    const line: Record<string, unknown> = {
      bench: "tokenizer.encode",
      tokenizer: name,
      text: kind,
      megabytes: +(bytes / 1e6).toFixed(2),
      oursWasmMBps: +speed("ours").toFixed(2),
    };
    for (const rival of python.rivals) {
      line[`${rival}NativeMBps`] = +speed(rival).toFixed(2);
      line[`ratioTo_${rival}`] = +(speed("ours") / speed(rival)).toFixed(2);
    }
    if (same.tiktoken !== undefined) {
      line.tiktokenTextsWithOurIds = `${same.tiktoken} of ${texts.length}`;
    }
    console.log(JSON.stringify({ ...line, ...machine() }));
  }
  await python.close();
}
await Deno.remove(folder, { recursive: true });
