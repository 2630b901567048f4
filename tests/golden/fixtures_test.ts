/**
 * Every shared fixture, exported in f32, against goldens made with transformers: logits at every recorded
 * position, router choices, greedy tokens, perplexity; by both single-threaded builds, by the function
 * bodies on stock onnxruntime-node and by the native library's kernels in it. All open the same file.
 */
import { strict as assert } from "node:assert";
import { type Backend, type BackendName, BACKENDS } from "../../src/backend/backend.ts";
import { openNativeBackend } from "../../src/backend/native/native_backend.ts";
import { openOrtBackend } from "../../src/backend/ort.ts";
import { openWasmBackend } from "../../src/backend/wasm/wasm_backend.ts";
import { ModelPackage } from "../../src/files/model_package.ts";
import { modelSpec } from "../../src/model_spec.ts";
import { readModel } from "../../src/onnx/read_model.ts";
import { LLM } from "../../src/llm.ts";
import { fixtures, openFixture, packageOf, ways } from "../packages.ts";
import { readSafetensors, type Tensor } from "../safetensors_values.ts";
import { needs, needsShared } from "../shared.ts";

interface Golden {
  prompts: { input_ids: number[]; greedy: number[]; greedy_min_gap: number }[];
  trace: { input_ids: number[] };
  batch: { rows: number[][] };
  perplexity: { input_ids: number[]; mean_nll: number };
}

/** Those that need no GPU; `tests/gpu/` has cuda. */
const backends = BACKENDS.filter((name): name is Exclude<BackendName, "cuda"> => name !== "cuda");
/** Largest error of a logit, as a fraction of the golden logits' range. */
const LOGIT_BOUND = 2e-4;
/** Largest error of a token's negative log-likelihood: that of two logits of this size. */
const NLL_BOUND = 2e-3;
/** Router margins below this may go either way: they are printed, not failed. */
const NEAR_TIE = 1e-5;

function goldenOf(name: string): { golden: Golden; tensors: Map<string, Tensor> } {
  const folder = new URL(`../../../shared/fixtures/${name}/`, import.meta.url);
  const golden = JSON.parse(Deno.readTextFileSync(new URL("golden.json", folder)));
  return { golden, tensors: readSafetensors(new URL("golden.safetensors", folder)).tensors };
}

for (const name of fixtures) {
  for (const [way, options] of Object.entries(ways)) {
    const needsWay = (what: string) => needsShared(`${name} on ${way}: ${what}`, options.backend);
    Deno.test(needsWay("logits at every recorded position"), async () => {
      const { golden, tensors } = goldenOf(name);
      await using llm = await openFixture(name, options);
      const pairs: [tokens: number[], want: Float32Array][] = [
        ...golden.prompts.map(({ input_ids }, i): [number[], Float32Array] => [
          input_ids,
          floats(tensors, `logits.${i}`),
        ]),
        [golden.trace.input_ids, floats(tensors, "trace.logits")],
      ];
      const padded = floats(tensors, "batch.left.last_logits");
      for (const [row, tokens] of golden.batch.rows.entries()) {
        pairs.push([tokens, padded.subarray(row * 512, (row + 1) * 512)]);
      }
      for (const [tokens, want] of pairs) await compareLogits(llm, tokens, want);
    });

    Deno.test(needsWay("perplexity window"), async () => {
      const { golden, tensors } = goldenOf(name);
      await using llm = await openFixture(name, options);
      const tokens = golden.perplexity.input_ids;
      const got = await tokenNlls(llm, tokens);
      const want = floats(tensors, "perplexity.token_nll");
      assert.equal(got.length, want.length);
      for (const [i, value] of got.entries()) {
        assert(Math.abs(value - want[i]!) <= NLL_BOUND, `token ${i}: ${value}, not ${want[i]}`);
      }
    });

    Deno.test(
      needsWay("32 greedy tokens of every prompt, together"),
      async () => {
        const { golden } = goldenOf(name);
        await using llm = await openFixture(name, options);
        const prompts = golden.prompts.map(({ input_ids }) => ({ promptTokenIds: input_ids }));
        const params = { temperature: 0, maxTokens: 32, ignoreEos: true };
        const results = await llm.generate(prompts, params);
        const tokens = results.map(({ outputs }) => outputs[0]!.tokenIds);
        assert.deepEqual(tokens, golden.prompts.map(({ greedy }) => greedy));
      },
    );
  }
}

for (const name of fixtures.filter((name) => !name.includes("llm"))) {
  for (const backend of backends) {
    const test = `${name} on ${backend}: router choices of the trace`;
    Deno.test(needsShared(test, backend), async () => {
      const { golden, tensors } = goldenOf(name);
      const model = await ModelPackage.open(await packageOf(name, { weights: "f32" }));
      const graph = readModel("model.onnx", await model.readAll("model.onnx"));
      const spec = modelSpec(graph);
      const open = {
        "wasm": openWasmBackend,
        "ort": openOrtBackend,
        "ort-native": openNativeBackend,
      }[backend];
      const opened = await open(model, graph, spec);
      try {
        await checkRouter(opened, golden.trace.input_ids, tensors);
      } finally {
        await opened.close();
        await model.close();
      }
    });
  }
}

async function checkRouter(backend: Backend, tokens: number[], tensors: Map<string, Tensor>) {
  const count = tokens.length;
  const blocks = Math.ceil(count / backend.limits.blockSize);
  const result = await backend.run({
    tokenIds: Int32Array.from(tokens),
    positions: Int32Array.from(tokens.keys()),
    slots: Int32Array.from(tokens.keys(), (i) => backend.limits.blockSize + i),
    queryStarts: Int32Array.of(0, count),
    contextLengths: Int32Array.of(count),
    blockTables: Int32Array.from({ length: blocks }, (_, i) => 1 + i),
    logitRows: new Int32Array(),
  });
  const layers = [...tensors.keys()].flatMap((key) =>
    /^trace\.router\.(\d+)\.experts$/.exec(key)?.[1] ?? []
  );
  assert(layers.length > 0);
  for (const layer of layers) {
    const { values: want, dims: [, k] } = tensors.get(`trace.router.${layer}.experts`)!;
    const { values: scores, dims: [, experts] } = tensors.get(`trace.router.${layer}.scores`)!;
    const got = result.output(`layers.${layer}.experts`)!;
    for (let token = 0; token < count; token++) {
      const ours = [...got.subarray(token * k!, (token + 1) * k!)].sort((a, b) => a - b);
      const theirs = [...want.subarray(token * k!, (token + 1) * k!)];
      if (ours.join() === theirs.join()) continue;
      const score = (expert: number) => scores[token * experts! + expert]!;
      const missed = theirs.filter((expert) => !ours.includes(expert)).map(score);
      const instead = ours.filter((expert) => !theirs.includes(expert)).map(score);
      const margin = Math.min(...missed) - Math.max(...instead);
      const what = `layer ${layer}, token ${token}: ${ours}, golden ${theirs}, margin ${margin}`;
      assert(Math.abs(margin) <= NEAR_TIE, what);
      console.log(`near tie: ${what}`);
    }
  }
}

Deno.test(needsShared("a package split into many small files gives the same logits"), async () => {
  const { golden } = goldenOf("deepseek-v2");
  const tokens = golden.prompts[6]!.input_ids;
  for (const weights of ["f32", "int4"] as const) {
    await using whole = await openFixture("deepseek-v2", {}, { weights });
    await using split = await openFixture("deepseek-v2", {}, { weights, maxFileBytes: 32768 });
    const [one, many] = await Promise.all([whole.forward(tokens), split.forward(tokens)]);
    // Experts are added up in another order: (a + b) + (c + d) instead of ((a + b) + c) + d.
    const error = Math.max(...many.logits.map((value, i) => Math.abs(value - one.logits[i]!)));
    assert(error < (weights === "f32" ? 1e-4 : 1e-2), `${weights}: error ${error}`);
  }
});

Deno.test(
  needsShared("a package split into many small files runs on stock onnxruntime-node"),
  async () => {
    const { golden, tensors } = goldenOf("deepseek-v2");
    const options = { weights: "f32", maxFileBytes: 32768 } as const;
    await using llm = await openFixture("deepseek-v2", { backend: "ort" }, options);
    await compareLogits(llm, golden.prompts[6]!.input_ids, floats(tensors, "logits.6"));
  },
);

function floats(tensors: Map<string, Tensor>, name: string): Float32Array {
  return tensors.get(name)!.values as Float32Array;
}

/** The golden may hold the last rows only. */
async function compareLogits(llm: LLM, tokens: number[], want: Float32Array) {
  const { logits, shape } = await llm.forward(tokens);
  assert.deepEqual(shape, [tokens.length, 512]);
  const got = logits.subarray(logits.length - want.length);
  const bound = LOGIT_BOUND * (Math.max(...want) - Math.min(...want));
  for (const [i, value] of got.entries()) {
    assert(Math.abs(value - want[i]!) <= bound, `logit ${i}: ${value}, not ${want[i]}`);
  }
}

/** Negative log-likelihood of every token but the first. */
async function tokenNlls(llm: LLM, tokens: number[]): Promise<number[]> {
  const { logits, shape: [, vocab] } = await llm.forward(tokens);
  return tokens.slice(1).map((token, i) => {
    const row = logits.subarray(i * vocab, (i + 1) * vocab);
    const largest = Math.max(...row);
    const sum = row.reduce((total, value) => total + Math.exp(value - largest), 0);
    return Math.log(sum) + largest - row[token]!;
  });
}

Deno.test(
  needs("all backends open the same file: one sha256, and logits that agree", {
    shared: true,
    native: true,
  }),
  async () => {
    const folder = await packageOf("deepseek-v2", { weights: "f32" });
    const sha256 = async () => {
      const bytes = await Deno.readFile(`${folder}/model.onnx`);
      return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
    };
    const before = await sha256();
    const logits: Float32Array[] = [];
    for (const backend of backends) {
      await using llm = await LLM.open(folder, { backend });
      logits.push((await llm.forward([3, 1, 4, 1, 5, 9, 2, 6])).logits);
      assert.equal(await sha256(), before);
    }
    for (const other of logits.slice(1)) {
      const error = Math.max(...logits[0]!.map((value, i) => Math.abs(value - other[i]!)));
      assert(error < 1e-4, `error ${error}`);
    }
  },
);
