/**
 * What the tests in other runtimes share: whether they run, the text they must give, a bundle, a server.
 * @module
 */
import { strict as assert } from "node:assert";
import { LLM } from "../../mod.ts";
import { temporaryPath } from "../packages.ts";

/** The repository's folder. */
export const repository: string = new URL("../../", import.meta.url).pathname;

/** What every runtime is asked for. */
export const request = {
  prompt: "Once upon a time there was",
  params: { temperature: 0.7, seed: 5, maxTokens: 40 },
} as const;

const wanted = Deno.env.has("HYBRIDSEEK_RUNTIMES");

/** Ends a test's name with the reason where it is left out; `missing` is a reason of its own. */
export function needsRuntimes(name: string, missing?: string): { name: string; ignore: boolean } {
  const reason = wanted ? missing : "HYBRIDSEEK_RUNTIMES is not set";
  return { name: reason ? `${name} (ignored: ${reason})` : name, ignore: reason !== undefined };
}

/** What Deno generates. */
export async function denoOutputs(): Promise<unknown> {
  await using llm = await LLM.open();
  const [result] = await llm.generate(request.prompt, request.params);
  return result!.outputs;
}

/** Runs a program to its end. */
export async function run(
  program: string,
  args: string[],
  cwd: string,
  env: Record<string, string> = {},
): Promise<string> {
  const command = new Deno.Command(program, { args, cwd, env, stderr: "piped" });
  const { success, stdout, stderr } = await command.output();
  const text = new TextDecoder();
  assert(success, `${program} ${args.join(" ")}: ${text.decode(stderr)}${text.decode(stdout)}`);
  return text.decode(stdout);
}

/** A folder with mod.ts bundled for browsers, `bundle.js`. */
export async function bundleFolder(): Promise<string> {
  const folder = temporaryPath("bundle");
  await Deno.mkdir(folder);
  const args = ["bundle", "--quiet", "--platform", "browser", "--minify"];
  await run(Deno.execPath(), [...args, "--output", `${folder}/bundle.js`, "mod.ts"], repository);
  return folder;
}

/** What isolates a page, so that it may share memory with its workers. */
const ISOLATION = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

/**
 * Serves files: of a folder, and below /models/ those of the repository; isolated, but for addresses that end
 * in ?plain.
 */
export function serveFolder(folder: string): { address: string; close: () => Promise<void> } {
  const types: Record<string, string> = { html: "text/html", js: "text/javascript" };
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    async (incoming) => {
      const { pathname, search } = new URL(incoming.url);
      const path = (pathname.startsWith("/models/") ? repository : folder) + pathname;
      const body = await Deno.readFile(path).catch(() => undefined);
      if (!body) return new Response("none", { status: 404 });
      const type = types[path.split(".").at(-1)!] ?? "application/octet-stream";
      const isolation = search === "?plain" ? {} : ISOLATION;
      return new Response(body, { headers: { "content-type": type, ...isolation } });
    },
  );
  return { address: `http://127.0.0.1:${server.addr.port}`, close: () => server.shutdown() };
}
