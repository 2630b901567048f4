/**
 * The bundled module in workerd, the runtime of Cloudflare Workers, which compiles no WebAssembly from bytes:
 * modules are passed in, the model comes over the network.
 */
import { strict as assert } from "node:assert";
import {
  bundleFolder,
  denoOutputs,
  needsRuntimes,
  repository,
  request,
  run,
  serveFolder,
} from "./runtimes.ts";

const MODULES = ["engine_relaxed", "tokenizer", "sampler"];

const WORKER = `
${MODULES.map((name) => `import ${name} from "${name}.wasm";`).join("\n")}
import { LLM, provideWasmModule } from "bundle.js";
const modules = { ${MODULES.join(", ")} };
for (const [name, module] of Object.entries(modules)) provideWasmModule(name, module);
export default {
  async fetch(request) {
    try {
      const { model, prompt, params } = await request.json();
      const llm = await LLM.open(model);
      const [result] = await llm.generate(prompt, params);
      await llm.close();
      return Response.json(result.outputs);
    } catch (error) {
      return new Response(error.stack, { status: 500 });
    }
  },
};`;

const configuration = (port: number) => `
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .worker),
    (name = "internet", network = (allow = ["public", "private"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const worker :Workerd.Worker = (
  compatibilityDate = "2026-11-01",
  modules = [
    (name = "worker.js", esModule = embed "worker.js"),
    (name = "bundle.js", esModule = embed "bundle.js"),
    ${
  MODULES.map((name) => `(name = "${name}.wasm", wasm = embed "${name}.wasm")`).join(",\n    ")
},
  ],
);`;

Deno.test(
  needsRuntimes("the bundle generates Deno's text in workerd with modules passed in"),
  async () => {
    const folder = await bundleFolder();
    await Deno.writeTextFile(`${folder}/worker.js`, WORKER);
    for (const name of MODULES) {
      await Deno.copyFile(`${repository}wasm/dist/${name}.wasm`, `${folder}/${name}.wasm`);
    }
    await Deno.writeTextFile(`${folder}/package.json`, '{ "private": true }');
    await run("npm", ["install", "--silent", "--no-audit", "workerd@1.20261117.1"], folder);
    const port = freePort();
    await Deno.writeTextFile(`${folder}/config.capnp`, configuration(port));
    const server = serveFolder(folder);
    const workerd = new Deno.Command(`${folder}/node_modules/.bin/workerd`, {
      args: ["serve", "config.capnp"],
      cwd: folder,
      stdout: "null",
      stderr: "inherit",
    }).spawn();
    try {
      const body = JSON.stringify({ model: `${server.address}/models/reference/`, ...request });
      const response = await post(`http://127.0.0.1:${port}/`, body);
      const text = await response.text();
      assert.equal(response.status, 200, text);
      assert.deepEqual(JSON.parse(text), await denoOutputs());
    } finally {
      workerd.kill("SIGKILL");
      await workerd.status;
      await server.close();
    }
  },
);

function freePort(): number {
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const { port } = listener.addr;
  listener.close();
  return port;
}

/** Posts as soon as the server listens. */
async function post(address: string, body: string): Promise<Response> {
  for (let attempt = 0;; attempt++) {
    try {
      return await fetch(address, { method: "POST", body });
    } catch (error) {
      if (attempt === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
