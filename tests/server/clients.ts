/**
 * Clients as their users have them: installed by npm into a folder of their own, run there by Deno.
 * @module
 */
import { temporaryPath } from "../packages.ts";
import { run } from "../runtimes/runtimes.ts";

/** Installs packages. @param packages Their names and versions. @returns The folder. */
export async function install(packages: readonly string[]): Promise<string> {
  const folder = temporaryPath("clients");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(`${folder}/package.json`, '{ "type": "module", "private": true }');
  await run("npm", ["install", "--silent", "--no-audit", "--no-fund", ...packages], folder);
  return folder;
}

/**
 * Runs a script of `tests/server/clients/` in a folder where its packages are installed.
 *
 * @param folder The folder.
 * @param script The script's name.
 * @param input What it reads as JSON from its first argument.
 * @returns What it prints. Throws with its error output if it fails.
 */
export async function runClient(folder: string, script: string, input: unknown): Promise<string> {
  const source = new URL(`./clients/${script}`, import.meta.url);
  await Deno.copyFile(source, `${folder}/${script}`);
  const args = ["run", "--quiet", "--allow-all", script, JSON.stringify(input)];
  return await run(Deno.execPath(), args, folder);
}
