/**
 * What `deno pack` makes, installed by npm, in Node 20, 22 and 26 and Bun: the same text as Deno, huge pages where
 * the runtime calls the system, and a command line that works.
 */
import { strict as assert } from "node:assert";
import { temporaryPath } from "../packages.ts";
import { start } from "../server/server_process.ts";
import { eventsOf } from "../server/serving.ts";
import { denoOutputs, needsRuntimes, repository, request, run } from "./runtimes.ts";

/** Each runtime's npm package and the program it brings. */
const runtimes = [
  { name: "Node 20", npm: "node@20", program: "node", build: "threads-simd", ffi: false },
  { name: "Node 22", npm: "node@22", program: "node", build: "threads-relaxed-simd", ffi: false },
  { name: "Node 26", npm: "node@26", program: "node", build: "threads-relaxed-simd", ffi: true },
  { name: "Bun", npm: "bun@1", program: "bun", build: "threads-relaxed-simd", ffi: true },
];

let tarball: Promise<string> | undefined;
/** The packed module, made once. */
function pack(): Promise<string> {
  const path = temporaryPath("hybridseek.tgz");
  const args = ["pack", "--allow-dirty", "--output", path];
  return tarball ??= run(Deno.execPath(), args, repository).then(() => path);
}

for (const { name, npm, program, build, ffi } of runtimes) {
  Deno.test(needsRuntimes(`the npm package generates Deno's text in ${name}`), async () => {
    const folder = temporaryPath("project");
    await Deno.mkdir(folder);
    await Deno.writeTextFile(`${folder}/package.json`, '{ "type": "module", "private": true }');
    await run("npm", ["install", "--silent", "--no-audit", await pack(), npm], folder);
    const { prompt, params } = request;
    await Deno.writeTextFile(
      `${folder}/generate.js`,
      `import { LLM } from "@hybridseek/hybridseek";
       import { Tokenizer } from "@hybridseek/hybridseek/tokenizer";
       import { Sampler } from "@hybridseek/hybridseek/sampling";
       import { exportCheckpoint } from "@hybridseek/hybridseek/export";
       if (!Tokenizer || !Sampler || !exportCheckpoint) throw new Error("an export is missing");
       const llm = await LLM.open();
       const [result] = await llm.generate(${JSON.stringify(prompt)}, ${JSON.stringify(params)});
       const choice = ["a red ball", "a blue kite"];
       const [chosen] = await llm.generate(${
        JSON.stringify(prompt)
      }, { structuredOutputs: { choice } });
       if (!choice.includes(chosen.outputs[0].text)) throw new Error(chosen.outputs[0].text);
       await llm.close();
       const threaded = await LLM.open(undefined, { threads: 2 });
       const [same] = await threaded.generate(${JSON.stringify(prompt)}, ${JSON.stringify(params)});
       const least = await LLM.open(undefined, { threads: 2, memoryBytes: 1 })
         .catch(({ message }) => Number(/it needs (\\d+) MiB/.exec(message)[1]) * 2 ** 20);
       const small = await LLM.open(undefined, { threads: 2, memoryBytes: least });
       const [again] = await small.generate(${JSON.stringify(prompt)}, ${JSON.stringify(params)});
       if (!(small.expertStats.evictions > 0)) throw new Error("all experts were in memory");
       await small.close();
       const huge = await LLM.open(undefined, { hugePages: true })
         .then((llm) => llm.info.hugePages, ({ name }) => name);
       // Not closed: workers at rest do not keep the process alive.
       const outputs = [result, same, again].map(({ outputs }) => outputs);
       console.log(JSON.stringify([...outputs, threaded.info.build, threaded.info.hugePages, huge]));`,
    );
    const binary = `${folder}/node_modules/.bin/${program}`;
    const want = await denoOutputs() as { text: string }[];
    const got = JSON.parse(await run(binary, ["generate.js"], folder));
    const huge = Deno.build.os === "linux" && ffi ? true : "UnsupportedError";
    assert.deepEqual(got, [want, want, want, build, false, huge]);

    const main = "node_modules/@hybridseek/hybridseek/src/cli/main.js";
    const args = ["generate", "-t", "0.7", "-s", "5", "-n", "40", prompt];
    assert.equal(await run(binary, [main, ...args], folder), `${prompt}${want[0]!.text}\n`);

    await using server = await start({ program: [binary, main], cwd: folder });
    const response = await fetch(`${server.address}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt, temperature: 0.7, seed: 5, max_tokens: 40, stream: true }),
    });
    server.child.kill("SIGTERM");
    const events = eventsOf(await response.text());
    const text = events.map(({ data }) => data.choices?.[0].text ?? "").join("");
    assert.equal(text, want[0]!.text);
    assert.equal((await server.child.status).code, 0);
  });
}
