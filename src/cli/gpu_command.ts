import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import type { Command } from "commander";
import {
  type Addon,
  BUILD_COMMAND,
  libraryPath,
  loadAddon,
  openOnnxRuntime,
} from "../backend/native/addon.ts";
import { CUDA_PROVIDER_ADVICE, LEAST_CAPABILITY } from "../backend/native/cuda_backend.ts";
import { HybridseekError, UnsupportedError } from "../errors.ts";
import { sizeText } from "./size_text.ts";
import { buildNative, sourceFolder, sourcesHash, TOOLS, toolVersion } from "./native_build.ts";

/** Adds `hybridseek gpu build | doctor | selftest`. @param program To this program. */
export function addGpuCommand(program: Command): void {
  const gpu = program.command("gpu").description("The native library of backend ort-native.");
  gpu.command("build")
    .description("Build it with cmake, a C++ compiler and cargo.")
    .option(
      "--cuda [toolkit]",
      "with CUDA kernels, by the CUDA toolkit 13 in this folder or by NVIDIA's compiler, fetched " +
        "from PyPI as FlashInfer is",
    )
    .action(async ({ cuda }: { cuda?: boolean | string }) => {
      await buildNative({ cuda });
      const kernels = cuda ? "CPU and CUDA kernels" : "CPU kernels; --cuda adds CUDA's";
      process.stdout.write(`${await libraryPath()}: ${kernels}\n`);
    });
  gpu.command("doctor")
    .description("Say what is there, what is missing, and what brings it.")
    .action(async () => {
      const { lines, usable } = await examine();
      process.stdout.write(lines.map(([name, text]) => `${name.padEnd(16)}${text}\n`).join(""));
      if (!usable) process.exitCode = 1;
    });
  gpu.command("selftest")
    .description("Run the CUDA kernels on this machine's GPU against float64, and time them.")
    .option("--no-timing", "leave out the sizes of a real model, which take 2 GB of its memory")
    .action(async ({ timing }: { timing: boolean }) => {
      if (!await selftest(timing)) process.exitCode = 1;
    });
}

/** Prints a line for every kernel; whether all are right. */
async function selftest(timing: boolean): Promise<boolean> {
  const addon = await loadAddon();
  let results: [string, number | null, number, number, number][];
  try {
    results = JSON.parse(addon.selftest(timing ? 1 : 0));
  } catch (cause) {
    throw new UnsupportedError(
      `${
        (cause as Error).message
      } ${BUILD_COMMAND} --cuda builds the kernels, hybridseek gpu doctor ` +
        "tells what else is missing.",
      { cause },
    );
  }
  let good = true;
  for (const [name, error, bound, microseconds, least] of results) {
    const right = error !== null && error <= bound;
    good &&= right;
    let line = `${right ? "ok    " : "WRONG "} ${name.padEnd(30)} error ${
      error?.toExponential(1) ?? "no number"
    } of ${bound.toExponential(1)}`;
    if (microseconds > 0) line += `, ${microseconds.toFixed(0)} µs`;
    if (microseconds > 0 && least > 0) {
      line += `, ${(100 * least / microseconds).toFixed(0)} % of the memory's speed`;
    }
    process.stdout.write(`${line}\n`);
  }
  return good;
}

type Line = [name: string, text: string];

/** A library that CUDA or several ranks will want, and what its absence means. */
const LIBRARIES: readonly [name: string, file: string, absence: string][] = [
  ["CUDA driver", "libcuda.so.1", "no GPU can be used; it comes with NVIDIA's driver"],
  ["CUDA runtime", "libcudart.so", "onnxruntime has no CUDA provider here"],
  ["NCCL", "libnccl.so.2", "several GPUs can not exchange tensors; pip install nvidia-nccl-cu13"],
  ["MPI", "libmpi.so", "mpirun can not start ranks; apt-get install openmpi-bin"],
];

/** Everything that matters to the backend; whether it can be used. */
async function examine(): Promise<{ lines: Line[]; usable: boolean }> {
  const lines: Line[] = [];
  const say = (name: string, text: string) => lines.push([name, text]);
  const addon = await found(say, "native library", async () => {
    const addon = await loadAddon();
    say("native library", `${await libraryPath()}, version ${addon.version}, ${age(addon)}`);
    return addon;
  });
  if (addon) {
    const none = `none; ${BUILD_COMMAND} --cuda builds them`;
    say("CUDA kernels", addon.cuda ? "in the native library" : none);
  }
  const runtime = addon && await found(say, "onnxruntime", async () => {
    const runtime = await openOnnxRuntime(addon);
    say("onnxruntime", `${runtime.path}, version ${runtime.version}`);
    return runtime;
  });
  if (!addon) say("onnxruntime", "unknown: the native library opens it");
  if (runtime) {
    const provider = runtime.path.replace(/[^/\\]*$/, "libonnxruntime_providers_cuda.so");
    const none = `not beside onnxruntime; backend cuda needs it: ${CUDA_PROVIDER_ADVICE}`;
    say("CUDA provider", existsSync(provider) ? provider : none);
  }
  if (addon?.cuda) say("GPU", gpuText(addon));
  for (const tool of TOOLS) {
    say(tool.name, toolVersion(tool) ?? `not found: ${BUILD_COMMAND} needs it; ${tool.advice}`);
  }
  const nvcc = { name: "nvcc", programs: ["nvcc"], advice: "" };
  say("CUDA compiler", toolVersion(nvcc) ?? `not found; ${BUILD_COMMAND} --cuda fetches its own`);
  const paths = libraryPaths();
  for (const [name, file, absence] of LIBRARIES) {
    say(name, paths(file) ?? `${file} not found: ${absence}`);
  }
  return { lines, usable: runtime !== undefined };
}

/** What there is of a GPU, or what is missing. */
function gpuText(addon: Addon): string {
  try {
    const [free, total, major, minor] = addon.gpu();
    const memory = `${sizeText(free)} of ${sizeText(total)} free`;
    const old = major < LEAST_CAPABILITY ? `; backend cuda needs ${LEAST_CAPABILITY}.0` : "";
    return `compute capability ${major}.${minor}, ${memory}${old}`;
  } catch (cause) {
    return (cause as Error).message;
  }
}

/** Runs a part of the examination; what it throws is a line. */
async function found<T>(
  say: (name: string, text: string) => void,
  name: string,
  part: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await part();
  } catch (error) {
    if (!(error instanceof HybridseekError)) throw error;
    say(name, error.message);
    return undefined;
  }
}

/** Whether the library is what the sources beside it would give. */
function age({ sources }: Addon): string {
  try {
    return sources === sourcesHash(sourceFolder())
      ? "built from these sources"
      : `built from other sources; run ${BUILD_COMMAND}`;
  } catch {
    return "its sources are not on this disk";
  }
}

/** Where the loader finds libraries: LD_LIBRARY_PATH, then its own list. */
function libraryPaths(): (file: string) => string | undefined {
  const folders = (process.env.LD_LIBRARY_PATH ?? "").split(":").filter((folder) => folder !== "");
  const { stdout } = spawnSync("/sbin/ldconfig", ["-p"], { encoding: "utf8" });
  const known = [...(stdout ?? "").matchAll(/^\s*(\S+) .*=> (\S+)$/gm)];
  return (file) =>
    folders.map((folder) => `${folder}/${file}`).find(existsSync) ??
      known.find(([, name]) => name === file || name!.startsWith(`${file}.`))?.[2];
}
