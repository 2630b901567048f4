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
import { HybridseekError } from "../errors.ts";
import { buildNative, sourceFolder, sourcesHash, TOOLS, toolVersion } from "./native_build.ts";

/** Adds `hybridseek gpu build | doctor`. @param program To this program. */
export function addGpuCommand(program: Command): void {
  const gpu = program.command("gpu").description("The native library of backend ort-native.");
  gpu.command("build")
    .description("Build it with cmake, a C++ compiler and cargo.")
    .action(async () => {
      await buildNative();
      process.stdout.write(
        `${await libraryPath()}: CPU kernels (this version has no CUDA kernels)\n`,
      );
    });
  gpu.command("doctor")
    .description("Say what is there, what is missing, and what brings it.")
    .action(async () => {
      const { lines, usable } = await examine();
      process.stdout.write(lines.map(([name, text]) => `${name.padEnd(16)}${text}\n`).join(""));
      if (!usable) process.exitCode = 1;
    });
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
  const runtime = addon && await found(say, "onnxruntime", async () => {
    const runtime = await openOnnxRuntime(addon);
    say("onnxruntime", `${runtime.path}, version ${runtime.version}`);
    return runtime;
  });
  if (!addon) say("onnxruntime", "unknown: the native library opens it");
  for (const tool of TOOLS) {
    say(tool.name, toolVersion(tool) ?? `not found: ${BUILD_COMMAND} needs it; ${tool.advice}`);
  }
  const nvcc = { name: "nvcc", programs: ["nvcc"], advice: "" };
  say("CUDA compiler", toolVersion(nvcc) ?? "not found: this version builds no CUDA kernels");
  const paths = libraryPaths();
  for (const [name, file, absence] of LIBRARIES) {
    say(name, paths(file) ?? `${file} not found: ${absence}`);
  }
  return { lines, usable: runtime !== undefined };
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
