/**
 * What is counted and measured, for Prometheus.
 * @module
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
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
  readonly #promptTokens = this.#counter("prompt_tokens_total", "Tokens of prompts.");
  readonly #cachedTokens = this.#counter(
    "cached_prompt_tokens_total",
    "Of these, found in the cache.",
  );
  readonly #tokens = this.#counter("generated_tokens_total", "Tokens generated.");
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
   * @param read What is only known when it is asked for: requests on their way, the model, further lines.
   */
  constructor(read: { requests: () => number; llm: () => LLM; more?: () => Promise<string> }) {
    this.#more = read.more;
    this.#gauge("requests_in_flight", "Requests that run or wait.", read.requests);
    for (const [name, { help, value }] of Object.entries(engineFigures)) {
      if (value(read.llm()) !== undefined) this.#gauge(name, help, () => value(read.llm())!);
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
    this.#promptTokens.inc(output.promptTokenIds.length);
    this.#cachedTokens.inc(cachedTokens(output));
    for (const { finishReason, tokenIds } of output.outputs) {
      this.#tokens.inc(tokenIds.length);
      this.#requests.inc({ reason: finishReason });
    }
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

  #gauge(name: string, help: string, value: () => number) {
    new Gauge({
      ...this.#named(name),
      help,
      collect() {
        this.set(value());
      },
    });
  }

  #named(name: string) {
    return { name: `hybridseek_${name}`, registers: [this.#registry] };
  }
}

/** The engine's figures, read when they are asked for; one that is `undefined` does not apply. */
const engineFigures: Record<
  string,
  { help: string; value: (llm: LLM) => number | undefined }
> = {
  context_tokens: {
    help: "Most tokens of a sequence.",
    value: ({ contextLength }) => contextLength,
  },
  expert_reads: {
    help: "Experts that had to be read when the router chose them.",
    value: ({ expertStats }) => expertStats?.misses,
  },
  expert_uses: {
    help: "Experts that steps used, where not all are in memory.",
    value: ({ expertStats }) => expertStats?.uses,
  },
};

/**
 * How much of a prompt was found in the cache.
 *
 * @param output What the prompt led to.
 * @returns Tokens.
 */
export function cachedTokens(output: RequestOutput): number {
  return (output as { cachedTokens?: number }).cachedTokens ?? 0;
}

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
