/**
 * What `deno pack` makes, installed by npm, in Node 20, Node 22 and Bun: the same text as Deno, and a command
 * line that works. Runs where HYBRIDSEEK_RUNTIMES is set: it needs npm and downloads the runtimes.
 */
import { strict as assert } from "node:assert";
import { LLM } from "../../mod.ts";
import { temporaryPath } from "../packages.ts";

const wanted = Deno.env.has("HYBRIDSEEK_RUNTIMES");
const repository = new URL("../../", import.meta.url).pathname;
const PROMPT = "Once upon a time there was";
const PARAMS = { temperature: 0.7, seed: 5, maxTokens: 40 };

/** Each runtime's npm package and the program it brings. */
const runtimes = [
  { name: "Node 20", npm: "node@20", program: "node" },
  { name: "Node 22", npm: "node@22", program: "node" },
  { name: "Bun", npm: "bun@1", program: "bun" },
];

async function run(program: string, args: string[], cwd: string): Promise<string> {
  const command = new Deno.Command(program, { args, cwd, stderr: "piped" });
  const { success, stdout, stderr } = await command.output();
  const text = new TextDecoder();
  assert(success, `${program} ${args.join(" ")}: ${text.decode(stderr)}${text.decode(stdout)}`);
  return text.decode(stdout);
}

let tarball: Promise<string> | undefined;
/** The packed module, made once. */
function pack(): Promise<string> {
  const path = temporaryPath("hybridseek.tgz");
  const args = ["pack", "--allow-dirty", "--output", path];
  return tarball ??= run(Deno.execPath(), args, repository).then(() => path);
}

for (const { name, npm, program } of runtimes) {
  Deno.test({
    name: `the npm package generates Deno's text in ${name}` +
      (wanted ? "" : " (ignored: HYBRIDSEEK_RUNTIMES is not set)"),
    ignore: !wanted,
    async fn() {
      const folder = temporaryPath("project");
      await Deno.mkdir(folder);
      await Deno.writeTextFile(`${folder}/package.json`, '{ "type": "module", "private": true }');
      await run("npm", ["install", "--silent", "--no-audit", await pack(), npm], folder);
      await Deno.writeTextFile(
        `${folder}/generate.js`,
        `import { LLM } from "@hybridseek/hybridseek";
         import { Tokenizer } from "@hybridseek/hybridseek/tokenizer";
         import { exportCheckpoint } from "@hybridseek/hybridseek/export";
         if (!Tokenizer || !exportCheckpoint) throw new Error("an export is missing");
         const llm = await LLM.open();
         const [result] = await llm.generate(${JSON.stringify(PROMPT)}, ${JSON.stringify(PARAMS)});
         await llm.close();
         console.log(JSON.stringify(result.outputs));`,
      );
      const binary = `${folder}/node_modules/.bin/${program}`;
      await using llm = await LLM.open();
      const [want] = await llm.generate(PROMPT, PARAMS);
      assert.deepEqual(JSON.parse(await run(binary, ["generate.js"], folder)), want!.outputs);

      const main = "node_modules/@hybridseek/hybridseek/src/cli/main.js";
      const args = ["generate", "-t", "0.7", "-s", "5", "-n", "40", PROMPT];
      assert.equal(
        await run(binary, [main, ...args], folder),
        PROMPT + want!.outputs[0]!.text + "\n",
      );
    },
  });
}
