/**
 * What is published: JSR's checks pass, the package is small, and the portable core names no runtime.
 */
import { strict as assert } from "node:assert";
import { VERSION } from "../src/version.ts";

const repository = new URL("../", import.meta.url).pathname;
/** Half of what JSR takes. */
const MAX_PACKAGE_BYTES = 10_000_000;
const UNITS: Record<string, number> = { B: 1, KB: 1024, MB: 1024 ** 2 };

async function deno(args: string[]): Promise<{ success: boolean; output: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args,
    cwd: repository,
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  });
  const { success, stdout, stderr } = await command.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { success, output: text(stderr) + text(stdout) };
}

Deno.test("the version is that of deno.json", async () => {
  const config = JSON.parse(await Deno.readTextFile(`${repository}deno.json`));
  assert.equal(VERSION, config.version);
});

Deno.test("deno publish --dry-run passes and the package is below 10 MB", async () => {
  const { success, output } = await deno(["publish", "--dry-run", "--allow-dirty"]);
  assert(success, output);
  const files = [...output.matchAll(/file:\/\/\S*?\/(\S+) \(([\d.]+)(B|KB|MB)\)/g)];
  const bytes = files.reduce((sum, [, , size, unit]) => sum + Number(size) * UNITS[unit!]!, 0);
  assert(
    files.some(([line]) => line.includes("models/reference/model.onnx")),
    "the model is missing",
  );
  assert(!files.some(([line]) => line.includes("tests/")), "tests are published");
  assert(files.length > 50 && bytes < MAX_PACKAGE_BYTES, `${files.length} files, ${bytes} bytes`);
  console.log(`${files.length} files, ${(bytes / 1e6).toFixed(2)} MB`);
});

const TSC = ["run", "--allow-all", "npm:typescript@7.0.2/tsc"];

Deno.test("the portable core names no runtime: TypeScript without any runtime's types accepts it", async () => {
  const { success, output } = await deno([...TSC, "-p", "tsconfig.portable.json"]);
  assert(success, output);
});

Deno.test("the portable check sees a planted Deno.cwd()", async () => {
  const folder = await Deno.makeTempDir();
  const config = { extends: `${repository}tsconfig.portable.json`, files: ["planted.ts"] };
  await Deno.writeTextFile(`${folder}/tsconfig.json`, JSON.stringify(config));
  await Deno.writeTextFile(`${folder}/planted.ts`, "export const folder: string = Deno.cwd();\n");
  const { success, output } = await deno([...TSC, "-p", folder]);
  await Deno.remove(folder, { recursive: true });
  assert(!success);
  assert.match(output, /Cannot find name 'Deno'/);
});
