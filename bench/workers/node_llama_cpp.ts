/**
 * One timing of node-llama-cpp in a process of its own, with its own token loop and sampler:
 * `deno run -A bench/workers/node_llama_cpp.ts <job as JSON>`. Prints one JSON line.
 * @module
 */
import { randomTokens } from "../random_tokens.ts";
import type { Timing } from "../timing.ts";

/** What to time. */
export interface NodeLlamaCppJob {
  /** Folder where npm has installed node-llama-cpp. */
  folder: string;
  /** The model. */
  gguf: string;
  /** Tokens of its vocabulary. */
  vocabSize: number;
  /** Threads. */
  threads: number;
  /** Whether attention is fused. */
  flashAttention: boolean;
  /** See {@linkcode TimingJob}. */
  work: "prefill" | "decode";
  /** Tokens of the prompt. */
  size: number;
  /** Repetitions or steps. */
  count: number;
  /** See {@linkcode TimingJob}. */
  topK?: number;
}

/** What is used of node-llama-cpp. */
interface NodeLlamaCpp {
  getLlama(options: Record<string, unknown>): Promise<{
    loadModel(options: Record<string, unknown>): Promise<{
      createContext(options: Record<string, unknown>): Promise<{ getSequence(): Sequence }>;
    }>;
  }>;
}

interface Sequence {
  evaluate(tokens: number[], options: Record<string, unknown>): AsyncGenerator<number>;
  evaluateWithoutGeneratingNewTokens(tokens: number[]): Promise<void>;
  clearHistory(): Promise<void>;
}

const WARM_UP = 8;

const job: NodeLlamaCppJob = JSON.parse(Deno.args[0]!);
const { getLlama } = await import(
  `${job.folder}/node_modules/node-llama-cpp/dist/index.js`
) as NodeLlamaCpp;
const llama = await getLlama({ gpu: false, build: "never", maxThreads: job.threads });
const opened = performance.now();
const model = await llama.loadModel({ modelPath: job.gguf });
const loadSeconds = (performance.now() - opened) / 1e3;
const context = await model.createContext({
  contextSize: job.size + WARM_UP + job.count + 64,
  batchSize: 512,
  threads: job.threads,
  flashAttention: job.flashAttention,
});
const sequence = context.getSequence();
const seconds: number[] = [];
const prompt = (seed: number) => randomTokens(job.size, job.vocabSize - 2, seed);
if (job.work === "prefill") {
  for (let repeat = -1; repeat < job.count; repeat++) {
    await sequence.clearHistory();
    const begun = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt(repeat + 2));
    if (repeat >= 0) seconds.push((performance.now() - begun) / 1e3);
  }
} else {
  let before = 0;
  const sampling = { temperature: 1, topK: job.topK ?? 0, topP: 1, minP: 0, yieldEogToken: true };
  for await (const _token of sequence.evaluate(prompt(1), sampling)) {
    const now = performance.now();
    seconds.push((now - before) / 1e3);
    before = now;
    if (seconds.length > WARM_UP + job.count) break;
  }
  seconds.splice(0, WARM_UP + 1);
}
console.log(JSON.stringify({ loadSeconds, seconds } satisfies Timing));
Deno.exit(0);
