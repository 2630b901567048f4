/**
 * What a bench ran on, for its JSON lines.
 * @module
 */

/** CPU model, the flags that matter to kernels, cores and runtime. @returns Fields of a JSON line. */
export function machine(): Record<string, unknown> {
  let info = "";
  try {
    info = Deno.readTextFileSync("/proc/cpuinfo");
  } catch {
    // Not Linux: the architecture must do.
  }
  const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, "m").exec(info)?.[1] ?? "";
  const flags = field("flags").split(" ");
  return {
    cpu: field("model name") || Deno.build.arch,
    flags: flags.filter((flag) => /^(avx2|fma|avx512(f|_vnni)|avx_vnni|asimddp)$/.test(flag)),
    cores: navigator.hardwareConcurrency,
    deno: Deno.version.deno,
    v8: Deno.version.v8,
  };
}
