/**
 * A model whose backend is a script: it computes nothing, takes as much time as the script says, and fails when
 * told to. Engine, sampler and tokenizer are the real ones.
 * @module
 */
import type { Backend } from "../../src/backend/backend.ts";
import type { StepLimits, StepPlan } from "../../src/backend/step_plan.ts";
import { LLM } from "../../src/llm.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";

/** A script. */
export interface Script {
  /** Called before each step; what it throws is the backend's failure. */
  step?(plan: StepPlan): Promise<void> | void;
  /** Bounds of a step. */
  limits?: Partial<StepLimits>;
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
/** What it says: every token is followed by the next of these. */
const SAYS = " word";

/** Opens one. */
export function scriptedModel({ step, limits = {} }: Script = {}): ScriptedModel {
  const read = (name: string) =>
    Deno.readTextFileSync(new URL(`../../models/reference/${name}`, import.meta.url));
  const tokenizer = Tokenizer.fromJson(
    read("tokenizer.json"),
    JSON.parse(read("tokenizer_config.json")),
  );
  const said = tokenizer.encode(SAYS, { addSpecialTokens: false })[0]!;
  const rows = new Float32Array(256 * VOCABULARY);
  for (let row = 0; row < 256; row++) rows[row * VOCABULARY + said] = 50;
  const scripted = { steps: 0 } as ScriptedModel;
  const backend: Backend = {
    info: {
      ...{ backend: "wasm", build: "script", threads: 1, threadsReason: "", cacheType: "f32" },
      ...{ verified: true, bytes: {} },
    },
    limits: {
      ...{ tokens: 512, sequences: 256, logitRows: 256, contextLength: 2048, blocks: 8193 },
      ...{ blockSize: 16, ...limits },
    },
    async run(plan) {
      await step?.(plan);
      scripted.steps++;
      const logits = rows.subarray(0, plan.logitRows.length * VOCABULARY);
      return { logits, output: () => undefined };
    },
    copyBlocks: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
  const spec = {
    ...{ architecture: "script", weights: "none", vocabSize: VOCABULARY, contextLength: 2048 },
    ...{ caches: [], cacheBytesPerToken: 0 },
  };
  const config = { defaults: { temperature: 0 }, eosTokenIds: [] };
  scripted.llm = Reflect.construct(LLM, [{ spec, backend, tokenizer, config }, {}]) as LLM;
  return scripted;
}
