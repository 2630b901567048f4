/**
 * Huge pages: the system really maps them, nobody is asked for a permission, and where they can not be had a
 * model that wants them is refused.
 */
import { strict as assert } from "node:assert";
import type { OpenOptions } from "../../src/open_model.ts";

/** What keeps this system from giving huge pages to those who ask. */
function missing(): string | undefined {
  if (Deno.build.os !== "linux") return "no Linux";
  try {
    const setting = Deno.readTextFileSync("/sys/kernel/mm/transparent_hugepage/enabled").trim();
    return setting.includes("[madvise]") ? undefined : `transparent_hugepage is ${setting}`;
  } catch {
    return "no transparent huge pages";
  }
}

const reason = missing();
const left = reason ? ` (ignored: ${reason})` : "";

/** Opens the embedded model in a process with certain permissions. */
async function openWith(permissions: string[], options: OpenOptions) {
  const mod = new URL("../../mod.ts", import.meta.url).href;
  const program = `
    import { LLM } from ${JSON.stringify(mod)};
    const said = await LLM.open(undefined, ${JSON.stringify(options)}).then(
      ({ info: { hugePages, hugePagesReason } }) => ({ hugePages, hugePagesReason }),
      ({ name, message }) => ({ name, message }),
    );
    if (Deno.args[0]) {
      const mapped = /^AnonHugePages: +(\\d+) kB$/m.exec(Deno.readTextFileSync(Deno.args[0]))[1];
      said.mapped = Number(mapped) > 0;
    }
    console.log(JSON.stringify(said));`;
  const mapped = permissions.includes("--allow-all") ? ["/proc/self/smaps_rollup"] : [];
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", ...permissions, "-", ...mapped],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = command.stdin.getWriter();
  await writer.write(new TextEncoder().encode(program));
  await writer.close();
  const { stdout } = await command.output();
  return JSON.parse(new TextDecoder().decode(stdout));
}

for (const build of ["relaxed-simd", "threads-relaxed-simd", "memory64"] as const) {
  Deno.test({
    name: `${build} is mapped in huge pages, unless told not to${left}`,
    ignore: !!reason,
  }, async () => {
    for (const hugePages of [undefined, true]) {
      assert.deepEqual(await openWith(["--allow-all"], { build, hugePages }), {
        hugePages: true,
        hugePagesReason: "the system was asked for them",
        mapped: true,
      });
    }
    assert.deepEqual(await openWith(["--allow-all"], { build, hugePages: false }), {
      hugePages: false,
      hugePagesReason: "as asked for",
      mapped: false,
    });
  });
}

Deno.test(
  { name: `FFI that is not allowed is not asked for${left}`, ignore: !!reason },
  async () => {
    const permissions = ["--allow-read", "--allow-env"];
    assert.deepEqual(await openWith(permissions, {}), {
      hugePages: false,
      hugePagesReason: "FFI is not allowed (--allow-ffi)",
    });
    assert.deepEqual(await openWith(permissions, { hugePages: true }), {
      name: "UnsupportedError",
      message:
        "Cannot open the model with huge pages: FFI is not allowed (--allow-ffi); leave out hugePages.",
    });
    assert.equal((await openWith([...permissions, "--allow-ffi"], {})).hugePages, true);
  },
);
