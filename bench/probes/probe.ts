/**
 * The limits of this machine, measured by C programs that are compiled when they are needed.
 * @module
 */

/** Limits. */
export interface Limits {
  /** Threads that measured them. */
  threads: number;
  /** Memory read bandwidth with pages of 4 KB, 10^9 bytes a second. */
  readGBps4K: number;
  /** The same with pages of 2 MB where the system grants them. */
  readGBps2M: number;
  /** int8 products and sums of 128-bit pmaddubsw, 10^9 a second; 0 where there is no x86. */
  multiplyAddGops128: number;
  /** f32 products and sums at 128 bits, rounded apart, 10^9 a second; 0 where there is no x86. */
  floatGflops128: number;
}

/**
 * Measures the limits.
 *
 * @param threads How many threads.
 * @returns The limits; `undefined` without a C compiler, which is said on standard error.
 */
export async function probeLimits(threads: number): Promise<Limits | undefined> {
  return await probe("probe", [threads]) as Limits | undefined;
}

/** How fast fresh memory is written, 10^9 bytes a second. */
export interface FirstTouchRates {
  /** The first time; in a virtual machine the memory may have to come back from its host. */
  first: number;
  /** The best time. */
  best: number;
}

/**
 * Measures how fast memory is written for the first time.
 *
 * @param threads How many threads.
 * @param bytes How much.
 * @param hugePages Whether in pages of 2 MB, where the system grants them.
 * @returns The rates; `undefined` without a C compiler, which is said on standard error.
 */
export async function probeFirstTouch(
  threads: number,
  bytes: number,
  hugePages: boolean,
): Promise<FirstTouchRates | undefined> {
  const args = [threads, bytes, Number(hugePages)];
  return await probe("first_touch", args) as FirstTouchRates | undefined;
}

async function probe(name: string, args: number[]): Promise<unknown> {
  const folder = await Deno.makeTempDir({ prefix: "hybridseek-probe-" });
  try {
    const source = new URL(`${name}.c`, import.meta.url).pathname;
    const program = `${folder}/${name}`;
    const flags = ["-O3", "-march=native", "-pthread"];
    await run("gcc", [...flags, source, "-o", program]);
    return JSON.parse(await run(program, args.map(String)));
  } catch (error) {
    console.error(`No limits are shown: ${(error as Error).message}`);
    return undefined;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function run(program: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  if (success) return new TextDecoder().decode(stdout);
  throw new Error(`Cannot run ${program}: ${new TextDecoder().decode(stderr)}`);
}
