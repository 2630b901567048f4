/**
 * `deno task build:wasm [name ...] [--check]`: builds the modules of `artifacts.ts` into `wasm/dist`.
 * With `--check` it builds into a temporary folder and fails where the committed bytes differ.
 *
 * Needs rustc with its sources (`rustup component add rust-src`), and for the tokenizer wasm-pack and
 * wasm-bindgen-cli on PATH; asc and binaryen come from npm. ARCHITECTURE.md, "Building the WASM".
 * @module
 */
import binaryen from "npm:binaryen@132.0.0";
import {
  type Artifact,
  artifacts,
  distFolder,
  sha256Hex,
  sourceHash,
  wasmFolder,
} from "./artifacts.ts";
import { embed } from "./embed.ts";

const ASSEMBLYSCRIPT = "npm:assemblyscript@0.28.20/asc";
/** What the modules may use; `Features.All` would emit encodings that V8 refuses. */
const OPTIMIZED_FEATURES = ([
  "SIMD128",
  "RelaxedSIMD",
  "BulkMemory",
  "BulkMemoryOpt",
  "NontrappingFPToInt",
  "SignExt",
  "MutableGlobals",
  "ReferenceTypes",
  "Multivalue",
] as const).reduce((mask, name) => mask | binaryen.Features[name], 0);
/** The engine's memory comes from outside; free memory begins behind its stack and constants. */
const LINK = ["--import-memory", "--export=__heap_base", "-zstack-size=262144"];
/** Every thread sets its own stack. V8 grants 16 GiB to 64-bit addresses. */
const LINK_THREADS = (addressBits: 32 | 64) => [
  "--shared-memory",
  `--max-memory=${addressBits === 64 ? 2 ** 34 : 2 ** 32}`,
  "--export=__stack_pointer",
];
/** A panic is a trap and nothing else: no text, and no line numbers that would change with a comment. */
const NO_PANIC_TEXT = ["-Zunstable-options", "-Cpanic=immediate-abort", "-Zlocation-detail=none"];

async function run(command: string, args: string[], env: Record<string, string> = {}) {
  const status = await new Deno.Command(command, { args, env, cwd: wasmFolder }).spawn().status;
  if (!status.success) {
    throw new Error(`Cannot build: ${command} ${args.join(" ")} exited with ${status.code}.`);
  }
}

async function onPath(command: string): Promise<boolean> {
  const probe = new Deno.Command("sh", { args: ["-c", `command -v ${command}`], stdout: "null" });
  return (await probe.output()).success;
}

/** Environment of cargo: nightly flags allowed (build-std), the linker, and no paths in the output. */
async function cargoEnvironment(rustflags: string[]): Promise<Record<string, string>> {
  const home = Deno.env.get("CARGO_HOME") ?? `${Deno.env.get("HOME")}/.cargo`;
  const rustc = await new Deno.Command("rustc", { args: ["--print", "sysroot"] }).output();
  const sysroot = new TextDecoder().decode(rustc.stdout).trim();
  const flags = [
    ...rustflags,
    `--remap-path-prefix=${sysroot}/lib/rustlib/src/rust=rust`,
    `--remap-path-prefix=${home}=cargo`,
    `--remap-path-prefix=${wasmFolder.pathname}=wasm/`,
  ];
  const variables: Record<string, string> = { RUSTC_BOOTSTRAP: "1" };
  const hasLinker = await onPath("wasm-ld-19");
  for (const target of ["WASM32", "WASM64"]) {
    variables[`CARGO_TARGET_${target}_UNKNOWN_UNKNOWN_RUSTFLAGS`] = flags.join(" ");
    if (hasLinker) variables[`CARGO_TARGET_${target}_UNKNOWN_UNKNOWN_LINKER`] = "wasm-ld-19";
  }
  return variables;
}

/** Builds into `folder`: `<name>.wasm` and, from wasm-pack, its glue `<name>_glue.{js,d.ts}`. */
async function build({ name, tool }: Artifact, folder: string) {
  const wasm = `${folder}/${name}.wasm`;
  if (tool.kind === "asc") {
    const options = [
      "--enable",
      "simd",
      "-O3",
      "--noAssert",
      "--runtime",
      "stub",
      "--use",
      "abort=",
    ];
    await run(Deno.execPath(), ["run", "-A", ASSEMBLYSCRIPT, tool.entry, "-o", wasm, ...options]);
  } else if (tool.kind === "cargo") {
    const { crate, addressBits, threads, relaxed } = tool;
    const features = ["+simd128", relaxed && "+relaxed-simd", threads && "+atomics,+bulk-memory"];
    const link = [...LINK, ...(threads ? LINK_THREADS(addressBits) : [])];
    const rustflags = [
      `-Ctarget-feature=${features.filter(Boolean).join()}`,
      ...link.map((flag) => `-Clink-arg=${flag}`),
      ...NO_PANIC_TEXT,
    ];
    const triple = `wasm${addressBits}-unknown-unknown`;
    await run("cargo", [
      ...["build", "--release", "--locked", "-p", crate, "--target", triple],
      ...["-Zbuild-std=core", "--target-dir", `target/${name}`],
    ], await cargoEnvironment(rustflags));
    const built = `target/${name}/${triple}/release/${crate.replaceAll("-", "_")}.wasm`;
    await Deno.copyFile(new URL(built, wasmFolder), wasm);
  } else if (tool.kind === "cargo-std") {
    const { crate, memoryBytes } = tool;
    const triple = "wasm32-unknown-unknown";
    const rustflags = [
      "-Ctarget-feature=+simd128,+bulk-memory",
      `-Clink-arg=--max-memory=${memoryBytes}`,
      // A library that it uses is linked by itself as well, without the functions that we give it.
      "-Clink-arg=--allow-undefined",
      ...NO_PANIC_TEXT,
    ];
    const target = `target/${name}`;
    await run("cargo", [
      ...["build", "--release", "--locked", "--manifest-path", `${crate}/Cargo.toml`],
      ...["--target", triple, "-Zbuild-std=std", "--target-dir", target],
    ], await cargoEnvironment(rustflags));
    const built = `${target}/${triple}/release/hybridseek_${crate}.wasm`;
    const unneeded = /^(llg_|__)/; // exports of that library, and of the linker
    const bytes = await Deno.readFile(new URL(built, wasmFolder));
    await Deno.writeFile(wasm, optimized(bytes, { shrink: 2, without: unneeded }));
  } else {
    const out = await Deno.makeTempDir();
    await run("wasm-pack", [
      ...["build", tool.crate, "--mode", "force", "--release", "--target", "web", "--no-pack"],
      ...["--out-dir", out, "--out-name", `${name}_glue`],
      ...[
        "--",
        "--locked",
        "-Zbuild-std=std,panic_abort",
        "--target-dir",
        `${wasmFolder.pathname}target/${name}`,
      ],
    ], await cargoEnvironment(["-Ctarget-feature=+simd128"]));
    const packed = await Deno.readFile(`${out}/${name}_glue_bg.wasm`);
    await Deno.writeFile(wasm, optimized(packed));
    await Deno.copyFile(`${out}/${name}_glue.js`, `${folder}/${name}_glue.js`);
    await Deno.copyFile(`${out}/${name}_glue.d.ts`, `${folder}/${name}_glue.d.ts`);
  }
  const bytes = await Deno.readFile(wasm);
  const sidecar = {
    sourceSha256: await sourceHash({ name, tool, sources: sourcesOf(name) }),
    wasmSha256: await sha256Hex(bytes),
  };
  await Deno.writeTextFile(`${folder}/${name}.json`, JSON.stringify(sidecar, null, 2) + "\n");
  await Deno.writeTextFile(`${folder}/${name}.ts`, await embeddedModule(name, bytes));
  console.log(`${name}: ${bytes.length} bytes, sha256 ${sidecar.wasmSha256.slice(0, 16)}`);
}

/** `wasm-opt -O3`, or with `shrink` also for size; `without` what only some exports need. */
function optimized(
  wasm: Uint8Array,
  { shrink = 0, without }: { shrink?: number; without?: RegExp } = {},
): Uint8Array {
  const module = binaryen.readBinary(wasm);
  module.setFeatures(OPTIMIZED_FEATURES);
  for (let i = module.getNumExports() - 1; without && i >= 0; i--) {
    const { name } = binaryen.getExportInfo(module.getExportByIndex(i));
    if (without.test(name)) module.removeExport(name);
  }
  binaryen.setOptimizeLevel(3);
  binaryen.setShrinkLevel(shrink);
  module.optimize();
  const bytes = module.emitBinary();
  module.dispose();
  return bytes;
}

function sourcesOf(name: string): string[] {
  return artifacts.find((artifact) => artifact.name === name)!.sources;
}

/** The module in a form that every bundler takes: a text. */
async function embeddedModule(name: string, bytes: Uint8Array): Promise<string> {
  const text = await embed(bytes);
  return `/** \`wasm/dist/${name}.wasm\` as text, made by \`deno task build:wasm\`. @module */\n` +
    `/** The module's bytes, compressed by zlib, as base64. */\n` +
    `export const embedded: string =\n  "${text}";\n`;
}

/** Fails where a file that was just built differs from the committed one. */
async function compare(folder: string) {
  let same = true;
  for (const { name } of Deno.readDirSync(folder)) {
    const built = await sha256Hex(await Deno.readFile(`${folder}/${name}`));
    const committed = await sha256Hex(await Deno.readFile(new URL(name, distFolder)));
    if (built !== committed) same = false;
    console.log(`${built === committed ? "same     " : "DIFFERENT"} wasm/dist/${name}`);
  }
  if (!same) {
    console.error(
      "Cannot confirm wasm/dist: rebuild with `deno task build:wasm` and commit what changed.",
    );
    Deno.exit(1);
  }
}

if (import.meta.main) {
  const names = Deno.args.filter((argument) => !argument.startsWith("-"));
  const check = Deno.args.includes("--check");
  const folder = check ? await Deno.makeTempDir() : distFolder.pathname;
  for (const artifact of artifacts) {
    if (names.length === 0 || names.includes(artifact.name)) await build(artifact, folder);
  }
  if (check) await compare(folder);
}
