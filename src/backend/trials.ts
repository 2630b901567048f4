/**
 * Which backend is the fastest on this machine: each computes the same few steps, and the time decides.
 * @module
 */
import type { Backend, BackendName } from "./backend.ts";
import type { StepPlan } from "./step_plan.ts";

/** What a backend took. */
export interface BackendTrial {
  /** The backend. */
  backend: BackendName;
  /** Tokens of the prompt's chunk. */
  promptTokens?: number;
  /** Milliseconds for the chunk. */
  promptMs?: number;
  /** Tokens computed after it, one at a time. */
  decodedTokens?: number;
  /** Milliseconds for them. */
  decodeMs?: number;
  /** Why it can not be used here. */
  failure?: string;
}

/** A backend that is tried, and what closes it. */
export interface OpenedTrial {
  /** It. */
  backend: Backend;
  /** Tokens of the trial are below it. */
  vocabSize: number;
  /** Frees everything. */
  close(): Promise<void>;
}

/** Tokens that a backend generates in its trial. */
const DECODED_TOKENS = 8;
/** Tokens of the prompt's chunk, where the context has room for them. */
const PROMPT_TOKENS = 128;

/**
 * Tries backends one after the other; each is closed before the next is opened. One that has taken longer than
 * another in all is given up.
 *
 * @param names Which, in the order in which they are tried.
 * @param open Opens one.
 * @param now The clock, milliseconds.
 * @returns What each took, or why it could not be tried.
 */
export async function tryBackends(
  names: readonly BackendName[],
  open: (name: BackendName) => Promise<OpenedTrial>,
  now: () => number = () => performance.now(),
): Promise<BackendTrial[]> {
  const trials: BackendTrial[] = [];
  let least = Infinity;
  for (const name of names) {
    try {
      const { backend, vocabSize, close } = await open(name);
      try {
        const times = await timesOf(backend, vocabSize, now, least);
        trials.push({ backend: name, ...times });
        least = Math.min(least, times.promptMs + times.decodeMs);
      } finally {
        await close();
      }
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      trials.push({ backend: name, failure: (error as Error).message });
    }
  }
  return trials;
}

/**
 * The fastest of tried backends: the one with the least time for chunk and tokens together.
 *
 * @param trials What each took.
 * @returns Its name; of equal ones the first. `undefined` if none could be tried.
 */
export function fastest(trials: readonly BackendTrial[]): BackendName | undefined {
  const total = ({ promptMs, decodeMs }: BackendTrial) => (promptMs ?? Infinity) + (decodeMs ?? 0);
  const [first, ...rest] = trials.filter(({ failure }) => failure === undefined);
  return first && rest.reduce((best, one) => total(one) < total(best) ? one : best, first).backend;
}

/** Times a chunk of a prompt and the tokens after it, after a token that warms up. */
async function timesOf(backend: Backend, vocabSize: number, now: () => number, most: number) {
  const { tokens, contextLength, blocks, blockSize, pools = 1 } = backend.limits;
  const room = Math.min(contextLength, (blocks / pools - 1) * blockSize);
  const promptTokens = Math.max(1, Math.min(PROMPT_TOKENS, tokens, room - DECODED_TOKENS));
  let begin = now();
  const run = async (position: number, count: number) => {
    await backend.run(stepOf(position, count, blockSize, vocabSize));
    const taken = now() - begin;
    if (taken > most) throw new Error(`given up after ${Math.round(taken)} ms: another is faster`);
  };
  await run(0, 1);
  begin = now();
  await run(0, promptTokens);
  const middle = now();
  const decodedTokens = Math.min(DECODED_TOKENS, room - promptTokens);
  for (let i = 0; i < decodedTokens; i++) {
    await run(promptTokens + i, 1);
  }
  return { promptTokens, promptMs: middle - begin, decodedTokens, decodeMs: now() - middle };
}

/** A step of one sequence, whose blocks are the first ones. */
function stepOf(begin: number, count: number, blockSize: number, vocabSize: number): StepPlan {
  const positions = Int32Array.from({ length: count }, (_, i) => begin + i);
  const context = begin + count;
  return {
    tokenIds: positions.map((position) => (position * 7919 + 1) % vocabSize),
    positions,
    slots: positions.map((position) => blockSize + position),
    queryStarts: Int32Array.of(0, count),
    contextLengths: Int32Array.of(context),
    blockTables: Int32Array.from({ length: Math.ceil(context / blockSize) }, (_, i) => 1 + i),
    logitRows: Int32Array.of(count - 1),
  };
}
