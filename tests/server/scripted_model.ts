/**
 * A model whose backend is a script: it computes nothing, takes as much time as the script says, and fails when
 * told to. Engine, sampler and tokenizer are the real ones.
 * @module
 */
import type { Backend, BlockCopies } from "../../src/backend/backend.ts";
import type { StepLimits, StepPlan } from "../../src/backend/step_plan.ts";
import type { ExpertLayer } from "../../src/model_spec.ts";
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
  /** The token that follows a sequence, in place of `logits`. @param tokenIds The sequence so far. */
  next?(tokenIds: number[]): number;
  /** Layers with experts. Default: none. */
  expertLayers?: ExpertLayer[];
  /** The experts that a step chooses in a layer, [T, K]. */
  experts?(output: string, plan: StepPlan): Int32Array;
  /** How requests share the model. */
  engine?: EngineOptions;
  /** Changes the text of the tokenizer's file. */
  tokenizerJson?(json: string): string;
  /** Its chat template. Default: the embedded model's. */
  chatTemplate?: string;
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
/** Tokens of a block. */
const BLOCK = 16;
/** Rows of a step's logits at most. */
const MOST_ROWS = 256;

/** Opens one. */
export function scriptedModel(script: Script = {}): ScriptedModel {
  const { step, limits = {}, logits, next, engine = {}, chatTemplate, expertLayers = [] } = script;
  const { tokenizerJson = (json: string) => json } = script;
  const read = (name: string) =>
    Deno.readTextFileSync(new URL(`../../models/reference/${name}`, import.meta.url));
  const tokenizer = Tokenizer.fromJson(tokenizerJson(read("tokenizer.json")), {
    ...JSON.parse(read("tokenizer_config.json")),
    ...(chatTemplate !== undefined && { chat_template: chatTemplate }),
  });
  const row = logits ?? new Float32Array(Math.max(VOCABULARY, tokenizer.vocabSize));
  if (!logits) row[tokenizer.encode(SAYS, { addSpecialTokens: false })[0]!] = 50;
  const vocabSize = row.length;
  const rows = new Float32Array(MOST_ROWS * vocabSize);
  for (let i = 0; i < MOST_ROWS; i++) rows.set(row, i * vocabSize);
  const scripted = { steps: 0 } as ScriptedModel;
  const memory = next && new TokenMemory();
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
      ...{ blockSize: BLOCK, ...limits },
    },
    async run(plan) {
      await step?.(plan);
      scripted.steps++;
      const output = (name: string) => script.experts?.(name, plan);
      if (memory) {
        const logits = new Float32Array(plan.logitRows.length * vocabSize);
        for (const [row, tokenIds] of memory.take(plan).entries()) {
          logits[row * vocabSize + next(tokenIds)] = 50;
        }
        return { logits, output };
      }
      const logits = rows.subarray(0, plan.logitRows.length * vocabSize);
      return { logits, output };
    },
    cacheLayout: "none",
    blockBytes: 0,
    copyBlocks: (copies) => Promise.resolve(memory?.copy(copies)),
    readBlocks: () => Promise.resolve(new Uint8Array()),
    writeBlocks: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
  const spec = {
    ...{ architecture: "script", weights: "none", vocabSize, contextLength: 2048 },
    ...{ caches: [], cacheBytesPerToken: 0, expertLayers },
  };
  const config = {
    defaults: { temperature: 0 },
    eosTokenIds: next ? [tokenizer.eosTokenId] : [],
  };
  scripted.llm = Reflect.construct(LLM, [{ spec, backend, tokenizer, config }, engine]) as LLM;
  return scripted;
}

/** A cache whose rows are the tokens that they belong to. */
class TokenMemory {
  readonly #tokens: number[] = [];

  /** Takes a step's tokens. @returns For each row of its logits the sequence up to there. */
  take(plan: StepPlan): number[][] {
    const { tokenIds, slots, queryStarts, contextLengths, blockTables, logitRows } = plan;
    tokenIds.forEach((id, i) => this.#tokens[slots[i]!] = id);
    const width = blockTables.length / contextLengths.length;
    return Array.from(logitRows, (row) => {
      const b = queryStarts.findIndex((start) => start > row) - 1;
      const length = contextLengths[b]! - (queryStarts[b + 1]! - 1 - row);
      return Array.from({ length }, (_, position) => {
        const block = blockTables[b * width + Math.floor(position / BLOCK)]!;
        return this.#tokens[block * BLOCK + position % BLOCK]!;
      });
    });
  }

  copy(copies: BlockCopies) {
    for (const { from, to } of copies) {
      for (let i = 0; i < BLOCK; i++) {
        this.#tokens[to * BLOCK + i] = this.#tokens[from * BLOCK + i]!;
      }
    }
  }
}
