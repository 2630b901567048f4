/**
 * The softmax's numerators. The exponential is our own, so that every machine draws the same token:
 * baseline SIMD only, since relaxed SIMD may round differently from one processor to the next.
 *
 * e^x = 2^t with t = x log2 e = n + f, n an integer and |f| <= 1/2. 2^f is a polynomial of degree 5
 * that is 1 at 0, fitted for the least relative error, 9.2e-8; n is added to the exponent's bits.
 */
import { count, scoreList } from "./candidates";
import { BLOCK, blockSums, weights } from "./memory";

const LOG2_E: f64 = 1.4426950408889634;
/**
 * The loop's constants, read once: as literals, V8 would build each anew in every iteration, which
 * takes 1.6 times as long.
 */
const CONSTANTS = memory.data<f32>([
  12582912.0, // 1.5 * 2^23: adding it rounds to an integer, left in the low bits
  -126.0, // below, 2^t is no normal f32: it counts as 0
  1.0,
  0.6931469775982754,
  0.24022242083945758,
  0.0555073374392612,
  0.009671512732930355,
  0.0013264727271828057,
], 16);

/**
 * Writes `weights` = exp((score - highest) * scale) of the candidates, and `blockSums`.
 *
 * The relative error of a weight of e^-x is below 2e-7 + 1.3e-7 x: that of the polynomial, and of
 * the difference, the factor and their product. A weight below 2^-126 is 0, and so is that of a
 * score whose difference to the highest is beyond f32. Sums are f64 in a fixed order: four lanes
 * over a block, then block after block.
 *
 * @param highest The greatest score.
 * @param scale 1 / temperature, 2^-126 to 2^126.
 * @returns The sum of the weights, at least 1 if a candidate has the score `highest`.
 */
export function weigh(highest: f32, scale: f64): f64 {
  const top = f32x4.splat(highest);
  const factor = f32x4.splat(<f32>(LOG2_E * scale));
  const rounder = v128.load32_splat(CONSTANTS);
  const lowest = v128.load32_splat(CONSTANTS, 4);
  const one = v128.load32_splat(CONSTANTS, 8);
  const c1 = v128.load32_splat(CONSTANTS, 12);
  const c2 = v128.load32_splat(CONSTANTS, 16);
  const c3 = v128.load32_splat(CONSTANTS, 20);
  const c4 = v128.load32_splat(CONSTANTS, 24);
  const c5 = v128.load32_splat(CONSTANTS, 28);
  let total: f64 = 0;
  let sumAt = blockSums;
  for (let start: u32 = 0; start < count; start += BLOCK) {
    const from = scoreList + (<usize>start << 2);
    const to = weights + (<usize>start << 2);
    let low = f64x2.splat(0);
    let high = f64x2.splat(0);
    for (let offset: usize = 0; offset < BLOCK * 4; offset += 16) {
      const t = f32x4.mul(f32x4.sub(v128.load(from + offset), top), factor);
      const n = f32x4.add(t, rounder);
      const f = f32x4.sub(t, f32x4.sub(n, rounder));
      let power = f32x4.add(f32x4.mul(c5, f), c4);
      power = f32x4.add(f32x4.mul(power, f), c3);
      power = f32x4.add(f32x4.mul(power, f), c2);
      power = f32x4.add(f32x4.mul(power, f), c1);
      power = f32x4.add(f32x4.mul(power, f), one);
      power = i32x4.add(power, i32x4.shl(n, 23));
      const weight = v128.and(power, f32x4.ge(t, lowest));
      v128.store(to + offset, weight);
    }
    // A loop of its own: in one loop there are more values than registers, 1.15 times as slow.
    for (let offset: usize = 0; offset < BLOCK * 4; offset += 16) {
      low = f64x2.add(low, f64x2.promote_low_f32x4(v128.load64_zero(to + offset)));
      high = f64x2.add(high, f64x2.promote_low_f32x4(v128.load64_zero(to + offset, 8)));
    }
    low = f64x2.add(low, high);
    const sum = f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1);
    store<f64>(sumAt, sum);
    sumAt += 8;
    total += sum;
  }
  return total;
}
