/**
 * Models on several ranks give the greedy tokens of the goldens: heads divided or sequences, over TCP, MPI and the
 * emulated NCCL, on one host and on two; and a rank that dies ends the step of all.
 */
import { strict as assert } from "node:assert";
import { FolderSource } from "../../src/files/folder_source.ts";
import { LLM } from "../../src/llm.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import { BackendError, type HybridseekError, UnsupportedError } from "../../src/errors.ts";
import { emulator, needs as needsTools } from "../gpu/gpu.ts";
import { packageOf, temporaryPath } from "../packages.ts";
import { needsShared, readShared } from "../shared.ts";

interface Golden {
  prompts: { input_ids: number[]; greedy: number[] }[];
}

/** What rank_program.ts prints. */
interface Printed {
  tokens?: number[][];
  build?: string;
  error?: { name: string; code: string; message: string };
}

const program = new URL("rank_program.ts", import.meta.url).pathname;
const run = ["run", "--quiet", "--allow-all", program];
/** Longest time after which a test says that something hangs, milliseconds. */
const HANGS_MS = 120_000;
const CONTEXT = { contextLength: 256, cacheTokens: 1024 };

function goldenOf(name: string): Golden {
  return JSON.parse(readShared(`fixtures/${name}/golden.json`));
}

const native = (name: string) => needsShared(name, "ort-native");

/** What a command lacks here; `undefined` if nothing. */
function missing(command: string, args: string[], reason: string): string | undefined {
  try {
    const { success } = new Deno.Command(command, { args, stdout: "null", stderr: "null" })
      .outputSync();
    return success ? undefined : reason;
  } catch {
    return reason;
  }
}

/** A test's name, ending with the reason where it is left out. */
function unless(test: { name: string; ignore: boolean }, ...reasons: (string | undefined)[]) {
  const reason = reasons.find((one) => one !== undefined);
  if (test.ignore || reason === undefined) return test;
  return { name: `${test.name} (ignored: ${reason})`, ignore: true };
}

const noMpi = missing("mpirun", ["--version"], "no mpirun; apt-get install openmpi-bin");

/** A model and prompts for rank_program.ts. */
async function inputsOf(name: string, options: OpenOptions): Promise<string[]> {
  const prompts = temporaryPath("prompts.json");
  const tokenIds = goldenOf(name).prompts.map(({ input_ids }) => input_ids);
  Deno.writeTextFileSync(prompts, JSON.stringify(tokenIds));
  const folder = await packageOf(name, { weights: "f32" });
  return [folder, prompts, JSON.stringify({ ...CONTEXT, ...options })];
}

function checkTokens(name: string, { tokens, error }: Printed) {
  assert.equal(error, undefined, error?.message);
  assert.deepEqual(tokens, goldenOf(name).prompts.map(({ greedy }) => greedy));
}

/** Starts a program; it does not outlive the test. */
function start(command: string, args: string[], env: Record<string, string> = {}) {
  const child = new Deno.Command(command, { args, env, stdout: "piped", stderr: "piped" }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), HANGS_MS);
  let said = "";
  let begin: () => void;
  /** When it says that it begins, or ends. */
  const begun = new Promise<void>((resolve) => begin = resolve);
  const listen = async () => {
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      if (said.includes("begins")) begin();
    }
    begin();
  };
  const ended = Promise.all([child.status, new Response(child.stdout).text(), listen()])
    .then(([{ code }, out]) => {
      clearTimeout(timer);
      return { code, out, said };
    });
  return { pid: child.pid, begun, ended };
}

async function printed(command: string, args: string[], env: Record<string, string> = {}) {
  const { code, out, said } = await start(command, args, env).ended;
  assert.equal(code, 0, out + said);
  return JSON.parse(out) as Printed;
}

// ---- ranks that rank 0 starts on this machine

const divided: [name: string, ranks: number, dataParallelAttention: boolean][] = [
  ["deepseek-v2-wide", 2, false],
  ["deepseek-v2-wide", 4, false],
  ["deepseek-v2-wide", 8, false],
  ["deepseek-v2-wide", 2, true],
  ["deepseek-v2-wide", 4, true],
  ["deepseek-v2-wide", 8, true],
  ["deepseek-v2", 4, false],
  ["deepseek-v2", 2, true],
  ["deepseek-v2-lite", 2, false],
  ["deepseek-v2-lite", 4, true],
  ["deepseek-moe", 4, false],
  ["deepseek-moe", 2, true],
  ["deepseek-llm-mha", 4, false],
  ["deepseek-llm-gqa", 2, false],
  ["deepseek-llm-gqa", 4, true],
];

for (const [name, tensorParallel, dataParallelAttention] of divided) {
  const what = dataParallelAttention ? "sequences divided" : "heads divided";
  Deno.test(
    native(`${name} on ${tensorParallel} ranks, ${what}: the goldens' tokens`),
    async () => {
      const { prompts } = goldenOf(name);
      const folder = await packageOf(name, { weights: "f32" });
      await using llm = await LLM.open(folder, {
        ...{ backend: "ort-native", tensorParallel, dataParallelAttention, ...CONTEXT },
      });
      const params = { temperature: 0, maxTokens: 32, ignoreEos: true };
      const ask = async (asked: Golden["prompts"]) => {
        const ids = asked.map(({ input_ids }) => ({ promptTokenIds: input_ids }));
        const results = await llm.generate(ids, params);
        assert.deepEqual(
          results.map(({ outputs }) => outputs[0]!.tokenIds),
          asked.map(({ greedy }) => greedy),
        );
      };
      await ask(prompts); // more sequences than ranks, of several lengths
      await ask(prompts.slice(1, 2)); // one: with sequences divided, all other ranks idle
    },
  );
}

Deno.test(native("ranks: choices, saved caches and chunks of prompts as on one rank"), async () => {
  for (
    const [name, dataParallelAttention] of [["deepseek-llm-mha", false], [
      "deepseek-v2-wide",
      true,
    ]] as const
  ) {
    const folder = await packageOf(name, { weights: "f32" });
    const options = { backend: "ort-native", maxNumBatchedTokens: 24, ...CONTEXT } as const;
    await using one = await LLM.open(folder, options);
    await using two = await LLM.open(folder, {
      ...options,
      tensorParallel: 2,
      dataParallelAttention,
    });
    const prompt = { promptTokenIds: Array.from({ length: 75 }, (_, i) => (i * 37 + 5) % 512) };
    const params = { temperature: 0.8, seed: 7, n: 3, maxTokens: 20, ignoreEos: true };
    const tokens = async (llm: LLM) => {
      const [result] = await llm.generate(prompt, params);
      return result!.outputs.map(({ tokenIds }) => tokenIds);
    };
    assert.deepEqual(await tokens(two), await tokens(one), name);

    const file = await two.saveCache(prompt);
    await using other = await LLM.open(folder, {
      ...options,
      tensorParallel: 2,
      dataParallelAttention,
    });
    assert.equal(await other.loadCache(file), 64);
    const [result] = await other.generate(prompt, { ...params, n: 1 });
    assert.equal(result!.cachedTokens, 64);
    assert.deepEqual(result!.outputs[0]!.tokenIds, (await tokens(one))[0], name);
    // Latents are on every rank: such a file fits one rank as well.
    if (dataParallelAttention) assert.equal(await one.loadCache(file), 64);
    else await assert.rejects(one.loadCache(file), { name: "InvalidFileError" });
  }
});

Deno.test(native("a rank reads its own slices of the data files and nothing else"), async () => {
  const folder = await packageOf("deepseek-v2-wide", { weights: "f32" });
  const read = FolderSource.prototype.readInto;
  let bytes = 0;
  FolderSource.prototype.readInto = function (name, offset, into, signal) {
    if (name.endsWith(".data")) bytes += into.length;
    return read.call(this, name, offset, into, signal);
  };
  try {
    let planned = 0;
    await using llm = await LLM.open(folder, {
      ...{ backend: "ort-native", tensorParallel: 4, ...CONTEXT },
      onPlan: (info) => planned = info.bytes.weights!,
    });
    // sharding_test.ts shows that the slices are of one rank each. What is mapped is not read here: these are
    // experts, compared with their hashes, and pieces of rows.
    assert(bytes > 0 && bytes < planned, `${bytes} of ${planned}`);
    assert.match(llm.info.build, /4 ranks over sockets/);
  } finally {
    FolderSource.prototype.readInto = read;
  }
});

Deno.test(native("what ranks can not do is refused before any is started"), async () => {
  const folder = await packageOf("deepseek-v2-lite", { weights: "f32" });
  const refused = async (options: OpenOptions, reason: RegExp) =>
    await assert.rejects(
      LLM.open(folder, { backend: "ort-native", ...options }),
      (error: HybridseekError) => reason.test(error.message),
    );
  await refused({ tensorParallel: 3 }, /4 attention heads do not divide evenly/);
  await refused({ tensorParallel: 0 }, /tensorParallel is 0, it can be 1 to 64/);
  await refused({ dataParallelAttention: true }, /needs tensorParallel above 1/);
  await refused({ backend: "wasm", tensorParallel: 2 }, /backend wasm computes in one process/);
});

Deno.test(native("a rank that can not open its part is named, and none is left"), async () => {
  const inputs = await inputsOf("deepseek-v2-lite", { tensorParallel: 2 });
  const env = { HYBRIDSEEK_NCCL: "/nowhere/libnccl.so.2" };
  const { out } = await start(Deno.execPath(), [...run, ...inputs], env).ended;
  const { error } = JSON.parse(out) as Printed;
  assert.equal(error!.code, "backend_failed");
  assert.match(error!.message, /nowhere\/libnccl\.so\.2/);
});

// ---- NCCL

const withNccl = needsTools("ranks on the emulated NCCL: the goldens' tokens", "build");
Deno.test(withNccl.ignore ? withNccl : native(withNccl.name), async () => {
  const { nccl } = await emulator();
  const name = "deepseek-v2-wide";
  for (
    const [tensorParallel, dataParallelAttention] of [[2, false], [4, true], [8, false]] as const
  ) {
    const inputs = await inputsOf(name, { tensorParallel, dataParallelAttention });
    const result = await printed(Deno.execPath(), [...run, ...inputs], { HYBRIDSEEK_NCCL: nccl });
    checkTokens(name, result);
    assert.match(result.build!, /over sockets and nccl/);
  }
});

// ---- launchers

/** mpirun as root, with more ranks than cores. */
function mpi(ranks: number, inputs: string[], ...options: string[]): string[] {
  return [
    ...["--allow-run-as-root", "--oversubscribe", "-n", `${ranks}`, ...options],
    ...[Deno.execPath(), ...run, ...inputs],
  ];
}

for (const ranks of [2, 4, 8]) {
  for (const dataParallelAttention of [false, true]) {
    const what = dataParallelAttention ? "sequences divided" : "heads divided";
    const test = native(`${ranks} ranks of Open MPI's mpirun, ${what}: the goldens' tokens`);
    Deno.test(unless(test, noMpi), async () => {
      const name = "deepseek-v2-wide";
      const inputs = await inputsOf(name, { tensorParallel: ranks, dataParallelAttention });
      const result = await printed("mpirun", mpi(ranks, inputs));
      checkTokens(name, result);
      assert.match(result.build!, /over mpi/);
    });
  }
}

Deno.test(native("ranks join by torchrun's and by Slurm's variables"), async () => {
  const name = "deepseek-v2-lite";
  const inputs = await inputsOf(name, { tensorParallel: 2 });
  const port = 30_000 + Deno.pid % 10_000;
  const launchers: ((rank: number) => Record<string, string>)[] = [
    (rank) => ({
      ...{ RANK: `${rank}`, WORLD_SIZE: "2", MASTER_ADDR: "localhost", MASTER_PORT: `${port}` },
    }),
    (rank) => ({
      ...{ SLURM_PROCID: `${rank}`, SLURM_NTASKS: "2", SLURM_JOB_ID: `${port}` },
      ...{ SLURM_STEP_NODELIST: "localhost", SLURM_STEP_NUM_NODES: "1" },
    }),
  ];
  for (const launcher of launchers) {
    const all = [0, 1].map((rank) => start(Deno.execPath(), [...run, ...inputs], launcher(rank)));
    const [first, second] = await Promise.all(all.map(({ ended }) => ended));
    assert.equal(second!.code, 0, second!.said);
    checkTokens(name, JSON.parse(first!.out));
  }
  // One rank more than the launcher has started.
  const wrong = await inputsOf(name, { tensorParallel: 4 });
  const { out } = await start(Deno.execPath(), [...run, ...wrong], launchers[0]!(0)).ended;
  assert.match(
    (JSON.parse(out) as Printed).error!.message,
    /tensorParallel is 4, the launcher has started 2/,
  );
});

Deno.test(
  unless(native("the command line starts ranks, and joins those of mpirun"), noMpi),
  async () => {
    const main = new URL("../../src/cli/main.ts", import.meta.url).pathname;
    const generate = [...[
      "generate",
      "--backend",
      "ort-native",
      "-t",
      "0",
      "-n",
      "12",
      "Once upon a time",
    ]];
    const deno = [Deno.execPath(), "run", "--quiet", "--allow-all", main, ...generate];
    const textOf = async (command: string, args: string[]) => {
      const { code, out, said } = await start(command, args).ended;
      assert.equal(code, 0, said);
      return out;
    };
    const want = await textOf(deno[0]!, deno.slice(1));
    assert.equal(await textOf(deno[0]!, [...deno.slice(1), "--ranks", "2"]), want);
    const divided = [...deno, "--ranks", "3", "--data-parallel-attention"];
    const mpirun = ["--allow-run-as-root", "--oversubscribe", "-n", "3", ...divided];
    assert.equal(await textOf("mpirun", mpirun), want);
  },
);

const noNamespaces = Deno.build.os !== "linux" ? "network namespaces are Linux'" : missing(
  "sh",
  ["-c", "ip netns add hybridseek-probe && ip netns del hybridseek-probe"],
  "network namespaces can not be made here; run as root with iproute2",
);

Deno.test(
  unless(
    native("two hosts, as network namespaces, over MPI and over TCP: the goldens' tokens"),
    noMpi,
    noNamespaces,
  ),
  async () => {
    const id = `hs${Deno.pid}`;
    const [one, two] = [`${id}a`, `${id}b`];
    const sh = (script: string) => {
      const { success, stderr } = new Deno.Command("sh", { args: ["-ec", script] }).outputSync();
      assert(success, new TextDecoder().decode(stderr));
    };
    try {
      sh(`
        ip netns add ${one}; ip netns add ${two}
        ip link add ${one} netns ${one} type veth peer name ${two} netns ${two}
        ip -n ${one} addr add 10.77.0.1/24 dev ${one}; ip -n ${two} addr add 10.77.0.2/24 dev ${two}
        for host in ${one} ${two}; do ip -n $host link set lo up; ip -n $host link set $host up; done
      `);
      const name = "deepseek-v2-wide";
      const inputs = await inputsOf(name, { tensorParallel: 2, dataParallelAttention: true });

      // mpirun reaches the other host by a command that enters its namespace.
      const agent = temporaryPath("agent");
      Deno.writeTextFileSync(
        agent,
        `#!/bin/sh\nshift\ntouch ${agent}.used\nexec ip netns exec ${two} sh -c "$*"\n`,
        { mode: 0o755 },
      );
      const options = [
        ...["--host", "10.77.0.1:1,10.77.0.2:1", "--mca", "plm_rsh_agent", agent],
        ...["--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "10.77.0.0/24"],
        ...["--mca", "oob_tcp_if_include", "10.77.0.0/24", "-x", "PATH", "-x", "HOME"],
        ...["--mca", "orte_keep_fqdn_hostnames", "1"],
      ];
      const result = await printed("ip", [
        ...["netns", "exec", one, "mpirun", ...mpi(2, inputs, ...options)],
      ]);
      checkTokens(name, result);
      assert.match(result.build!, /over mpi/);
      assert(Deno.statSync(`${agent}.used`).isFile, "rank 1 was on the same host");

      const all = [one, two].map((host, rank) =>
        start("ip", ["netns", "exec", host, Deno.execPath(), ...run, ...inputs], {
          ...{ RANK: `${rank}`, WORLD_SIZE: "2", MASTER_ADDR: "10.77.0.1", MASTER_PORT: "29400" },
          HYBRIDSEEK_RANKS_KEY: "two hosts",
        })
      );
      const [first, second] = await Promise.all(all.map(({ ended }) => ended));
      assert.equal(second!.code, 0, second!.said);
      checkTokens(name, JSON.parse(first!.out));
    } finally {
      for (const host of [one, two]) {
        new Deno.Command("ip", { args: ["netns", "del", host], stderr: "null" }).outputSync();
      }
    }
  },
);

// ---- ranks that die

/** The process of a rank among the descendants of another. */
function rankOf(parent: number, variable: string, rank: number): number | undefined {
  const children = [parent];
  for (const pid of children) {
    try {
      const environment = Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0");
      if (pid !== parent && environment.includes(`${variable}=${rank}`)) return pid;
      for (const task of Deno.readDirSync(`/proc/${pid}/task`)) {
        const text = Deno.readTextFileSync(`/proc/${pid}/task/${task.name}/children`);
        children.push(...text.split(" ").filter((word) => word !== "").map(Number));
      }
    } catch {
      continue; // it has ended
    }
  }
  return undefined;
}

/** Whether a process has ended, waited for or not. */
function hasEnded(pid: number): boolean {
  try {
    return /^State:\tZ/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return true;
  }
}

const linux = Deno.build.os === "linux" ? undefined : "it looks into /proc";

/** The process of a rank in the middle of its work. */
async function computing(
  all: ReturnType<typeof start>,
  variable: string,
  rank: number,
): Promise<number> {
  await all.begun;
  await new Promise((resolve) => setTimeout(resolve, 200));
  return rankOf(all.pid, variable, rank)!;
}

/** Work that goes on until a rank fails. */
async function endlessInputs(options: OpenOptions): Promise<string[]> {
  return [...await inputsOf("deepseek-v2-wide", options), "forever"];
}

Deno.test(
  unless(
    native("a killed rank ends the step of all with a typed error, and no process is left"),
    linux,
  ),
  async () => {
    for (const dataParallelAttention of [false, true]) {
      const inputs = await endlessInputs({ tensorParallel: 4, dataParallelAttention });
      const all = start(Deno.execPath(), [...run, ...inputs]);
      const victim = await computing(all, "RANK", 2);
      const others = [1, 3].map((rank) => rankOf(all.pid, "RANK", rank)!);
      Deno.kill(victim, "SIGKILL");
      const { code, out, said } = await all.ended;
      const { error } = JSON.parse(out) as Printed;
      assert.equal(code, 0); // rank 0 has printed the error that it caught
      assert.equal(error!.name, "BackendError");
      assert.equal(error!.code, "backend_failed");
      // A rank in the middle of a long message can not say whom it has missed.
      assert.match(error!.message, /rank \d is gone/);
      for (const rank of [1, 3]) assert.match(said, new RegExp(`rank ${rank}: .*rank \\d is gone`));
      assert.match(said + out, /rank 2 is gone/);
      for (const pid of others) assert(hasEnded(pid), `process ${pid} goes on`);
    }
  },
);

Deno.test(
  unless(native("a rank that stands still ends the step when the time is over"), linux),
  async () => {
    const inputs = await endlessInputs({ tensorParallel: 2 });
    const all = start(Deno.execPath(), [...run, ...inputs], { HYBRIDSEEK_RANKS_TIMEOUT: "1500" });
    const victim = await computing(all, "RANK", 1);
    Deno.kill(victim, "SIGSTOP");
    const { out } = await all.ended;
    const { error } = JSON.parse(out) as Printed;
    assert.equal(error!.name, "BackendError");
    assert.match(error!.message, /rank 1 did not answer within 1500 ms/);
  },
);

Deno.test(unless(native("when rank 0 is killed the others end"), linux), async () => {
  const inputs = await endlessInputs({ tensorParallel: 4 });
  const all = start(Deno.execPath(), [...run, ...inputs]);
  await computing(all, "RANK", 3);
  const others = [1, 2, 3].map((rank) => rankOf(all.pid, "RANK", rank)!);
  Deno.kill(all.pid, "SIGKILL");
  const { said } = await all.ended; // ends when the others have closed what they inherited
  for (const rank of [1, 2, 3]) assert.match(said, new RegExp(`rank ${rank}: .* is gone`));
  for (const pid of others) assert(hasEnded(pid), `process ${pid} goes on`);
});

Deno.test(unless(native("a killed rank of mpirun ends the job"), linux, noMpi), async () => {
  const inputs = await endlessInputs({ tensorParallel: 4 });
  const all = start("mpirun", mpi(4, inputs));
  const victim = await computing(all, "OMPI_COMM_WORLD_RANK", 2);
  Deno.kill(victim, "SIGKILL");
  const { code, said } = await all.ended;
  assert.notEqual(code, 0);
  assert.match(said, /signal 9/);
});

Deno.test(
  unless(native("where mpirun lets the others live, they end with a typed error"), linux, noMpi),
  async () => {
    const inputs = await endlessInputs({ tensorParallel: 4 });
    const env = { HYBRIDSEEK_RANKS_TIMEOUT: "1500" };
    const all = start("mpirun", mpi(4, inputs, "--enable-recovery"), env);
    const victim = await computing(all, "OMPI_COMM_WORLD_RANK", 2);
    Deno.kill(victim, "SIGKILL");
    const { out, said } = await all.ended;
    const { error } = JSON.parse(out) as Printed;
    assert.equal(error!.name, "BackendError");
    for (const rank of [1, 3]) assert.match(said, new RegExp(`rank ${rank}: BackendError: `));
  },
);

Deno.test(native("a model opens again after its ranks failed"), async () => {
  const folder = await packageOf("deepseek-v2-lite", { weights: "f32" });
  const options: OpenOptions = { backend: "ort-native", tensorParallel: 2, ...CONTEXT };
  const prompt = { promptTokenIds: [1, 2, 3] };
  const llm = await LLM.open(folder, options);
  await llm.generate(prompt, { maxTokens: 2 });
  const victim = rankOf(Deno.pid, "RANK", 1)!;
  Deno.kill(victim, "SIGKILL");
  await assert.rejects(llm.generate(prompt, { maxTokens: 8 }), BackendError);
  await assert.rejects(llm.generate(prompt, { maxTokens: 8 }), BackendError);
  await llm.close();
  await using again = await LLM.open(folder, options);
  const [result] = await again.generate(prompt, { maxTokens: 8, ignoreEos: true });
  assert.equal(result!.outputs[0]!.tokenIds.length, 8);
});

Deno.test(native("a process that is another rank does not open the model"), async () => {
  const folder = await packageOf("deepseek-v2-lite", { weights: "f32" });
  const variables = { RANK: "1", WORLD_SIZE: "2", MASTER_PORT: "29999" };
  for (const [name, value] of Object.entries(variables)) Deno.env.set(name, value);
  try {
    await assert.rejects(
      LLM.open(folder, { backend: "ort-native", tensorParallel: 2 }),
      (error: Error) =>
        error instanceof UnsupportedError && /rank 1 of 2.*followRanks/.test(error.message),
    );
  } finally {
    for (const name of Object.keys(variables)) Deno.env.delete(name);
  }
});
