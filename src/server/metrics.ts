/**
 * What is counted and measured, for Prometheus.
 * @module
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { EngineStats } from "../engine/engine.ts";
import type { LLM } from "../llm.ts";
import type { RequestOutput } from "../outputs.ts";
import { describe, type Endpoint } from "./endpoint.ts";

/** Seconds: from a small model's to a large one's on a slow machine. */
const SECONDS = [
  0.001,
  0.0025,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  5,
  10,
  30,
  60,
  120,
];

/** The server's figures. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #more: (() => Promise<string>) | undefined;
  readonly #requests = this.#counter("requests_total", "Prompts that have ended.", ["reason"]);
  readonly #refusals = this.#counter("refused_requests_total", "Requests refused.", ["status"]);
  readonly #firstToken = this.#histogram("time_to_first_token_seconds", "Until the first token.");
  readonly #nextToken = this.#histogram(
    "inter_token_latency_seconds",
    "Between tokens of a choice.",
  );
  readonly #duration = this.#histogram(
    "request_duration_seconds",
    "From a prompt to its last token.",
  );

  /**
   * @param read What is only known when it is asked for: requests on their way, the model, how often it
   *   failed and whether it runs, further lines.
   */
  constructor(read: {
    requests: () => number;
    llm: () => LLM;
    failures: () => number;
    ready: () => boolean;
    more?: () => Promise<string>;
  }) {
    this.#more = read.more;
    this.#readLater("model_failures_total", "How often the model failed.", read.failures);
    this.#readLater(
      "model_ready",
      "1 if the model runs, 0 if it failed.",
      () => Number(read.ready()),
    );
    this.#readLater("requests_in_flight", "Requests that run or wait.", read.requests);
    const expertLoad = () => read.llm().stats().expertLoad;
    if (expertLoad().length > 0) {
      new Gauge({
        ...this.#named("expert_load_entropy"),
        help: "How evenly a layer's experts were used lately: 1 is all equally, 0 is one alone.",
        labelNames: ["layer"],
        collect() {
          for (const { layer, entropy } of expertLoad()) {
            if (entropy !== undefined) this.set({ layer }, entropy);
          }
        },
      });
    }
    for (const [name, { help, value }] of Object.entries(engineFigures)) {
      if (value(read.llm()) !== undefined) this.#readLater(name, help, () => value(read.llm())!);
    }
  }

  /** A response was no success. @param status Its HTTP status. */
  refused(status: number): void {
    this.#refusals.inc({ status });
  }

  /** A prompt's first token came. @param seconds After it. */
  firstToken(seconds: number): void {
    this.#firstToken.observe(seconds);
  }

  /** A choice's next token came. @param seconds After the one before. */
  nextToken(seconds: number): void {
    this.#nextToken.observe(seconds);
  }

  /** A prompt has ended. @param output What it led to. @param seconds After it came. */
  finished(output: RequestOutput, seconds: number): void {
    this.#duration.observe(seconds);
    for (const { finishReason } of output.outputs) this.#requests.inc({ reason: finishReason });
  }

  /** A prompt ended without a result. @param reason `abort` or `error`. */
  broken(reason: "abort" | "error"): void {
    this.#requests.inc({ reason });
  }

  /** All figures in Prometheus' text format. */
  async text(): Promise<string> {
    return await this.#registry.metrics() + (await this.#more?.() ?? "");
  }

  #counter<Label extends string>(name: string, help: string, labelNames: Label[] = []) {
    return new Counter({ ...this.#named(name), help, labelNames });
  }

  #histogram(name: string, help: string) {
    return new Histogram({ ...this.#named(name), help, buckets: SECONDS });
  }

  /** A figure that is read when it is asked for: a counter if its name says so, else a gauge. */
  #readLater(name: string, help: string, value: () => number) {
    const options = { ...this.#named(name), help };
    if (name.endsWith("_total")) {
      new Counter({
        ...options,
        collect() {
          this.reset();
          this.inc(value());
        },
      });
    } else {
      new Gauge({
        ...options,
        collect() {
          this.set(value());
        },
      });
    }
  }

  #named(name: string) {
    return { name: `hybridseek_${name}`, registers: [this.#registry] };
  }
}

/** A figure of the engine, and when it is asked for its value. */
interface EngineFigure {
  help: string;
  /** `undefined` if it does not apply. */
  value(llm: LLM): number | undefined;
}

const stat = (help: string, value: (stats: EngineStats) => number): EngineFigure => ({
  help,
  value: (llm) => value(llm.stats()),
});

/** The engine's figures by name; those that only grow end in `_total`. */
const engineFigures: Record<string, EngineFigure> = {
  sequences_running: stat("Sequences that are in every step.", ({ running }) => running),
  sequences_waiting: stat("Sequences that wait for room.", ({ waiting }) => waiting),
  cache_blocks: stat("Blocks of the cache.", ({ blocks }) => blocks),
  cache_blocks_held: stat("Of these, held by sequences.", ({ heldBlocks }) => heldBlocks),
  cache_blocks_cached: stat(
    "Of these, held by none, but found by prompts that begin alike.",
    ({ cachedBlocks }) => cachedBlocks,
  ),
  cache_blocks_free: stat(
    "Of these, without contents.",
    ({ blocks, heldBlocks, cachedBlocks }) => blocks - heldBlocks - cachedBlocks,
  ),
  prompt_tokens_total: stat("Tokens of prompts.", ({ promptTokens }) => promptTokens),
  cached_prompt_tokens_total: stat(
    "Of these, found in the cache.",
    ({ cachedPromptTokens }) => cachedPromptTokens,
  ),
  generated_tokens_total: stat("Tokens generated.", ({ generatedTokens }) => generatedTokens),
  steps_total: stat("Steps of the model.", ({ steps }) => steps),
  preemptions_total: stat("Sequences that made room for others.", ({ preemptions }) => preemptions),
  drafted_tokens_total: stat("Tokens guessed ahead.", ({ draftedTokens }) => draftedTokens),
  accepted_tokens_total: stat(
    "Of these, as the model would have it.",
    ({ acceptedTokens }) => acceptedTokens,
  ),
  context_tokens: {
    help: "Most tokens of a sequence.",
    value: ({ contextLength }) => contextLength,
  },
  expert_reads_total: {
    help: "Experts that had to be read when the router chose them.",
    value: ({ expertStats }) => expertStats?.misses,
  },
  expert_uses_total: {
    help: "Experts that steps used, where not all are in memory.",
    value: ({ expertStats }) => expertStats?.uses,
  },
};

/** `GET /metrics` */
export const metrics: Endpoint = {
  route: describe({
    at: "GET /metrics",
    summary: "Figures for Prometheus",
    returns: { description: "Prometheus' text format.", type: "text/plain" },
  }),
  async answer(_, { metrics }) {
    const headers = { "content-type": Registry.PROMETHEUS_CONTENT_TYPE };
    return new Response(await metrics.text(), { headers });
  },
};
