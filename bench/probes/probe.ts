/**
 * The limits of this machine, measured by a C program that is compiled when it is needed.
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
  const folder = await Deno.makeTempDir({ prefix: "hybridseek-probe-" });
  try {
    const source = new URL("probe.c", import.meta.url).pathname;
    const program = `${folder}/probe`;
    const flags = ["-O3", "-march=native", "-pthread"];
    await run("gcc", [...flags, source, "-o", program]);
    return JSON.parse(await run(program, [String(threads)]));
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
