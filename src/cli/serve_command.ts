import { basename } from "node:path";
import process from "node:process";
import { type Command, InvalidArgumentError as InvalidOption, Option } from "commander";
import type { LLM } from "../llm.ts";
import { interruptible } from "./interrupt.ts";
import { listen } from "./listen.ts";
import {
  addModelOptions,
  closeModel,
  type ModelOptions,
  number,
  openModel,
} from "./model_options.ts";

interface ServeOptions extends ModelOptions {
  host: string;
  port: number;
  apiKey?: string[];
  name?: string[];
  corsOrigin?: string[];
  maxNumSeqs?: number;
  maxNumBatchedTokens?: number;
  maxQueuedRequests: number;
  prefixCaching: boolean;
  requestTimeout: number;
  priority?: true;
}

/** Names by which a machine calls itself. */
const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];
/** Exit code of a process that a signal ended: this and the signal's number. */
const SIGNALLED = 128;
const SIGNALS = { SIGINT: 2, SIGTERM: 15 } as const;

/** Adds `hybridseek serve`. @param program To this program. */
export function addServeCommand(program: Command): void {
  addModelOptions(
    program.command("serve").description(
      "Serve a model with OpenAI's API, and a page to chat with it.",
    ),
  )
    .option("--host <name>", "where to listen", "127.0.0.1")
    .option("--port <number>", "on which port; 0 takes a free one", number, 8000)
    .addOption(
      new Option("--api-key <key>", "a key that requests need; may be given several times")
        .argParser(collect).env("HYBRIDSEEK_API_KEY"),
    )
    .option("--name <name>", "what clients call the model; may be given several times", collect)
    .option(
      "--cors-origin <origin>",
      "whose pages may use the server; several times, or *",
      collect,
    )
    .option("--max-num-seqs <count>", "most sequences of a step", number)
    .option("--max-num-batched-tokens <count>", "most tokens of a step", number)
    .option("--max-queued-requests <count>", "most prompts that may wait for room", number, 512)
    .option(
      "--request-timeout <seconds>",
      "most that a request may take; 0: no limit",
      seconds,
      3600,
    )
    .option("--priority", "let requests say their own priority, as vLLM's policy of that name")
    .option("--no-prefix-caching", "do not keep computed prompts for others that begin alike")
    .action(serve);
}

async function serve(options: ServeOptions) {
  const { host, port, model, apiKey: apiKeys, corsOrigin: corsOrigins } = options;
  const { maxNumSeqs, maxNumBatchedTokens, maxQueuedRequests, prefixCaching } = options;
  const engine = {
    ...{ maxNumSeqs, maxNumBatchedTokens, maxQueuedRequests },
    enablePrefixCaching: prefixCaching,
  };
  const opened = await interruptible((signal) => openModel(options, signal, engine));
  if (!opened) return;
  let llm: LLM = opened;
  // Loaded here: the other commands start without it.
  const { createServer } = await import("../server/mod.ts");
  const { collectDefaultMetrics, Registry } = await import("prom-client");
  const ofProcess = new Registry();
  collectDefaultMetrics({ register: ofProcess });
  const names = options.name ?? [model === undefined ? "hybridseek-reference" : basename(model)];
  const loopback = LOOPBACK.includes(host) || host === "::1";
  const stopping = new AbortController();
  const server = createServer(llm, {
    names,
    apiKeys,
    corsOrigins,
    hosts: loopback ? LOOPBACK : undefined,
    limits: {
      requestMs: options.requestTimeout * 1e3 || Infinity,
      priorities: options.priority ?? false,
    },
    moreMetrics: () => ofProcess.metrics(),
    onError: (error) => process.stderr.write(`error: ${textOf(error)}\n`),
    async reopen() {
      await llm.close().catch(() => {});
      llm = await openModel(options, stopping.signal, engine);
      process.stderr.write("the model failed and has been opened again\n");
      return llm;
    },
  });
  const stopped = firstSignal();
  try {
    const listener = await listen(server.fetch, { host, port });
    const address = `http://${host.includes(":") ? `[${host}]` : host}:${listener.port}`;
    const { backend, build, threads } = llm.info;
    process.stdout.write(
      `${names.join(", ")}: ${llm.spec.architecture}, ${backend} (${build}), ${threads} thread` +
        `${threads === 1 ? "" : "s"}, context of ${llm.contextLength} tokens\n` +
        `listening on ${address}, a page to chat; ${address}/v1, the API\n`,
    );
    if (!loopback && !apiKeys) {
      process.stderr.write(`without --api-key, everybody who reaches ${host} may use the model\n`);
    }
    await stopped;
    process.stderr.write("stopping when the requests on their way have ended\n");
    await Promise.all([server.drain(), listener.close()]);
  } finally {
    stopping.abort();
    await closeModel(llm);
  }
}

/** Waits for the first signal to stop; the second ends the program at once. */
function firstSignal(): Promise<void> {
  return new Promise((resolve) => {
    let first = true;
    for (const [signal, code] of Object.entries(SIGNALS)) {
      process.on(signal, () => {
        if (!first) process.exit(SIGNALLED + code);
        first = false;
        resolve();
      });
    }
  });
}

/** Reads a time. @param text What was typed. @returns It. */
function seconds(text: string): number {
  const value = number(text);
  if (value < 0) throw new InvalidOption("It must be 0 or more.");
  return value;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}

function collect(text: string, earlier: string[] = []): string[] {
  return [...earlier, text];
}
