/**
 * The selection behind top-k and top-p without a sort: where in the order (score descending, id
 * ascending) does a running sum reach a target? The sum is a count for top-k, of weights for top-p.
 *
 * A pass spreads the scores evenly over buckets, adds up each bucket, and goes on with the members
 * of the one in which the target is reached: nearly always few. The highest and the lowest score
 * never share a bucket, hence every pass leaves fewer, until all that are left have the same score.
 */
import { BUCKETS, buckets, members } from "./memory";

/** 2^52: adding it leaves the nearest integer in the low bits. */
const ROUNDER: f64 = 4503599627370496.0;

/** Result of `select`: the score of the last element within the sum. */
export let threshold: f32 = 0;
/** Result of `select`: the index of the last element with that score within the sum. */
export let lastTie: u32 = 0;

let highest: f32 = 0;
let lowest: f32 = 0;

/**
 * Finds the smallest prefix of the order whose sum reaches `target`, or else takes everything.
 *
 * @param scores f32 [count].
 * @param values f32 [count], padded to whole vectors with what is below `least`.
 * @param least Elements whose value is lower are left out; at least one is not.
 * @param count How many.
 * @param target Above 0.
 * @param weighted Whether an element counts as its value; otherwise as 1.
 */
export function select(
  scores: usize,
  values: usize,
  least: f32,
  count: u32,
  target: f64,
  weighted: bool,
): void {
  const list = members;
  const sums = buckets;
  let length = gather(list, values, least, count);
  findRange(list, length, scores);
  let sum: f64 = 0;
  while (lowest < highest) {
    const top: f64 = highest;
    const slope: f64 = (BUCKETS - 1) / (top - lowest);
    for (let bucket: u32 = 0; bucket < BUCKETS; bucket++) {
      store<f64>(sums + (<usize>bucket << 3), 0);
    }
    for (let i: u32 = 0; i < length; i++) {
      const index = indexAt(list, i);
      const at = sums + (<usize>bucketOf(valueAt(scores, index), top, slope) << 3);
      store<f64>(at, load<f64>(at) + (weighted ? <f64>valueAt(values, index) : 1));
    }
    let bucket: u32 = 0;
    for (; bucket < BUCKETS - 1; bucket++) {
      const next = sum + load<f64>(sums + (<usize>bucket << 3));
      if (next >= target) break;
      sum = next;
    }
    let left: u32 = 0;
    for (let i: u32 = 0; i < length; i++) {
      const index = indexAt(list, i);
      if (bucketOf(valueAt(scores, index), top, slope) != bucket) continue;
      store<u32>(list + (<usize>left << 2), index);
      left++;
    }
    length = left;
    findRange(list, length, scores);
  }
  let i: u32 = 0;
  do {
    lastTie = indexAt(list, i);
    sum += weighted ? <f64>valueAt(values, lastTie) : 1;
    i++;
  } while (i < length && sum < target);
  threshold = highest;
}

/** Writes the indices of the elements whose value is at least `least`; returns how many. */
function gather(list: usize, values: usize, least: f32, count: u32): u32 {
  const bound = f32x4.splat(least);
  let length: u32 = 0;
  for (let index: u32 = 0; index < count; index += 4) {
    let lanes = i32x4.bitmask(f32x4.ge(v128.load(values + (<usize>index << 2)), bound));
    for (; lanes != 0; lanes &= lanes - 1) {
      store<u32>(list + (<usize>length << 2), index + ctz(lanes));
      length++;
    }
  }
  return length;
}

/** Finds the highest and the lowest score of the elements listed. */
function findRange(list: usize, length: u32, scores: usize): void {
  let low: f32 = f32.POSITIVE_INFINITY;
  let high: f32 = -f32.POSITIVE_INFINITY;
  for (let i: u32 = 0; i < length; i++) {
    const score = valueAt(scores, indexAt(list, i));
    if (score > high) high = score;
    if (score < low) low = score;
  }
  highest = high;
  lowest = low;
}

/** Falls with the score, by at most BUCKETS - 1 from the highest to the lowest. */
function bucketOf(score: f32, top: f64, slope: f64): u32 {
  return <u32>reinterpret<u64>((top - score) * slope + ROUNDER);
}

function valueAt(list: usize, index: u32): f32 {
  return load<f32>(list + (<usize>index << 2));
}

function indexAt(list: usize, i: u32): u32 {
  return load<u32>(list + (<usize>i << 2));
}
