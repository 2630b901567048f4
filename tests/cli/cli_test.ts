/**
 * The command line as a user meets it: a process of its own, with its output and exit code.
 */
import { strict as assert } from "node:assert";
import {
  checkpointOf,
  safetensorsOf,
  tinyConfig,
  tinyTensors,
} from "../export/checkpoint_files.ts";
import { checkpointFolder, temporaryPath } from "../packages.ts";
import { needs, needsShared } from "../shared.ts";

const main = new URL("../../src/cli/main.ts", import.meta.url).pathname;

function command(
  args: string[],
  stdin: "piped" | "null",
  env: Record<string, string> = {},
): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--allow-all", main, ...args], // quiet: no word of downloads
    env,
    stdin,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function run(args: string[], input?: string, env?: Record<string, string>) {
  const child = command(args, input === undefined ? "null" : "piped", env);
  if (input !== undefined) {
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(input));
    await writer.close();
  }
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

const STORY = "Once upon a time there was";

Deno.test("generate prints the prompt and its continuation", async () => {
  const { code, stdout, stderr } = await run(["generate", "-t", "0", "-n", "16", STORY]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^Once upon a time there was a .{20,}\n$/);
  assert.equal(stderr, "");
});

Deno.test("generate reads standard input, and --json prints one object", async () => {
  const args = ["generate", "-t", "0", "-n", "5", "--json", "--choices", "2", "--logprobs", "2"];
  const { code, stdout } = await run(args, STORY + "\n");
  assert.equal(code, 0);
  const result = JSON.parse(stdout);
  assert.equal(result.prompt, STORY);
  assert.equal(result.outputs.length, 2);
  assert.equal(result.outputs[1].tokenIds.length, 5);
  assert.equal(result.outputs[0].logprobs[0].top.length, 2);
  assert.equal(typeof result.seed, "number");
});

Deno.test("the same seed gives the same text", async () => {
  const args = ["generate", "-t", "1", "-n", "12", "-s", "9", STORY];
  assert.deepEqual(await run(args), await run(args));
});

Deno.test("--json-schema, as a file or a text, and --regex say what is written", async () => {
  const schema = JSON.stringify({ enum: ["boy", { girl: 1 }] });
  const file = temporaryPath("schema.json");
  await Deno.writeTextFile(file, schema);
  const args = ["generate", "--json", "-t", "0", "-n", "90", STORY];
  const written = async (...more: string[]) => {
    const { stdout, stderr } = await run([...args, ...more]);
    assert.equal(stderr, "");
    return JSON.parse(stdout).outputs[0].text;
  };
  const text = await written("--json-schema", file);
  assert(["boy", 1].includes(JSON.parse(text).girl ?? JSON.parse(text)));
  assert.equal(await written("--json-schema", schema), text);
  assert.match(await written("--regex", "[0-9]{3}"), /^[0-9]{3}$/);
  const { code, stderr } = await run([...args, "--regex", "(["]);
  assert.equal(code, 1);
  assert.match(stderr, /^error: Cannot use structuredOutputs: .*unclosed/);
  assert.equal((await run([...args, "--regex", "a", "--json-schema", file])).code, 2);
});

Deno.test("--stop takes one text each time, and leaves the prompt alone", async () => {
  const args = ["generate", "--json", "-t", "0", "-n", "24"];
  const [{ text }] = JSON.parse((await run([...args, STORY])).stdout).outputs;
  const [, second, third] = text.trim().split(" ");
  const { stdout } = await run([...args, "--stop", third, "--stop", second, STORY]);
  const { prompt, outputs: [stopped] } = JSON.parse(stdout);
  assert.equal(prompt, STORY);
  assert.equal(stopped.text, text.slice(0, text.indexOf(second)));
  assert.equal(stopped.stopReason, second);
});

Deno.test("output that nobody reads on ends the program without a word", async () => {
  const child = command(["generate", "-t", "0", "-n", "400", STORY], "null");
  const reader = child.stdout.getReader();
  await reader.read();
  await reader.cancel();
  const { code } = await child.status;
  assert.equal(await new Response(child.stderr).text(), "");
  assert.equal(code, 141);
});

Deno.test("chat answers one message from the arguments or standard input", async () => {
  const { code, stdout } = await run(["chat", "-t", "0", "Who are you?"]);
  assert.equal(code, 0);
  assert.match(stdout, /^\S.*\n$/);
  assert.equal((await run(["chat", "-t", "0"], "Who are you?\n")).stdout, stdout);
  const json = await run(["chat", "-t", "0", "--json", "--system", "Be brief.", "Who are you?"]);
  assert.match(JSON.parse(json.stdout).prompt, /Be brief\.\n\nUser: Who are you\?/);
});

Deno.test("inspect prints what the embedded model holds", async () => {
  const { code, stdout } = await run(["inspect"]);
  assert.equal(code, 0);
  assert.match(stdout, /architecture +deepseek_v2\n/);
  assert.match(stdout, /parameters +5\.2 M\n/);
  assert.match(
    stdout,
    /cache per token +1600 B \(latent\)\n +expanded K and V +9600 B .* 6\.0 x as much/,
  );
  const report = JSON.parse((await run(["inspect", "--json", "--context", "100"])).stdout);
  assert.equal(report.parameters, 5197184);
  assert.equal(report.layers, 5);
  assert.equal(report.expertLayers, 4);
  assert.equal(report.memory.contextLength, 100);
  const { weightBytes, cacheBytes, workBytes, totalBytes } = report.memory;
  assert.equal(weightBytes + cacheBytes + workBytes, totalBytes);
  const bytes: number[] = Object.values(report.bytesByType);
  assert.equal(bytes.reduce((sum, value) => sum + value), report.weightBytes);
});

Deno.test("bench measures prompts and tokens, as a table and as JSON", async () => {
  const args = ["bench", "-p", "8,40", "-n", "4", "-r", "2"];
  const { code, stdout, stderr } = await run(args);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^backend wasm, .*\n(.*\n)*prompt of 40 +\d/);
  assert.match(stdout, /tokens after 8 +\d/);
  const report = JSON.parse((await run([...args, "--json"])).stdout);
  assert.deepEqual(
    report.rows.map(({ work, prompt, tokens }: Record<string, unknown>) => [work, prompt, tokens]),
    [["prefill", 8, 8], ["decode", 8, 4], ["prefill", 40, 40], ["decode", 40, 4]],
  );
  for (const { tokensPerSecond, range: [slowest, fastest] } of report.rows) {
    assert(slowest > 0 && slowest <= tokensPerSecond && tokensPerSecond <= fastest);
  }
  assert.equal((await run(["bench", "-n", "0"])).code, 2);
  const long = await run(["bench", "-p", "4000"]);
  assert.equal(long.code, 1);
  assert.match(long.stderr, /contextLength is 4034, it can be 1 to 2048/);
});

Deno.test(needsShared("export makes a package that generate and inspect open"), async () => {
  const folder = temporaryPath("package");
  const exported = await run([
    ...["export", checkpointFolder("deepseek-v2"), folder],
    ...["--weights", "int4", "--json"],
  ]);
  assert.equal(exported.code, 0, exported.stderr);
  assert.equal(JSON.parse(exported.stdout).weights, "int4");
  const report = JSON.parse((await run(["inspect", folder, "--json"])).stdout);
  assert.equal(report.weights, "int4");
  // Without a tokenizer there is no text, and the error says what to do.
  const refused = await run(["generate", "-m", folder, "hello"]);
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /^wasm .*\nerror: Cannot turn text into tokens: the package has no tokenizer/,
  );
});

Deno.test("errors go to standard error with exit code 1, misuse with 2", async () => {
  const failures: [args: string[], code: number, message: RegExp][] = [
    [["generate", "-m", "/nowhere", "x"], 1, /^error: Cannot open \/nowhere: it has no manifest/],
    [["generate", "-t", "-1", "x"], 1, /^error: .*temperature/],
    [["generate", "-t", "hot", "x"], 2, /It must be a number/],
    [["generate", "--experts", "host", "x"], 2, /It must be gpu, cpu, or a number of layers/],
    [["generate", "--choices", "2", "x"], 2, /--choices needs --json/],
    [["generate", "--frobnicate"], 2, /unknown option '--frobnicate'/],
    [["frobnicate"], 2, /unknown command 'frobnicate'/],
    [["export", "/nowhere", temporaryPath("never-made")], 1, /^error: Cannot open .*config\.json/],
    [["export", "/nowhere"], 2, /missing required argument 'package'/],
    [["export", "a", "b", "--weights", "int3"], 2, /Allowed choices are f32, f16, int8, int4/],
    [["inspect", "--context", "0"], 1, /contextLength is 0, it can be 1 to 2048/],
  ];
  for (const [args, want, message] of failures) {
    const { code, stdout, stderr } = await run(args);
    assert.match(stderr, message, args.join(" "));
    assert.equal(code, want, args.join(" "));
    assert.equal(stdout, "", args.join(" "));
    assert(!stderr.includes("    at "), `a stack was printed: ${stderr}`);
  }
});

Deno.test("help names every command and option", async () => {
  const { code, stdout } = await run(["--help"]);
  assert.equal(code, 0);
  for (const name of ["generate", "chat", "export", "inspect", "bench"]) {
    assert.match(stdout, new RegExp(`  ${name} `));
    const help = await run([name, "--help"]);
    assert.equal(help.code, 0);
    assert.match(help.stdout, new RegExp(`^Usage: hybridseek ${name} `));
  }
});

Deno.test("Ctrl-C ends a text cleanly: what was written stays, the exit code is 130", async () => {
  const child = command(["generate", "-t", "1", "-n", "100000", STORY], "null");
  const reader = child.stdout.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (text.length < 60) {
    const { value, done } = await reader.read();
    assert(!done, "it ended by itself");
    text += decoder.decode(value, { stream: true });
  }
  child.kill("SIGINT");
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    text += decoder.decode(piece.value, { stream: true });
  }
  const stderr = await new Response(child.stderr).text();
  const { code } = await child.status;
  assert.equal(code, 130);
  assert.equal(stderr, "");
  assert(text.startsWith(STORY) && text.endsWith("\n"));
});

for (const [signal, want] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
  Deno.test(`${signal} ends an export and leaves nothing behind`, async () => {
    const vocabulary = 2 ** 20; // rows enough to be stopped at
    const large = { shape: [vocabulary, 8], values: new Float32Array(vocabulary * 8) };
    const tensors = new Map([
      ...tinyTensors(),
      ...["model.embed_tokens.weight", "lm_head.weight"].map((name) => [name, large] as const),
    ]);
    const checkpoint = await checkpointOf({
      "config.json": { ...tinyConfig, vocab_size: vocabulary },
      "model.safetensors": safetensorsOf(tensors),
    });
    const parent = temporaryPath("exports");
    await Deno.mkdir(parent);
    const present = () => Array.from(Deno.readDirSync(parent), ({ name }) => name);
    const child = command(["export", checkpoint, `${parent}/package`], "null");
    while (present().length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.match(present()[0]!, /^\.package\.partial-/);
    child.kill(signal);
    const { code, stderr } = await child.output();
    assert.equal(code, want, new TextDecoder().decode(stderr));
    assert.deepEqual(present(), []);
  });
}

Deno.test("a named model's memory is printed before it is loaded, and --memory bounds it", async () => {
  const model = new URL("../../models/reference", import.meta.url).pathname;
  const args = ["generate", "-t", "0", "-n", "3", "-m", model, "--threads", "2"];
  const { code, stderr } = await run([...args, "--cache-type", "bf16", STORY]);
  assert.equal(code, 0, stderr);
  assert.match(
    stderr,
    /^wasm \(threads-relaxed-simd\), 2 threads \(as asked for\): [\d.]+ MiB: .*weights [\d.]+ MiB, cache \(bf16\) [\d.]+ MiB.*\n$/,
  );
  const refused = await run([...args, "--memory", "5MB", STORY]);
  assert.equal(refused.code, 1);
  assert.equal(refused.stdout, "");
  assert.match(refused.stderr, /it needs \d+ MiB .*memoryBytes allows 5 MiB/);
  const misused = await run([...args, "--memory", "much", STORY]);
  assert.equal(misused.code, 2);
  assert.match(misused.stderr, /It must be a size, for example 4GB/);
});

Deno.test("gpu build without its tools names them and what brings them", async () => {
  const { code, stderr } = await run(["gpu", "build"], undefined, { PATH: "/nowhere" });
  assert.equal(code, 1);
  assert.match(stderr, /missing are cmake \(apt-get install cmake\), C\+\+ .*, cargo /);
});

Deno.test("gpu doctor without a native library says what builds it, and fails", async () => {
  const env = { PATH: "/nowhere", HYBRIDSEEK_NATIVE: "/nowhere/hybridseek.node" };
  const { code, stdout } = await run(["gpu", "doctor"], undefined, env);
  assert.equal(code, 1);
  assert.match(stdout, /^native library .*\/nowhere\/hybridseek\.node.*hybridseek gpu build/m);
  assert.match(stdout, /^cargo +not found: .*rustup/m);
  for (const line of ["onnxruntime", "cmake", "CUDA driver", "NCCL", "MPI"]) {
    assert(stdout.includes(`\n${line} `), line);
  }
});

Deno.test(
  needs("gpu doctor finds the native library and ONNX Runtime", { native: true }),
  async () => {
    const { code, stdout } = await run(["gpu", "doctor"]);
    assert.equal(code, 0, stdout);
    assert.match(stdout, /^native library .*built from these sources$/m);
    assert.match(stdout, /^onnxruntime .*libonnxruntime.*, version \d+\.\d+/m);
  },
);
