/**
 * `deno task build:page [--check]`: bundles the chat page into `src/server/page_files.ts`, which the server
 * serves. With `--check` it fails where the committed file differs.
 * @module
 */

import { embed } from "../wasm/embed.ts";

const folder = new URL("./", import.meta.url).pathname;
const output = new URL("../src/server/page_files.ts", import.meta.url).pathname;

async function bundle(): Promise<string> {
  const args = ["bundle", "--quiet", "--platform", "browser", "--minify", "chat.ts"];
  const command = new Deno.Command(Deno.execPath(), { args, cwd: folder, stderr: "inherit" });
  const { success, stdout } = await command.output();
  if (!success) throw new Error("Cannot build the page: deno bundle failed.");
  return new TextDecoder().decode(stdout);
}

const files = {
  "index.html": await Deno.readTextFile(`${folder}index.html`),
  "page.css": await Deno.readTextFile(`${folder}page.css`),
  "page.js": await bundle(),
};
const packed = await Promise.all(
  Object.entries(files).map(async ([name, content]) =>
    `  "${name}":\n    "${await embed(new TextEncoder().encode(content))}",`
  ),
);
const text = [
  "// Built by `deno task build:page` from page/. Do not edit.",
  "",
  "/** The chat page's files, compressed by zlib, as base64. */",
  'export const pageFiles: Readonly<Record<"index.html" | "page.css" | "page.js", string>> = {',
  ...packed,
  "};",
  "",
].join("\n");

if (Deno.args.includes("--check")) {
  if (text !== await Deno.readTextFile(output)) {
    throw new Error(
      "src/server/page_files.ts is not what page/ gives: run `deno task build:page`.",
    );
  }
} else {
  await Deno.writeTextFile(output, text);
  console.log(`${output}: ${text.length} characters`);
}
