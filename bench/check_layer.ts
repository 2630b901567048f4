/**
 * What every bench does before it times anything: a small model with the layers of the one that is timed
 * must give the logits that stock ONNX Runtime computes from the same file.
 * @module
 */
import { inspectPackage } from "../src/inspect.ts";
import { LLM } from "../src/llm.ts";
import type { OpenOptions } from "../src/open_model.ts";
import type { Weights } from "../export-tools/quantization/recipe.ts";
import { randomTokens } from "./random_tokens.ts";
import { median } from "./statistics.ts";
import type { ShapeConfig } from "./synthetic/shapes.ts";
import { writeRandomPackage } from "./synthetic/write_random_package.ts";

/** Vocabulary of the small model: the head of a large one would take most of the time. */
const VOCAB_SIZE = 1024;
/** Tokens of the prompt, and tokens generated after it one by one. */
const PROMPT_LENGTH = 17;
const DECODED = 8;
/**
 * Largest median error of a row of logits, relative to the row's norm. Measured with two layers of
 * V2-Lite: 0.02 where activations are quantized to int8, 1e-6 with f32 weights. The wide bound lets a
 * missing expert pass; f32, which is always checked as well, does not.
 */
const BOUNDS: Record<Weights, number> = { f32: 1e-4, f16: 1e-3, int8: 0.04, int4: 0.04 };
/** The same for caches that round their rows. Measured with f32 weights: 0.004 with bf16, 0.014 with int8. */
const CACHE_BOUNDS: Partial<Record<string, number>> = { bf16: 0.012, int8: 0.04 };

/** Median relative error of a row of logits, by the storage of the weights. */
export type LayerCheck = Partial<Record<Weights, number>>;

/**
 * Compares the dense and the sparse layer of a package's shape with stock ONNX Runtime, in f32 with few
 * experts, then as the package is stored.
 *
 * @param folder The package that is going to be timed.
 * @param options How it is going to be opened.
 * @returns What was found.
 * @throws {Error} If the logits differ by more than the format explains.
 */
export async function checkLayer(folder: string, options: OpenOptions): Promise<LayerCheck> {
  const config: ShapeConfig = JSON.parse(await Deno.readTextFile(`${folder}/config.json`));
  const layers = Number(config.first_k_dense_replace ?? 0) + 1;
  const small = { ...config, num_hidden_layers: layers, vocab_size: VOCAB_SIZE };
  const weights = await weightsOf(folder);
  return {
    f32: await checkRandom(withFewExperts(small), "f32", options),
    [weights]: await checkRandom(small, weights, options),
  };
}

/** Enough experts for a choice, so that they fit the memory in f32. */
function withFewExperts(config: ShapeConfig): ShapeConfig {
  if (config.n_routed_experts === undefined) return config;
  const chosen = Number(config.num_experts_per_tok);
  const limited = config.topk_method === "group_limited_greedy";
  const experts = limited
    ? Number(config.n_group) * Math.ceil(chosen / Number(config.topk_group))
    : chosen + 2;
  return { ...config, n_routed_experts: Math.min(experts, Number(config.n_routed_experts)) };
}

async function checkRandom(
  config: ShapeConfig,
  weights: Weights,
  options: OpenOptions,
): Promise<number> {
  const path = await Deno.makeTempDir({ prefix: "hybridseek-check-" });
  try {
    await writeRandomPackage(config, `${path}/package`, { weights });
    const bound = Math.max(BOUNDS[weights], CACHE_BOUNDS[options.cacheType ?? ""] ?? 0);
    return await compare(`${path}/package`, options, bound);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

async function weightsOf(folder: string): Promise<Weights> {
  return (await inspectPackage(folder, { contextLength: 64 })).weights as Weights;
}

async function compare(path: string, options: OpenOptions, bound: number): Promise<number> {
  const prompt = randomTokens(PROMPT_LENGTH, VOCAB_SIZE);
  const sizes = { contextLength: 64, cacheTokens: 64 };
  let tokens: number[];
  let ours: Float32Array;
  {
    await using llm = await LLM.open(path, { ...options, ...sizes });
    const params = { temperature: 0, maxTokens: DECODED, ignoreEos: true };
    const [result] = await llm.generate({ promptTokenIds: prompt }, params);
    tokens = [...prompt, ...result!.outputs[0]!.tokenIds];
    ours = (await llm.forward(tokens)).logits;
  }
  await using reference = await LLM.open(path, { backend: "ort", ...sizes });
  const theirs = (await reference.forward(tokens)).logits;
  const row = (logits: Float32Array, index: number) =>
    logits.subarray(index * VOCAB_SIZE, (index + 1) * VOCAB_SIZE);
  const error = median(tokens.map((_, i) => relativeError(row(ours, i), row(theirs, i))));
  if (!(error <= bound)) {
    throw new Error(
      `Cannot trust times: logits differ from ONNX Runtime's by ${error}, allowed is ${bound}.`,
    );
  }
  for (let i = PROMPT_LENGTH; i < tokens.length; i++) checkGreedy(tokens[i]!, row(ours, i - 1));
  return error;
}

/**
 * A token decoded greedily must be the best by the logits of the whole text at once. These are ours: where
 * the quantized activations tip a near tie between experts, the reference's best may be another token.
 */
function checkGreedy(token: number, logits: Float32Array) {
  const best = logits.indexOf(Math.max(...logits));
  if (token === best) return;
  throw new Error(
    `Cannot trust times: decoding chose token ${token} of logit ${
      logits[token]
    }, but the whole text ` +
      `gives token ${best} of logit ${logits[best]}.`,
  );
}

function relativeError(got: Float32Array, want: Float32Array): number {
  return Math.hypot(...got.map((value, i) => value - want[i]!)) / Math.hypot(...want);
}
