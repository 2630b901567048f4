/**
 * What the tests of `gpu/` need, and what to say where it is missing.
 * @module
 */
import { buildEmulator, type Emulator } from "../../gpu/emulated.ts";
import { buildNative } from "../../src/cli/native_build.ts";
import { hasShared } from "../shared.ts";

/** A Python with numpy and ml_dtypes. */
export const python: string | undefined = Deno.env.get("HYBRIDSEEK_PYTHON");

function hasCommand(command: string): boolean {
  const probe = new Deno.Command("sh", { args: ["-c", `command -v ${command}`], stdout: "null" });
  return probe.outputSync().success;
}

const reasons: Record<"shared" | "build" | "cargo" | "python" | "nvcc", string | undefined> = {
  shared: hasShared ? undefined : "no ../shared",
  build: hasCommand("cmake") && hasCommand("g++") ? undefined : "no cmake or g++",
  cargo: hasCommand("cargo") ? undefined : "no cargo",
  python: python ? undefined : "HYBRIDSEEK_PYTHON is not set",
  nvcc: Deno.env.get("HYBRIDSEEK_GPU_TOOLCHAIN")
    ? undefined
    : "HYBRIDSEEK_GPU_TOOLCHAIN=1 is not set, which lets tests fetch nvcc and FlashInfer's headers from PyPI",
};

/** Ends a test's name with the reasons where it is left out. */
export function needs(
  name: string,
  ...what: (keyof typeof reasons)[]
): { name: string; ignore: boolean } {
  const missing = what.map((need) => reasons[need]).filter((reason) => reason !== undefined);
  const reason = missing.length > 0 ? ` (ignored: ${missing.join(", ")})` : "";
  return { name: name + reason, ignore: missing.length > 0 };
}

let built: Promise<Emulator> | undefined;

/** The emulator, built once in a run. */
export function emulator(): Promise<Emulator> {
  return built ??= buildEmulator();
}

let library: Promise<string> | undefined;

/** The library whose CUDA kernels serve CPU sessions, built once in a run. */
export function emulatedLibrary(): Promise<string> {
  return library ??= (async () => {
    const folder = `${(await emulator()).folder}/native`;
    await buildNative({ emulated: folder });
    return `${folder}/hybridseek.node`;
  })();
}

/** Runs a program, shows what it prints, and says whether it ended well. */
export async function succeeds(
  command: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<boolean> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args, env }).output();
  console.log(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr));
  return success;
}

/**
 * For FlashInfer's kernels of PagedAttention, which load no queries and keys beyond a batch's into shared
 * memory and compute with what is there: the executor fills it with -1e8, and results must be right.
 */
export const UNWRITTEN_ROWS = { HYBRIDSEEK_EMU_TOLERATE: "uninitialised read" };
