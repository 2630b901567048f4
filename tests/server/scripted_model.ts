/**
 * A model whose backend is a script: it computes nothing, takes as much time as the script says, and fails when
 * told to. Engine, sampler and tokenizer are the real ones.
 * @module
 */
import type { Backend } from "../../src/backend/backend.ts";
import type { StepLimits, StepPlan } from "../../src/backend/step_plan.ts";
import type { EngineOptions } from "../../src/engine/engine_options.ts";
import { LLM } from "../../src/llm.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";

/** A script. */
export interface Script {
  /** Called before each step; what it throws is the backend's failure. */
  step?(plan: StepPlan): Promise<void> | void;
  /** Bounds of a step. */
  limits?: Partial<StepLimits>;
  /** The logits after every token. Default: those of a model that says one word for ever. */
  logits?: Float32Array;
  /** How requests share the model. */
  engine?: EngineOptions;
  /** Changes the text of the tokenizer's file. */
  tokenizerJson?(json: string): string;
}

/** A scripted model. */
export interface ScriptedModel {
  /** The model. */
  llm: LLM;
  /** Steps that have run. */
  steps: number;
}

/** Tokens of the embedded model. */
const VOCABULARY = 4096;
/** What it says. */
const SAYS = " word";
/** Rows of a step's logits at most. */
const MOST_ROWS = 256;

/** Opens one. */
export function scriptedModel(
  { step, limits = {}, logits, engine = {}, tokenizerJson = (json) => json }: Script = {},
): ScriptedModel {
  const read = (name: string) =>
    Deno.readTextFileSync(new URL(`../../models/reference/${name}`, import.meta.url));
  const tokenizer = Tokenizer.fromJson(
    tokenizerJson(read("tokenizer.json")),
    JSON.parse(read("tokenizer_config.json")),
  );
  const row = logits ?? new Float32Array(VOCABULARY);
  if (!logits) row[tokenizer.encode(SAYS, { addSpecialTokens: false })[0]!] = 50;
  const vocabSize = row.length;
  const rows = new Float32Array(MOST_ROWS * vocabSize);
  for (let i = 0; i < MOST_ROWS; i++) rows.set(row, i * vocabSize);
  const scripted = { steps: 0 } as ScriptedModel;
  const backend: Backend = {
    info: {
      ...{ backend: "wasm", build: "script", threads: 1, threadsReason: "", cacheType: "f32" },
      ...{ verified: true, bytes: {} },
    },
    limits: {
      ...{
        tokens: 512,
        sequences: MOST_ROWS,
        logitRows: MOST_ROWS,
        contextLength: 2048,
        blocks: 8193,
      },
      ...{ blockSize: 16, ...limits },
    },
    async run(plan) {
      await step?.(plan);
      scripted.steps++;
      const logits = rows.subarray(0, plan.logitRows.length * vocabSize);
      return { logits, output: () => undefined };
    },
    cacheLayout: "none",
    blockBytes: 0,
    copyBlocks: () => Promise.resolve(),
    readBlocks: () => Promise.resolve(new Uint8Array()),
    writeBlocks: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
  const spec = {
    ...{ architecture: "script", weights: "none", vocabSize, contextLength: 2048 },
    ...{ caches: [], cacheBytesPerToken: 0 },
  };
  const config = { defaults: { temperature: 0 }, eosTokenIds: [] };
  scripted.llm = Reflect.construct(LLM, [{ spec, backend, tokenizer, config }, engine]) as LLM;
  return scripted;
}
