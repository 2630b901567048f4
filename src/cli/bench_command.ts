import process from "node:process";
import { type Command, InvalidArgumentError as InvalidOption } from "commander";
import type { LLM } from "../llm.ts";
import { interruptible } from "./interrupt.ts";
import { addModelOptions, type ModelOptions, number, openModel } from "./model_options.ts";
import { toJson } from "./standard_streams.ts";

interface BenchOptions extends ModelOptions {
  prompt: number[];
  tokens: number;
  repeats: number;
  json?: true;
}

/** A row of the table. */
interface Measurement {
  work: "prefill" | "decode";
  /** Tokens of the prompt. */
  prompt: number;
  /** Tokens that were timed each time. */
  tokens: number;
  /** Tokens a second, the median of the repetitions. */
  tokensPerSecond: number;
  /** The slowest and the fastest repetition. */
  range: [slowest: number, fastest: number];
}

/** Longest prompt that is run once before anything is timed. */
const WARM_UP_TOKENS = 32;
/** The first token belongs to the prompt; the last one's event may not wait for a step, as others do. */
const UNTIMED_TOKENS = 2;
/** Nothing ends early, and no time goes into text. */
const SAMPLING = { temperature: 1, seed: 1, ignoreEos: true, detokenize: false };

/** Adds `hybridseek bench`. @param program To this program. */
export function addBenchCommand(program: Command): void {
  addModelOptions(program.command("bench").description("Measure tokens per second of a package."))
    .option("-p, --prompt <tokens>", "lengths of prompts, separated by commas", counts, [128, 512])
    .option("-n, --tokens <count>", "tokens to generate", count, 32)
    .option("-r, --repeats <count>", "how often each is measured", count, 3)
    .option("--json", "print JSON")
    .action(bench);
}

async function bench(options: BenchOptions) {
  const { prompt: lengths, tokens, repeats, json } = options;
  const context = options.context ?? Math.max(WARM_UP_TOKENS, ...lengths) + tokens + UNTIMED_TOKENS;
  await interruptible(async (signal) => {
    const opened = performance.now();
    const engine = { enablePrefixCaching: false }; // every repetition computes its prompt
    const llm = await openModel({ ...options, context }, signal, engine);
    const loadSeconds = (performance.now() - opened) / 1e3;
    try {
      await decode(llm, Math.min(WARM_UP_TOKENS, context - 3), 1, signal);
      const rows: Measurement[] = [];
      for (const length of lengths) {
        const prompts: number[] = [];
        const outputs: number[] = [];
        for (let run = 0; run < repeats; run++) {
          prompts.push(await prefill(llm, length, signal));
          outputs.push(await decode(llm, length, tokens, signal));
        }
        rows.push(measurement("prefill", length, length, prompts));
        rows.push(measurement("decode", length, tokens, outputs));
      }
      const report = { ...llm.info, weights: llm.spec.weights, loadSeconds, rows };
      process.stdout.write(json ? toJson(report) + "\n" : table(report));
    } finally {
      await llm.close();
    }
  });
}

/** From a prompt to its first token, seconds. */
async function prefill(llm: LLM, length: number, signal: AbortSignal): Promise<number> {
  const begun = performance.now();
  await llm.generate(promptOf(llm, length), { ...SAMPLING, maxTokens: 1 }, { signal });
  return (performance.now() - begun) / 1e3;
}

/** Tokens after a prompt as whoever reads the stream sees them, seconds. */
async function decode(llm: LLM, length: number, tokens: number, signal: AbortSignal) {
  const params = { ...SAMPLING, maxTokens: tokens + UNTIMED_TOKENS };
  const times: number[] = [];
  for await (const _event of llm.stream(promptOf(llm, length), params, { signal })) {
    times.push(performance.now());
  }
  return (times[tokens]! - times[0]!) / 1e3;
}

function promptOf(llm: LLM, length: number): { promptTokenIds: number[] } {
  const { vocabSize } = llm.spec;
  return {
    promptTokenIds: Array.from({ length }, (_, i) => (i * 7919 + 13 * (i % 17)) % vocabSize),
  };
}

function measurement(
  work: Measurement["work"],
  prompt: number,
  tokens: number,
  seconds: number[],
): Measurement {
  const rates = seconds.map((time) => tokens / time).sort((a, b) => a - b);
  const range: Measurement["range"] = [rates[0]!, rates.at(-1)!];
  return { work, prompt, tokens, tokensPerSecond: rates[rates.length >> 1]!, range };
}

function table(report: {
  backend: string;
  build: string;
  threads: number;
  threadsReason: string;
  weights: string;
  loadSeconds: number;
  rows: Measurement[];
}): string {
  const lines = report.rows.map(({ work, prompt, tokensPerSecond, range: [slowest, fastest] }) => {
    const name = work === "prefill" ? `prompt of ${prompt}` : `tokens after ${prompt}`;
    const rates = [tokensPerSecond, slowest, fastest].map((rate) => rate.toFixed(2).padStart(9));
    return `${name.padEnd(24)}${rates.join(" ")}`;
  });
  const threads = report.threads > 0 ? `threads ${report.threads}, ` : "";
  return [
    `backend ${report.backend}, ${report.build}, ${threads}${report.threadsReason}`,
    `weights ${report.weights}, loaded in ${report.loadSeconds.toFixed(2)} s`,
    `${"tokens per second".padEnd(24)}${"median".padStart(9)} ${"slowest".padStart(9)} ${
      "fastest".padStart(9)
    }`,
    ...lines,
  ].join("\n") + "\n";
}

function count(text: string): number {
  const value = number(text);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new InvalidOption("It must be a whole number of at least 1.");
}

function counts(text: string): number[] {
  return text.split(",").map(count);
}
