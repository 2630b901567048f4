/**
 * The sampler as the textbooks have it: f64, a full sort, one formula a line. It shares no code and
 * no method with `wasm/sampling`, and is the oracle of its tests.
 * @module
 */

/** What a draw depends on besides the logits; the defaults change nothing. */
export interface Settings {
  allowed?: (id: number) => boolean;
  bias?: ReadonlyMap<number, number>;
  banned?: readonly number[];
  prompt?: readonly number[];
  output?: readonly number[];
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  temperature?: number;
  minP?: number;
  topK?: number;
  topP?: number;
}

/** A distribution over tokens, and how far its cuts are from falling otherwise. */
export interface Distribution {
  /** Kept ids, ascending. */
  ids: number[];
  /** Their probabilities. */
  probabilities: number[];
  /** Least relative distance of top-p's sums and min-p's ratios to their bounds. */
  margin: number;
}

/** Logits after mask, bias, bans and penalties. */
export function adjust(logits: ArrayLike<number>, settings: Settings): number[] {
  const { prompt = [], output = [], bias, banned = [], allowed = () => true } = settings;
  const seen = new Set([...prompt, ...output]);
  const times = new Map<number, number>();
  for (const id of output) times.set(id, (times.get(id) ?? 0) + 1);
  return Array.from(logits, (logit, id) => {
    if (!allowed(id) || banned.includes(id)) return -Infinity;
    let value = logit + (bias?.get(id) ?? 0);
    const repetition = settings.repetitionPenalty ?? 1;
    if (seen.has(id)) value = value > 0 ? value / repetition : value * repetition;
    value -= (settings.frequencyPenalty ?? 0) * (times.get(id) ?? 0);
    if (times.has(id)) value -= settings.presencePenalty ?? 0;
    return value;
  });
}

/**
 * What tokens are drawn from: temperature, min-p, top-k, top-p, each renormalised, in this order.
 */
export function distribution(logits: ArrayLike<number>, settings: Settings): Distribution {
  const { temperature = 1, minP = 0, topK = 0, topP = 1 } = settings;
  const scores = adjust(logits, settings);
  const max = scores.reduce((a, b) => Math.max(a, b));
  const order = [...scores.keys()].filter((id) => scores[id]! > -Infinity)
    .sort((a, b) => scores[b]! - scores[a]! || a - b);
  const weight = (id: number) => Math.exp((scores[id]! - max) / temperature);
  let margin = Infinity;

  let kept = order;
  if (minP > 0) {
    kept = order.filter((id) => weight(id) >= minP);
    for (const id of order) {
      if (scores[id] !== max) margin = Math.min(margin, Math.abs(weight(id) / minP - 1));
    }
  }
  if (topK > 0) kept = kept.slice(0, topK);
  if (topP < 1) {
    const total = kept.reduce((sum, id) => sum + weight(id), 0);
    let sum = 0;
    let length = 0;
    while (length < kept.length && sum < topP * total) sum += weight(kept[length++]!);
    let prefix = 0;
    for (const id of kept) {
      prefix += weight(id);
      margin = Math.min(margin, Math.abs(prefix / total - topP));
    }
    kept = kept.slice(0, length);
  }
  const ids = kept.sort((a, b) => a - b);
  const total = ids.reduce((sum, id) => sum + weight(id), 0);
  return { ids, probabilities: ids.map((id) => weight(id) / total), margin };
}

/** Inverse of the cumulative distribution in the order of the ids, and how near u is to a step. */
export function invert(
  { ids, probabilities }: Distribution,
  u: number,
): { tokenId: number; margin: number } {
  let margin = Infinity;
  let tokenId: number | undefined;
  let sum = 0;
  ids.forEach((id, i) => {
    sum += probabilities[i]!;
    if (tokenId === undefined && sum > u) tokenId = id;
    if (i < ids.length - 1) margin = Math.min(margin, Math.abs(sum - u));
  });
  return { tokenId: tokenId ?? ids[ids.length - 1]!, margin };
}

/** log softmax. */
export function logSoftmax(logits: ArrayLike<number>): number[] {
  const list = Array.from(logits);
  const max = list.reduce((a, b) => Math.max(a, b));
  const logSum = Math.log(list.reduce((sum, x) => sum + Math.exp(x - max), 0));
  return list.map((x) => x - max - logSum);
}

/** Philox4x32-10 of Random123, in BigInt arithmetic. */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  const word = (x: bigint) => x & 0xffffffffn;
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c0;
    const b = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, word(b), (a >> 32n) ^ c3 ^ k1, word(a)];
    k0 = word(k0 + 0x9e3779b9n);
    k1 = word(k1 + 0xbb67ae85n);
  }
  return [c0, c1, c2, c3].map(Number);
}

/** The number in [0, 1) of a seed, a position and a choice. */
export function uniform(seed: bigint, position: number, choice: number): number {
  const bits = BigInt.asUintN(64, seed);
  const key = [Number(bits & 0xffffffffn), Number(bits >> 32n)];
  const [high, low] = philox([position, choice, 0, 0], key) as [number, number];
  return (Math.floor(high / 32) * 2 ** 26 + Math.floor(low / 64)) / 2 ** 53;
}
