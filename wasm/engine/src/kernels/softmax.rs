//! Softmax, whole and in the parts that attention takes it in.

use crate::math;
use crate::simd::F32x4;

/// The largest element, in every lane; NaN if there is one.
pub(super) fn largest_of(x: &[f32]) -> F32x4 {
    let (whole, rest) = x.split_at(x.len() / 4 * 4);
    let mut lanes = F32x4::splat(f32::NEG_INFINITY);
    for four in whole.chunks_exact(4) {
        // SAFETY: `four` has four elements.
        lanes = lanes.max(unsafe { F32x4::load(four.as_ptr()) });
    }
    for value in rest {
        lanes = lanes.max(F32x4::splat(*value));
    }
    let [a, b, c, d] = lanes.to_array().map(F32x4::splat);
    a.max(b).max(c.max(d))
}

/// x = e^(x - largest), in place. Returns the sum.
pub(super) fn exponentials(x: &mut [f32], largest: F32x4) -> f32 {
    let mut sum = F32x4::splat(0.0);
    let (whole, rest) = x.split_at_mut(x.len() / 4 * 4);
    for four in whole.chunks_exact_mut(4) {
        // SAFETY: `four` has four elements.
        unsafe {
            let e = math::exp_of_negative(F32x4::load(four.as_ptr()).sub(largest));
            e.store(four.as_mut_ptr());
            sum = sum.add(e);
        }
    }
    rest.iter_mut().fold(sum.sum(), |sum, value| {
        *value = math::exp_of_negative(F32x4::splat(*value).sub(largest)).to_array()[0];
        sum + *value
    })
}

/// Softmax in place.
pub fn softmax(x: &mut [f32]) {
    let total = exponentials(x, largest_of(x));
    for value in x {
        *value /= total;
    }
}
