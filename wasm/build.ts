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
/** Symbols an engine module exports beside its functions: where its stack and free memory begin. */
const LINK = ["--import-memory", "--export=__heap_base", "-zstack-size=262144"];
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
  return {
    RUSTC_BOOTSTRAP: "1",
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS: flags.join(" "),
    ...(await onPath("wasm-ld-19")
      ? { CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER: "wasm-ld-19" }
      : {}),
  };
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
    const rustflags = [
      `-Ctarget-feature=${tool.features}`,
      ...LINK.map((flag) => `-Clink-arg=${flag}`),
      ...NO_PANIC_TEXT,
    ];
    const target = `target/${name}`;
    await run("cargo", [
      ...["build", "--release", "--locked", "-p", tool.crate, "--target", "wasm32-unknown-unknown"],
      ...["-Zbuild-std=core", "--target-dir", target],
    ], await cargoEnvironment(rustflags));
    const built = `target/${name}/wasm32-unknown-unknown/release/${
      tool.crate.replaceAll("-", "_")
    }.wasm`;
    await Deno.copyFile(new URL(built, wasmFolder), wasm);
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
  await Deno.writeTextFile(`${folder}/${name}.ts`, base64Module(name, bytes));
  console.log(`${name}: ${bytes.length} bytes, sha256 ${sidecar.wasmSha256.slice(0, 16)}`);
}

/** `wasm-opt -O3`. */
function optimized(wasm: Uint8Array): Uint8Array {
  const module = binaryen.readBinary(wasm);
  module.setFeatures(OPTIMIZED_FEATURES);
  binaryen.setOptimizeLevel(3);
  binaryen.setShrinkLevel(0);
  module.optimize();
  const bytes = module.emitBinary();
  module.dispose();
  return bytes;
}

function sourcesOf(name: string): string[] {
  return artifacts.find((artifact) => artifact.name === name)!.sources;
}

function base64Module(name: string, bytes: Uint8Array): string {
  return `/** \`wasm/dist/${name}.wasm\` as base64, made by \`deno task build:wasm\`. @module */\n` +
    `/** The module's bytes as base64. */\nexport const base64: string =\n  "${bytes.toBase64()}";\n`;
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
