/**
 * Our ids against those of Hugging Face `tokenizers`, on random texts and on every code point.
 *
 * Runs where HYBRIDSEEK_PYTHON names a Python that has `tokenizers`; HYBRIDSEEK_ORACLE_TEXTS sets how
 * many texts each tokenizer gets (default 10,000) and HYBRIDSEEK_ORACLE_SEED the seed.
 */
import { strict as assert } from "node:assert";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { hasShared } from "../shared.ts";
import { openTokenizer, readTokenizerJson, tokenizerNames } from "../text/real_tokenizers.ts";
import { addedToken, byteCharacters, type Json, tinyTokenizer } from "../text/tiny_tokenizer.ts";

const python = Deno.env.get("HYBRIDSEEK_PYTHON");
const textCount = Deno.env.get("HYBRIDSEEK_ORACLE_TEXTS") ?? "10000";
const seed = Deno.env.get("HYBRIDSEEK_ORACLE_SEED") ?? "20240507";
const script = new URL("../python/tokenizer_oracle.py", import.meta.url).pathname;

function needs(name: string, data: boolean): { name: string; ignore: boolean } {
  if (!python) return { name: `${name} (ignored: HYBRIDSEEK_PYTHON is not set)`, ignore: true };
  return { name: data ? name : `${name} (ignored: no ../shared)`, ignore: !data };
}

/** Runs the oracle; yields the lines it writes. */
async function* oracleLines(json: string, command: string, args: string[], input = "") {
  const file = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(file, json);
  const process = new Deno.Command(python!, {
    args: [script, command, file, ...args],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const written = new Blob([input]).stream().pipeTo(process.stdin);
  let rest = "";
  for await (const chunk of process.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  await written;
  assert.equal((await process.status).code, 0);
  await Deno.remove(file);
}

for (const name of tokenizerNames) {
  Deno.test(needs(`${name}: ids of random texts are Hugging Face's`, hasShared), async () => {
    const tokenizer = await openTokenizer(name);
    const json = await readTokenizerJson(name);
    let compared = 0;
    for await (const line of oracleLines(json, "ids", [textCount, seed])) {
      const [text, ids] = JSON.parse(line);
      const ours = tokenizer.encode(text, { addSpecialTokens: false });
      assert.equal(ours.join(), ids.join(), JSON.stringify(text));
      compared++;
    }
    assert.equal(compared, Number(textCount));
  });
}

const codePoints = Array.from({ length: 0x110000 }, (_, c) => c).filter((c) =>
  c < 0xd800 || c > 0xdfff
);

/** Splits the texts into lines, encodes them by both, and compares. */
async function compareWithOracle(json: Json, texts: string[]) {
  using tokenizer = Tokenizer.fromJson(JSON.stringify(json));
  const input = texts.map((text) => JSON.stringify(text) + "\n").join("");
  let compared = 0;
  for await (const line of oracleLines(JSON.stringify(json), "encode", [], input)) {
    const [text, ids] = JSON.parse(line);
    assert.equal(tokenizer.encode(text).join(), ids.join(), JSON.stringify(text));
    compared++;
  }
  assert.equal(compared, texts.length);
}

/** Every code point with an x on either side, in texts of a thousand. */
function everyCodePoint(): string[] {
  const texts: string[] = [];
  for (let i = 0; i < codePoints.length; i += 1000) {
    const part = codePoints.slice(i, i + 1000);
    texts.push(part.map((c) => `x${String.fromCodePoint(c)}`).join("") + "x");
  }
  return texts;
}

/**
 * A tokenizer that shows where pieces end: x merges with every byte before or after it, unless a
 * split lies between.
 */
function revealing(...stages: Json[]): Json {
  const json = tinyTokenizer();
  const pairs = byteCharacters.flatMap((c) => [["x", c], [c, "x"]]);
  const tokens = new Set([...byteCharacters, ...pairs.map((pair) => pair.join(""))]);
  json.model.vocab = Object.fromEntries([...tokens].map((token, id) => [token, id]));
  json.model.merges = pairs;
  json.added_tokens = [];
  json.pre_tokenizer.pretokenizers.splice(0, 1, ...stages);
  return json;
}

function split(pattern: string): Json {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

for (
  const [what, stage] of [
    ["\\p{L}", split("[x\\p{L}]+")],
    ["\\p{M}", split("[x\\p{M}]+")],
    ["\\p{N}", split("[x\\p{N}]+")],
    ["\\p{P}", split("[x\\p{P}]+")],
    ["\\p{S}", split("[x\\p{S}]+")],
    ["\\s", split("\\s?[x]+")],
    ["Digits", { type: "Digits", individual_digits: true }],
  ] as const
) {
  Deno.test(needs(`${what} holds for the same code points as in Hugging Face`, true), async () => {
    await compareWithOracle(revealing(stage), everyCodePoint());
  });
}

Deno.test(
  needs("the pattern of the V3 generation splits around every code point alike", hasShared),
  async () => {
    const { pre_tokenizer } = JSON.parse(await readTokenizerJson("deepseek-v3"));
    const stages = pre_tokenizer.pretokenizers.slice(0, -1);
    await compareWithOracle(revealing(...stages), everyCodePoint());
  },
);

Deno.test(
  needs("added tokens heed the word and space characters of Hugging Face", true),
  async () => {
    const json = tinyTokenizer();
    json.added_tokens = [
      { ...addedToken(258, "xx"), single_word: true },
      { ...addedToken(259, "yy"), lstrip: true, rstrip: true, normalized: true },
    ];
    // Planes 4 to 13 are unassigned, 15 and 16 private: a few of each stand for all.
    const assigned = codePoints.filter((c) => c < 0x34000 || (c & 0xffff) < 0x1000);
    const texts: string[] = [];
    for (let i = 0; i < assigned.length; i += 20) {
      const part = assigned.slice(i, i + 20).map((c) => String.fromCodePoint(c));
      texts.push(part.map((c) => `${c}xx${c}yy`).join("-"));
    }
    await compareWithOracle(json, texts);
  },
);

Deno.test(needs("added tokens with every flag are found as by Hugging Face", true), async () => {
  const json = tinyTokenizer();
  json.added_tokens = [
    { ...addedToken(258, "xx"), single_word: true },
    { ...addedToken(259, "xxx"), lstrip: true },
    { ...addedToken(260, "yy"), rstrip: true, normalized: true },
    { ...addedToken(261, "yyz"), normalized: true, lstrip: true, rstrip: true },
    { ...addedToken(262, "qq"), single_word: true, normalized: true, special: false },
    { ...addedToken(263, "x y"), normalized: true },
  ];
  const units = [
    "x",
    "xx",
    "y",
    "yy",
    "z",
    "q",
    "qq",
    " ",
    "\t",
    "\u3000",
    "-",
    "é",
    "\u0301",
    "中",
  ];
  let state = 1;
  const pick = () => units[(state = state * 48271 % 0x7fffffff) % units.length]!;
  const texts = Array.from(
    { length: 20_000 },
    (_, i) => Array.from({ length: i % 40 }, pick).join(""),
  );
  await compareWithOracle(json, texts);
});
