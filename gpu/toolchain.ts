/**
 * The compiler of the CUDA kernels: nvcc, its headers and FlashInfer's headers, from the wheels of
 * `toolchain.txt`, whose hashes pip compares. They are unpacked once into a folder of the user's cache.
 *
 * `deno run -A gpu/toolchain.ts` fetches them and prints where they are. Needs python3 with pip; about
 * 200 MB are downloaded and 400 MB kept. NVIDIA's wheels come under NVIDIA's licence: nothing of them is
 * part of this repository.
 * @module
 */

/** Where the parts of the toolchain are. */
export interface Toolchain {
  /** Folder of the toolkit, as CUDA_HOME. */
  cudaHome: string;
  /** The compiler. */
  nvcc: string;
  /** Include folders of FlashInfer and what it needs. */
  includes: string[];
}

const requirements = new URL("toolchain.txt", import.meta.url);
/** Unpacks the parts of a wheel that are named by their beginnings. */
const UNPACK = `
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
for name in archive.namelist():
    if name.startswith(tuple(sys.argv[3:])):
        archive.extract(name, sys.argv[2])
`;

/** Runs a command and fails with what it wrote. */
export async function run(
  command: string,
  args: string[],
  options: Deno.CommandOptions = {},
): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { ...options, args })
    .output();
  const text = new TextDecoder().decode(stdout);
  if (!success) {
    const reason = new TextDecoder().decode(stderr);
    throw new Error(`${command} ${args.join(" ")} failed:\n${text}${reason}`);
  }
  return text;
}

/** The sha256 of some bytes, in hexadecimal digits. */
export async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", bytes.slice());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The folder for what is fetched and built: HYBRIDSEEK_GPU_CACHE, or one in the user's cache. */
export function gpuCache(): string {
  const given = Deno.env.get("HYBRIDSEEK_GPU_CACHE");
  if (given) return given;
  const cache = Deno.env.get("XDG_CACHE_HOME") ?? `${Deno.env.get("HOME")}/.cache`;
  return `${cache}/hybridseek/gpu`;
}

/** Gives the toolchain, which is fetched where the cache does not have it. */
export async function toolchain(): Promise<Toolchain> {
  const hash = (await sha256(await Deno.readFile(requirements))).slice(0, 16);
  const folder = `${gpuCache()}/toolchain-${hash}`;
  const found = await Deno.stat(folder).catch(() => undefined);
  if (!found) await fetchInto(folder);
  const flashinfer = `${folder}/flashinfer/flashinfer/data`;
  const cudaHome = `${folder}/cuda/nvidia/cu13`;
  return {
    cudaHome,
    nvcc: `${cudaHome}/bin/nvcc`,
    includes: ["include", "cutlass/include", "spdlog/include"].map((name) =>
      `${flashinfer}/${name}`
    ),
  };
}

/** Fetches beside the folder and moves there at the end, so that what is there is whole. */
async function fetchInto(folder: string): Promise<void> {
  await Deno.mkdir(gpuCache(), { recursive: true });
  const work = await Deno.makeTempDir({ dir: gpuCache() });
  try {
    const pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"];
    const file = requirements.pathname;
    await run("python3", [
      ...[...pip, "download", "--no-deps", "--require-hashes", "--only-binary=:all:"],
      ...["-r", file, "-d", `${work}/wheels`],
    ]);
    for await (const { name } of Deno.readDir(`${work}/wheels`)) {
      const wheel = `${work}/wheels/${name}`;
      if (name.startsWith("flashinfer")) {
        const parts = ["include/", "cutlass/include/", "spdlog/include/"];
        const beginnings = parts.map((part) => `flashinfer/data/${part}`);
        await run("python3", ["-c", UNPACK, wheel, `${work}/flashinfer`, ...beginnings]);
      } else {
        await run("python3", ["-c", UNPACK, wheel, `${work}/cuda`, "nvidia/"]);
      }
    }
    // A zip's rights are not kept by Python.
    for (const bin of ["bin", "nvvm/bin"]) {
      for await (const { name, isFile } of Deno.readDir(`${work}/cuda/nvidia/cu13/${bin}`)) {
        if (isFile) await Deno.chmod(`${work}/cuda/nvidia/cu13/${bin}/${name}`, 0o755);
      }
    }
    await Deno.remove(`${work}/wheels`, { recursive: true });
    await Deno.rename(work, folder);
  } catch (error) {
    await Deno.remove(work, { recursive: true }).catch(() => {});
    throw error;
  }
}

if (import.meta.main) console.log(JSON.stringify(await toolchain(), null, 2));
