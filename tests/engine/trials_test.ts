/**
 * Backend `auto`: scripted backends, slow, fast and broken, decide by what they take; a choice is kept.
 */
import { strict as assert } from "node:assert";
import type { Backend, BackendName } from "../../src/backend/backend.ts";
import type { OrtModule } from "../../src/backend/ort.ts";
import { checkStepPlan, type StepLimits, type StepPlan } from "../../src/backend/step_plan.ts";
import { type BackendTrial, fastest, tryBackends } from "../../src/backend/trials.ts";
import { type HybridseekError, InvalidArgumentError, UnsupportedError } from "../../src/errors.ts";
import { LLM } from "../../src/llm.ts";
import type { OpenOptions } from "../../src/open_model.ts";
import { withEnvironment } from "../environment.ts";
import { temporaryPath } from "../packages.ts";

const VOCAB = 50;
const roomy: StepLimits = {
  ...{ tokens: 512, sequences: 8, logitRows: 8, contextLength: 4096, blocks: 300, blockSize: 16 },
};

/** What a scripted backend takes, milliseconds. */
interface Script {
  /** For a token of a prompt, and for one alone. */
  token: number;
  step: number;
  limits?: StepLimits;
  /** Number of the run that fails. */
  fails?: number;
  /** Why it does not open. */
  missing?: string;
}

/** Tries scripted backends on a clock that only they move. */
async function tryScripts(scripts: Partial<Record<BackendName, Script>>) {
  let clock = 0;
  const open: BackendName[] = [];
  const runs: Record<string, number[]> = {};
  const trials = await tryBackends(
    Object.keys(scripts) as BackendName[],
    (name) => {
      const { token, step, limits = roomy, fails, missing } = scripts[name]!;
      if (missing) return Promise.reject(new UnsupportedError(missing));
      assert.equal(open.length, 0, "two backends are open at once");
      open.push(name);
      const counts: number[] = runs[name] = [];
      const backend = {
        limits,
        run(plan: StepPlan) {
          checkStepPlan(plan, limits, VOCAB);
          counts.push(plan.tokenIds.length);
          clock += step + token * plan.tokenIds.length;
          if (counts.length === fails) return Promise.reject(new Error("it broke"));
          return Promise.resolve({ logits: new Float32Array(VOCAB), output: () => undefined });
        },
      } as unknown as Backend;
      const close = () => Promise.resolve(void open.pop());
      return Promise.resolve({ backend, vocabSize: VOCAB, close });
    },
    () => clock,
  );
  assert.deepEqual(open, [], "a backend was left open");
  return { trials, runs, chosen: fastest(trials) };
}

const times = ({ promptTokens, promptMs, decodedTokens, decodeMs }: BackendTrial) => [
  ...[promptTokens, promptMs, decodedTokens, decodeMs],
];

Deno.test("the least time for a chunk and 8 tokens decides, whichever comes first", async () => {
  const slow = { token: 2, step: 10 };
  const fast = { token: 1, step: 5 };
  const { trials, runs, chosen } = await tryScripts({ wasm: slow, "ort-native": fast });
  assert.equal(chosen, "ort-native");
  assert.deepEqual(runs.wasm, [1, 128, 1, 1, 1, 1, 1, 1, 1, 1]);
  assert.deepEqual(trials.map(times), [[128, 266, 8, 96], [128, 133, 8, 48]]);
  assert.equal((await tryScripts({ wasm: fast, "ort-native": slow })).chosen, "wasm");
  assert.equal((await tryScripts({ "ort-native": fast, wasm: slow })).chosen, "ort-native");
  assert.equal((await tryScripts({ "ort-native": fast, wasm: fast })).chosen, "ort-native");
  // Quick with prompts, slow with single tokens: together it is the slower one.
  const prompts = { token: 0, step: 25 };
  assert.equal((await tryScripts({ wasm: prompts, "ort-native": fast })).chosen, "ort-native");
});

Deno.test("one that does not open, or breaks, is passed over with its reason", async () => {
  const fast = { token: 1, step: 1 };
  const slow = { token: 9, step: 9 };
  const { trials, chosen } = await tryScripts({
    "ort-native": { ...fast, missing: "not built" },
    wasm: slow,
    ort: { ...fast, fails: 5 },
  });
  assert.equal(chosen, "wasm");
  assert.deepEqual(trials.map(({ failure }) => failure), ["not built", undefined, "it broke"]);
  const none = await tryScripts({ wasm: { ...fast, fails: 1 }, ort: { ...fast, missing: "none" } });
  assert.equal(none.chosen, undefined);
});

Deno.test("one that has taken longer than another is given up", async () => {
  const { trials, runs, chosen } = await tryScripts({
    wasm: { token: 1, step: 1 },
    ort: { token: 10_000, step: 1 },
  });
  assert.equal(chosen, "wasm");
  assert.deepEqual(runs.ort, [1]);
  assert.match(trials[1]!.failure!, /given up after 10001 ms: another is faster/);
});

Deno.test("a trial keeps to the backend's limits", async () => {
  const fits = async (limits: Partial<StepLimits>) => {
    const script = { token: 1, step: 1, limits: { ...roomy, ...limits } };
    return (await tryScripts({ wasm: script })).runs.wasm;
  };
  assert.deepEqual((await fits({ tokens: 32 }))!.slice(0, 3), [1, 32, 1]);
  assert.deepEqual(await fits({ contextLength: 12 }), [1, 4, ...Array(8).fill(1)]);
  assert.deepEqual(await fits({ contextLength: 1 }), [1, 1]);
  assert.deepEqual((await fits({ blocks: 3, contextLength: 32 }))!.slice(0, 2), [1, 24]);
  assert.deepEqual((await fits({ blocks: 6, pools: 2 }))!.slice(0, 2), [1, 24]);
});

Deno.test("backend auto tries once for a package and machine, and keeps the choice", async () => {
  const cache = temporaryPath("cache");
  const variables = { XDG_CACHE_HOME: cache, HYBRIDSEEK_NATIVE: "/nowhere/hybridseek.node" };
  await withEnvironment(variables, async () => {
    const seen: (readonly BackendTrial[])[] = [];
    const options: OpenOptions = {
      ...{ backend: "auto", contextLength: 64, threads: 1 },
      onTrials: (trials) => void seen.push(trials),
    };
    for (let time = 0; time < 2; time++) {
      await using llm = await LLM.open(undefined, options);
      assert.notEqual(llm.info.backend, "ort-native");
      const [result] = await llm.generate("Once upon a time", { maxTokens: 2 });
      assert.equal(result!.outputs[0]!.tokenIds.length, 2);
    }
    assert.equal(seen.length, 1);
    const [trials] = seen as [BackendTrial[]];
    assert.deepEqual(trials.map(({ backend }) => backend), ["cuda", "ort-native", "wasm", "ort"]);
    assert.match(trials[0]!.failure!, /nowhere/);
    const kept: Record<string, string> = JSON.parse(
      Deno.readTextFileSync(`${cache}/hybridseek/backends.json`),
    );
    assert.deepEqual(Object.values(kept), [fastest(trials)]);
    // Other terms, another choice.
    await using _ = await LLM.open(undefined, { ...options, threads: undefined });
    assert.equal(seen.length, 2);
  });
});

Deno.test("what no backend takes is the caller's mistake; otherwise auto says why of each", async () => {
  const variables = {
    ...{ XDG_CACHE_HOME: temporaryPath("cache"), HYBRIDSEEK_NATIVE: "/nowhere/hybridseek.node" },
  };
  await withEnvironment(variables, async () => {
    const refused = async (options: OpenOptions, field: string | undefined, message: RegExp) =>
      await assert.rejects(
        LLM.open(undefined, { backend: "auto", ...options }),
        (error: HybridseekError) =>
          (field === undefined
            ? error instanceof UnsupportedError
            : error instanceof InvalidArgumentError && error.field === field) &&
          message.test(error.message),
      );
    await refused({ contextLength: 0 }, "contextLength", /contextLength is 0/);
    await refused(
      { threads: 1000, ort: {} as OrtModule },
      undefined,
      /with any backend\. cuda: .*1000.* ort-native: .*1000.* wasm: .*1000.* ort: /,
    );
  });
});
