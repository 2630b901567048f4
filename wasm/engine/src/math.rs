//! Functions of f32 that a kernel needs: our own, since every libm rounds in its own way.

use crate::simd::{F32x4, I32x4};

/// e^x, relative error below 2e-7 (measured over the whole range in the tests). Below -87.3 the result
/// is 0, above 88.7 it is infinite, NaN stays NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by Cephes' polynomial of degree 6.
#[inline(always)]
pub fn exp(x: F32x4) -> F32x4 {
    const HIGHEST: f32 = 88.722_83; // e^x is the largest number
    let (e_r, n) = exp_parts(x.at_most(F32x4::splat(HIGHEST)));
    // n may be 128, one above the largest exponent: two factors, each in range.
    let half = n.halved();
    let result = e_r.mul(power_of_two(half)).mul(power_of_two(n.sub(half)));
    let infinity = F32x4::splat(f32::INFINITY);
    F32x4::splat(HIGHEST).if_less(x, infinity, zero_if_too_low(x, result))
}

/// [`exp`] for x <= 0, bit for bit.
#[inline(always)]
pub fn exp_of_negative(x: F32x4) -> F32x4 {
    let (e_r, n) = exp_parts(x);
    zero_if_too_low(x, e_r.mul(power_of_two(n)))
}

/// e^x is the smallest normal number.
const LOWEST: f32 = -87.336_54;

/// e^r, and n in its lowest nine bits; x at most 88.7.
#[inline(always)]
fn exp_parts(x: F32x4) -> (F32x4, I32x4) {
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693359375; // exact in 10 bits, so that n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
    const ROUNDING: f32 = 12_582_912.0; // 1.5 * 2^23: what is added to it loses its fraction
    let x = x.at_least(F32x4::splat(LOWEST));
    let shifted = x.mul(F32x4::splat(LOG2_E)).add(F32x4::splat(ROUNDING));
    let n = shifted.sub(F32x4::splat(ROUNDING));
    let r = x.sub(n.mul(F32x4::splat(LN2_HIGH))).sub(n.mul(F32x4::splat(LN2_LOW)));
    let mut polynomial = F32x4::splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = polynomial.mul(r).add(F32x4::splat(*coefficient));
    }
    let e_r = polynomial.mul(r).mul(r).add(r).add(F32x4::splat(1.0));
    (e_r, shifted.as_i32())
}

/// 2^n of the lowest nine bits, n from -126 to 127.
#[inline(always)]
fn power_of_two(n: I32x4) -> F32x4 {
    n.shl::<23>().add(I32x4::splat(127 << 23)).as_f32()
}

/// NaN compares false and has come through the arithmetic.
#[inline(always)]
fn zero_if_too_low(x: F32x4, result: F32x4) -> F32x4 {
    x.if_less(F32x4::splat(LOWEST), F32x4::splat(0.0), result)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: F32x4) -> F32x4 {
    let one = F32x4::splat(1.0);
    one.div(one.add(exp(F32x4::splat(0.0).sub(x))))
}

/// The square root, correctly rounded.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    F32x4::splat(x).sqrt().to_array()[0]
}

/// Applies `f` to every element of `x`, in place of a loop over full vectors and one over the rest.
#[inline(always)]
pub fn map(x: &[f32], y: &mut [f32], f: impl Fn(F32x4) -> F32x4) {
    assert_eq!(x.len(), y.len());
    let whole = x.len() / 4 * 4;
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 <= whole <= len.
        unsafe { f(F32x4::load(x.as_ptr().add(i))).store(y.as_mut_ptr().add(i)) };
    }
    let mut rest = [0.0; 4];
    rest[..x.len() - whole].copy_from_slice(&x[whole..]);
    // SAFETY: four f32.
    let result = unsafe { f(F32x4::load(rest.as_ptr())) }.to_array();
    y[whole..].copy_from_slice(&result[..x.len() - whole]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_2e_7_of_the_true_value_over_its_range() {
        let mut worst = 0f64;
        let mut x = -87.3f32;
        while x < 88.7 {
            let got = exp(F32x4::splat(x)).to_array()[0] as f64;
            let want = (x as f64).exp();
            worst = worst.max((got / want - 1.0).abs());
            x += 0.000_61;
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
    }

    #[test]
    fn exp_has_the_limits_of_the_exponential() {
        let limit = |x: f32| exp(F32x4::splat(x)).to_array()[0];
        assert_eq!(limit(0.0), 1.0);
        assert_eq!(limit(-1e30), 0.0);
        assert_eq!(limit(f32::NEG_INFINITY), 0.0);
        assert_eq!(limit(f32::INFINITY), f32::INFINITY);
        assert!(limit(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_within_2e_7_and_saturates() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            let want = 1.0 / (1.0 + (-(x as f64)).exp());
            let got = sigmoid(F32x4::splat(x)).to_array()[0] as f64;
            assert!((got - want).abs() <= 2e-7 * want.max(1e-30), "{x}: {got} {want}");
        }
        assert_eq!(sigmoid(F32x4::splat(200.0)).to_array()[0], 1.0);
        assert_eq!(sigmoid(F32x4::splat(-200.0)).to_array()[0], 0.0);
    }
}
