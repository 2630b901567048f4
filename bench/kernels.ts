/**
 * `deno task bench:kernels [module.wasm …]`: the multiplication kernels on one thread, one JSON line a
 * kernel, shape and number of tokens.
 *
 * Each case is first compared with a scalar reference, then timed: the weights either out of memory
 * (copies of the matrix, together far larger than the last-level cache, in turn) or out of the
 * second-level cache. Rates stand beside the most that a C program reached in the same run: 128-bit
 * pmaddubsw and reading memory. Builds of the kernels take turns, so that their ratio means something on
 * a busy machine; modules given as arguments, built from another revision, take part. The share of the
 * peak with many tokens, what prompts are made of, is said once more in words on standard error.
 *
 * Needs gcc and what `deno task build:wasm engine` needs.
 * @module
 */
import { machine } from "./machine.ts";
import { probeLimits } from "./probes/probe.ts";

const ROUNDS = 11;
/** Multiply-adds of one timing: long enough for the clock, short enough for a quiet moment. */
const MULTIPLY_ADDS = 2e8;
/** Bytes of weights that count as "out of memory". */
const MEMORY_BYTES = 256 * 2 ** 20;
const BLOCK = 32;
/** Rows of the reference that are computed. */
const CHECKED_ROWS = 24;

const formats = ["f32", "f16", "int8", "int4"] as const;
type Format = typeof formats[number];

interface Case {
  format: Format;
  rows: number;
  columns: number;
  tokens: number;
  from: "memory" | "cache";
}

/** DeepSeek-V2-Lite's matrices; the small ones fit the second-level cache. */
const shapes: [Format[], number, number, number[], Case["from"]][] = [
  [["int4", "int8"], 512, 1024, [1], "cache"],
  [["int4", "int8"], 2048, 2048, [1, 2, 4, 16, 128, 512], "memory"],
  [["int4", "int8"], 2816, 2048, [1, 12], "memory"],
  [["int4", "int8"], 2048, 1408, [1, 12], "memory"],
  [["int4", "int8"], 10944, 2048, [1, 128], "memory"],
  [["int8"], 102400, 2048, [1, 4], "memory"],
  [["f16"], 512, 128, [1, 4, 16, 128], "cache"],
  [["f16"], 128, 512, [1, 4, 16, 128], "cache"],
  [["f32"], 64, 2048, [1, 4, 16, 128], "memory"],
];

const folder = new URL("kernels/", import.meta.url);

async function run(command: string, args: string[], env: Record<string, string> = {}) {
  const { success, stdout } = await new Deno.Command(command, {
    args,
    env,
    cwd: folder,
    stderr: "inherit",
  }).output();
  if (!success) throw new Error(`Cannot run ${command} ${args.join(" ")}: it failed.`);
  return new TextDecoder().decode(stdout);
}

/** Builds the kernels as a module with the engine's own flags. @returns Its path. */
async function build(name: string, features: string): Promise<string> {
  const target = new URL(`../.cache/bench-kernels/${name}/`, import.meta.url).pathname;
  const flags = [`-Ctarget-feature=${features}`, "-Clink-arg=--import-memory"];
  flags.push("-Clink-arg=--export=__heap_base", "-Clink-arg=-zstack-size=262144");
  flags.push("-Zunstable-options", "-Cpanic=immediate-abort", "-Zlocation-detail=none");
  await run("cargo", [
    ...["build", "--quiet", "--release", "--locked", "--target", "wasm32-unknown-unknown"],
    ...["-Zbuild-std=core", "--target-dir", target],
  ], {
    RUSTC_BOOTSTRAP: "1",
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS: flags.join(" "),
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER: Deno.env.get("WASM_LD") ?? "wasm-ld-19",
  });
  return `${target}wasm32-unknown-unknown/release/bench_kernels.wasm`;
}

/** How far above the probed rate a kernel's may lie: others use the memory at the same time. */
const READ_TOLERANCE = 1.1;

interface Kernels {
  __heap_base: WebAssembly.Global;
  packed_bytes(format: number, rows: number, columns: number): number;
  quantized_row_bytes(columns: number): number;
  // deno-fmt-ignore
  pack(format: number, source: number, scales: number, rows: number, columns: number, into: number): void;
  quantize(x: number, rows: number, columns: number, blocks: number): void;
  // deno-fmt-ignore
  multiply(format: number, rows: number, columns: number, packed: number, x: number, tokens: number, y: number): void;
}

interface Module {
  name: string;
  memory: WebAssembly.Memory;
  kernels: Kernels;
}

async function load(name: string, path: string): Promise<Module> {
  const memory = new WebAssembly.Memory({ initial: 2 ** 14 });
  const { instance } = await WebAssembly.instantiate(await Deno.readFile(path), {
    env: { memory },
  });
  return { name, memory, kernels: instance.exports as unknown as Kernels };
}

/** 10^9 bytes of packed weights and 10^9 operations a second. */
interface Rates {
  gbPerSecond: number;
  gopPerSecond: number;
}

/** A case laid out in a module's memory. */
interface Prepared {
  module: Module;
  packed: number[];
  packedBytes: number;
  x: number;
  y: number;
}

/** Numbers that need not be good, only the same in every run. */
function randomWords(words: Uint32Array, seed: number) {
  let state = seed;
  for (let i = 0; i < words.length; i++) {
    words[i] = state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  }
}

function prepare(module: Module, given: Case): Prepared {
  const { kernels, memory } = module;
  const { rows, columns, tokens } = given;
  const format = formats.indexOf(given.format);
  const quantized = format >= 2;
  const blocks = quantized ? Math.ceil(columns / BLOCK) : 0;
  let end: number = kernels.__heap_base.value;
  const take = (bytes: number) => {
    const at = (end + 255) & ~255;
    end = at + bytes;
    return at;
  };
  const packedBytes = kernels.packed_bytes(format, rows, columns);
  const count = given.from === "cache" ? 1 : Math.ceil(MEMORY_BYTES / packedBytes);
  const packed = Array.from({ length: count }, () => take(packedBytes));
  const bits = [32, 16, 8, 4][format]!;
  const floats = take(tokens * columns * 4);
  const rowBlocks = quantized ? take(tokens * kernels.quantized_row_bytes(columns)) : floats;
  const y = take(tokens * rows * 4);
  const source = take(rows * columns * bits / 8);
  const scales = take(rows * blocks * 2);

  const words = new Uint32Array(memory.buffer, source, rows * columns * bits / 32);
  randomWords(words, 1);
  if (given.format === "f32") {
    new Float32Array(memory.buffer, source, words.length).set(Float32Array.from(words, signed));
  } else if (given.format === "f16") {
    // Of either sign, from 2^-4 to 2^-3.
    words.forEach((word, i) => words[i] = word & 0x83ff83ff | 0x2c002c00);
  }
  const halves = new Uint16Array(memory.buffer, scales, rows * blocks);
  halves.forEach((_, i) => halves[i] = 0x2000 | Math.imul(i, 7919) & 0x3ff);
  kernels.pack(format, source, scales, rows, columns, packed[0]!);
  for (const at of packed.slice(1)) {
    new Uint8Array(memory.buffer).copyWithin(at, packed[0]!, packed[0]! + packedBytes);
  }
  const values = new Uint32Array(tokens * columns);
  randomWords(values, 2);
  new Float32Array(memory.buffer, floats, values.length).set(Float32Array.from(values, signed));
  if (quantized) kernels.quantize(floats, tokens, columns, rowBlocks);
  const prepared = { module, packed, packedBytes, x: rowBlocks, y };
  multiply(prepared, given, packed[0]!);
  check(prepared, given, source, scales);
  return prepared;
}

/** A word as a number in [-1, 1). */
function signed(word: number): number {
  return word / 2 ** 31 - 1;
}

function multiply({ module, x, y }: Prepared, given: Case, packed: number) {
  const { rows, columns, tokens } = given;
  module.kernels.multiply(formats.indexOf(given.format), rows, columns, packed, x, tokens, y);
}

/** Compares rows spread over the result of the first and the last token with float64 sums. */
function check({ module, x, y }: Prepared, given: Case, source: number, scales: number) {
  const { format, rows, columns, tokens } = given;
  const view = new DataView(module.memory.buffer);
  const blocks = Math.ceil(columns / BLOCK);
  const half = (at: number) => view.getFloat16(at, true);
  const weight = (row: number, k: number): number => {
    const i = row * columns + k;
    if (format === "f32") return view.getFloat32(source + i * 4, true);
    if (format === "f16") return half(source + i * 2);
    const scale = half(scales + (row * blocks + Math.floor(k / BLOCK)) * 2);
    if (format === "int8") return scale * (view.getUint8(source + i) - 128);
    return scale * ((view.getUint8(source + (i >> 1)) >> (i % 2 * 4) & 15) - 8);
  };
  const input = (token: number, k: number): number => {
    if (format === "f32" || format === "f16") {
      return view.getFloat32(x + (token * columns + k) * 4, true);
    }
    // A block is words of four bytes: its scale, its correction, its levels. Four rows' words lie in turn.
    const blockBytes = module.kernels.quantized_row_bytes(BLOCK);
    const [b, together] = [Math.floor(k / BLOCK), token < tokens - tokens % 4 ? 4 : 1];
    const row = token % together;
    const block = x + ((token - row) * blocks + b * together) * blockBytes;
    const word = (i: number) => block + (i * together + row) * 4;
    const levels = blockBytes / 4 - BLOCK / 4;
    const level = view.getInt8(word(levels + Math.floor(k % BLOCK / 4)) + k % 4);
    return view.getFloat32(word(0), true) * level;
  };
  for (const token of new Set([0, tokens - 1])) {
    for (let i = 0; i < CHECKED_ROWS; i++) {
      const row = Math.floor(i * (rows - 1) / (CHECKED_ROWS - 1));
      let [want, magnitude] = [0, 0];
      for (let k = 0; k < columns; k++) {
        const product = weight(row, k) * input(token, k);
        want += product;
        magnitude += Math.abs(product);
      }
      const got = view.getFloat32(y + (token * rows + row) * 4, true);
      if (!(Math.abs(got - want) <= 1e-6 * magnitude)) {
        const where = `${module.name} ${format} [${rows}, ${columns}] row ${row} token ${token}`;
        throw new Error(`Cannot time ${where}: it gives ${got}, the reference ${want}.`);
      }
    }
  }
}

let [peakGop, readGb] = [0, 0];
const results: { given: Case; name: string; best: Rates; median: Rates }[] = [];
const modules = [
  await load("relaxed", await build("relaxed", "+simd128,+relaxed-simd")),
  await load("plain", await build("plain", "+simd128")),
];
for (const path of Deno.args) modules.push(await load(path, path));
for (const [ofShape, rows, columns, counts, from] of shapes) {
  // Others on the machine can only lower what a probe finds: the largest of many is nearest the truth.
  const found = await probeLimits(1);
  peakGop = Math.max(peakGop, found?.multiplyAddGops128 ?? 0);
  readGb = Math.max(readGb, found?.readGBps2M ?? 0);
  for (const format of ofShape) {
    for (const tokens of counts) {
      const given: Case = { format, rows, columns, tokens, from };
      const prepared = modules.map((module) => prepare(module, given));
      const calls = Math.ceil(MULTIPLY_ADDS / (rows * columns * tokens));
      const times = prepared.map(() => [] as number[]);
      for (let round = 0; round < ROUNDS; round++) {
        prepared.forEach((one, i) => {
          const start = performance.now();
          for (let call = 0; call < calls; call++) {
            multiply(one, given, one.packed[(round * calls + call) % one.packed.length]!);
          }
          times[i]!.push((performance.now() - start) / calls / 1000);
        });
      }
      prepared.forEach(({ module, packedBytes }, i) => {
        const sorted = times[i]!.sort((a, b) => a - b);
        const rates = (seconds: number) => ({
          gbPerSecond: Number((packedBytes / seconds / 1e9).toFixed(2)),
          gopPerSecond: Number((2 * rows * columns * tokens / seconds / 1e9).toFixed(1)),
        });
        const [best, median] = [rates(sorted[0]!), rates(sorted[ROUNDS >> 1]!)];
        results.push({ given, name: module.name, best, median });
      });
    }
  }
}

console.log(JSON.stringify({ bench: "kernels", peakGop, readGb, ...machine() }));
for (const { given, name, best, median } of results) {
  const ofRead = given.from === "memory" ? best.gbPerSecond / readGb : 0;
  if (ofRead > READ_TOLERANCE) {
    const rates = `it reads ${readGb} GB/s, a kernel ${best.gbPerSecond}`;
    throw new Error(`Cannot trust the probe: ${rates} of weights that lie in memory.`);
  }
  const line = { bench: "kernels", module: name, ...given, best, median };
  const ofPeak = Number((best.gopPerSecond / peakGop).toFixed(3));
  console.log(JSON.stringify({ ...line, ofPeak, ofRead: Number(ofRead.toFixed(3)) }));
  if (given.tokens >= 128) {
    const { format, rows, columns, tokens } = given;
    const share = `${best.gopPerSecond} GOP/s, ${(ofPeak * 100).toFixed(1)} % of the peak`;
    console.error(`${name}: ${format} [${rows}, ${columns}] x ${tokens} tokens: ${share}`);
  }
}
