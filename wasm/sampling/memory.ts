/**
 * Where everything lies in linear memory. All of it is allocated once for a vocabulary, so that a
 * token costs no allocation; only `input` grows, with the longest history seen.
 *
 * Every list over the vocabulary is padded to whole blocks. The padding of scores is -Infinity,
 * which no step selects and whose weight is 0, so that no loop needs a tail.
 *
 * Hot loops copy what they use of these variables to locals: V8 reads a mutable global anew at
 * every access, which made such loops take twice as long.
 */

/** Elements of a block: 32 vectors, which share one maximum and one partial sum. */
export const BLOCK: u32 = 128;
/** The largest finite f32; a finite score never leaves [-F32_MAX, F32_MAX]. */
export const F32_MAX: f32 = f32.MAX_VALUE;
/** Buckets of one pass of `select`. */
export const BUCKETS: u32 = 256;

/** V, the tokens of the vocabulary. */
export let vocabSize: u32 = 0;
/** ceil(V / BLOCK). */
export let blockCount: u32 = 0;

/** f32 [V]: the model's logits, written by the host; biases, bans, penalties and masks change them. */
export let logits: usize = 0;
/** f32 [V]: exp((score - max) / temperature) of the candidates. */
export let weights: usize = 0;
/** f64 [blocks]: sums of `weights`. */
export let blockSums: usize = 0;
/** f32 [blocks]: the blocks' maxima of `logits`. */
export let logitMaxima: usize = 0;
/** u32 [V]: ids of the candidates, ascending. */
export let candidateIds: usize = 0;
/** f32 [V]: scores of the candidates, in the order of their ids. */
export let candidateScores: usize = 0;
/** u32 [V]: scratch of `select`. */
export let members: usize = 0;
/** f64 [BUCKETS]: scratch of `select`. */
export let buckets: usize = 0;
/** u32 [V]: scratch of `penalize`, zero between calls. */
export let occurrences: usize = 0;
/** u32 [ceil(V / 32)]: allowed tokens, id i at bit i % 32 of word i / 32; written by the host. */
export let allowed: usize = 0;

let input: usize = 0;
let inputWords: u32 = 0;

/**
 * Lays out the memory. Called once, before anything else.
 *
 * @param size V, at least 1.
 */
export function initialize(size: u32): void {
  vocabSize = size;
  blockCount = (size + BLOCK - 1) / BLOCK;
  const padded: usize = blockCount * BLOCK;
  logits = scores(padded);
  weights = heap.alloc(padded << 2);
  blockSums = heap.alloc(<usize>blockCount << 3);
  logitMaxima = scores(blockCount + 3);
  candidateIds = heap.alloc(padded << 2);
  candidateScores = scores(padded);
  members = heap.alloc(padded << 2);
  buckets = heap.alloc(<usize>BUCKETS << 3);
  occurrences = heap.alloc(padded << 2);
  memory.fill(occurrences, 0, padded << 2);
  allowed = heap.alloc((padded >> 5) << 2);
}

/**
 * Room for the host's lists. It is the last allocation, hence grows in place.
 *
 * @param words How many 32-bit words are needed.
 * @returns Where they are; valid until the next call.
 */
export function reserveInput(words: u32): usize {
  if (words > inputWords) {
    input = inputWords == 0
      ? heap.alloc(<usize>words << 2)
      : heap.realloc(input, <usize>words << 2);
    inputWords = words;
  }
  return input;
}

/** A list of `length` scores, all -Infinity. */
function scores(length: usize): usize {
  const start = heap.alloc(length << 2);
  fillScores(start, start + (length << 2));
  return start;
}

/** Writes -Infinity over the scores in [from, to). */
export function fillScores(from: usize, to: usize): void {
  for (let at = from; at < to; at += 4) store<f32>(at, -f32.POSITIVE_INFINITY);
}
