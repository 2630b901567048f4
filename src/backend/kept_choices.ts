/**
 * Which backend was the fastest, by package and machine: a file in the user's cache, `hybridseek/backends.json`.
 * Where there are no files, a choice is kept as long as the program runs.
 * @module
 */

/** Choices of this process, by key. */
const chosen = new Map<string, string>();

/** What is used of Node's modules. Not written into imports: bundlers for browsers leave them alone. */
const load = async (name: string) => await import(`node:${name}`);

/**
 * The choice that was made before.
 *
 * @param key What it depends on.
 * @returns It; `undefined` if none was.
 */
export async function keptChoice(key: string): Promise<string | undefined> {
  return chosen.get(key) ?? (await readFile())[key];
}

/**
 * Keeps a choice. That a file can not be written is no failure: the next program tries again.
 *
 * @param key What it depends on.
 * @param choice It.
 */
export async function keepChoice(key: string, choice: string): Promise<void> {
  chosen.set(key, choice);
  try {
    const { mkdir, rename, writeFile } = await load("fs/promises");
    const folder = await cacheFolder();
    const file = `${folder}/backends.json`;
    const text = JSON.stringify({ ...await readFile(), [key]: choice }, null, 1);
    await mkdir(folder, { recursive: true });
    // Whoever reads meanwhile finds the old file or the new one.
    const partial = `${file}.${crypto.randomUUID()}`;
    await writeFile(partial, text);
    await rename(partial, file);
  } catch {
    // no files here, or none that may be written
  }
}

/**
 * What tells this machine from others, as far as the speed of backends goes.
 *
 * @returns Processor, cores and runtime.
 */
export async function machineName(): Promise<string> {
  try {
    const { arch, cpus, platform } = await load("os");
    const all = cpus();
    return `${platform()} ${arch()}, ${all.length} x ${all[0]?.model ?? "?"}, ${runtimeName()}`;
  } catch {
    return runtimeName();
  }
}

function runtimeName(): string {
  return globalThis.navigator?.userAgent ?? "unknown runtime";
}

async function cacheFolder(): Promise<string> {
  const [{ homedir }, { default: process }] = await Promise.all(["os", "process"].map(load));
  return `${process.env.XDG_CACHE_HOME || `${homedir()}/.cache`}/hybridseek`;
}

async function readFile(): Promise<Record<string, string>> {
  try {
    const { readFile } = await load("fs/promises");
    const choices = JSON.parse(await readFile(`${await cacheFolder()}/backends.json`, "utf8"));
    return typeof choices === "object" && choices !== null ? choices : {};
  } catch {
    return {}; // there is none, or it is damaged: backends are tried again
  }
}
