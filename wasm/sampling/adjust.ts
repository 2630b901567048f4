/**
 * What changes logits before the temperature: mask, biases, bans, penalties, in vLLM's order and
 * called by the host only where wanted. A finite logit stays finite, and -Infinity stays -Infinity:
 * no bias revives a masked token.
 */
import { markAdjusted } from "./logits";
import { allowed, F32_MAX, logits, occurrences, vocabSize } from "./memory";

/** An id whose penalty was applied in this call. */
const SETTLED: u32 = u32.MAX_VALUE;

/** Masks what the bits at `allowed` leave out. */
export function applyMask(): void {
  markAdjusted();
  const list = logits;
  const bits = allowed;
  const lowest = f32x4.splat(-f32.POSITIVE_INFINITY);
  for (let word: u32 = 0; word < (vocabSize + 31) / 32; word++) {
    let masked = ~load<u32>(bits + (<usize>word << 2));
    if (masked == u32.MAX_VALUE) { // nearly all words of a grammar's mask
      const from = list + (<usize>word << 7);
      for (let at = from; at < from + 128; at += 16) v128.store(at, lowest);
      continue;
    }
    for (; masked != 0; masked &= masked - 1) {
      const id = word * 32 + ctz(masked);
      store<f32>(list + (<usize>id << 2), -f32.POSITIVE_INFINITY);
    }
  }
}

/**
 * Adds biases.
 *
 * @param input u32 [count] ids, then f32 [count] biases.
 * @param count How many.
 */
export function applyBias(input: usize, count: u32): void {
  markAdjusted();
  const biases = input + (<usize>count << 2);
  for (let offset: usize = 0; offset < <usize>count << 2; offset += 4) {
    const at = logits + (<usize>load<u32>(input + offset) << 2);
    storeFinite(at, <f64>load<f32>(at) + load<f32>(biases + offset));
  }
}

/**
 * Masks tokens, for example those that would end the text before minTokens.
 *
 * @param input u32 [count] ids.
 * @param count How many.
 */
export function applyBans(input: usize, count: u32): void {
  markAdjusted();
  for (let i: u32 = 0; i < count; i++) {
    const id = load<u32>(input + (<usize>i << 2));
    store<f32>(logits + (<usize>id << 2), -f32.POSITIVE_INFINITY);
  }
}

/**
 * Lowers the logits of tokens seen before: by `repetition` (divides a positive logit, multiplies a
 * negative one) once for all of prompt and output, by `frequency` for each time in the output and
 * by `presence` once if it is there.
 *
 * @param input u32 [count] ids: prompt, then output.
 * @param count How many.
 * @param promptCount How many of them are the prompt.
 * @param repetition Above 0; 1 is off.
 * @param presence 0 is off.
 * @param frequency 0 is off.
 */
export function penalize(
  input: usize,
  count: u32,
  promptCount: u32,
  repetition: f64,
  presence: f64,
  frequency: f64,
): void {
  markAdjusted();
  const list = logits;
  const times = occurrences;
  const end = input + (<usize>count << 2);
  for (let at = input + (<usize>promptCount << 2); at < end; at += 4) {
    const own = times + (<usize>load<u32>(at) << 2);
    store<u32>(own, load<u32>(own) + 1);
  }
  for (let at = input; at < end; at += 4) {
    const offset = <usize>load<u32>(at) << 2;
    const inOutput = load<u32>(times + offset);
    if (inOutput == SETTLED) continue;
    store<u32>(times + offset, SETTLED);
    let value: f64 = load<f32>(list + offset);
    value = value > 0 ? value / repetition : value * repetition;
    if (inOutput > 0) value -= frequency * inOutput + presence;
    storeFinite(list + offset, value);
  }
  for (let at = input; at < end; at += 4) store<u32>(times + (<usize>load<u32>(at) << 2), 0);
}

/** Replaces a finite logit. */
function storeFinite(at: usize, value: f64): void {
  if (load<f32>(at) == -f32.POSITIVE_INFINITY) return;
  store<f32>(at, <f32>max<f64>(-F32_MAX, min<f64>(F32_MAX, value)));
}
