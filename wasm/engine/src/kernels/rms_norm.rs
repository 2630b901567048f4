//! RMS norm: y = x / sqrt(mean(x^2) + epsilon) * weight (arXiv 1910.07467).

use crate::math::sqrt;
use crate::simd::F32x4;

/// Normalises rows of `weight.len()` elements: `x` and `y` [rows, width].
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    assert_eq!(x.len(), y.len());
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let mean = sum_of_squares(x) / width as f32;
        let factor = 1.0 / sqrt(mean + epsilon);
        // As in transformers: rounded before the weight is applied.
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = *x * factor * weight;
        }
    }
}

fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = F32x4::splat(0.0);
    let (whole, rest) = x.split_at(x.len() / 4 * 4);
    for four in whole.chunks_exact(4) {
        // SAFETY: `four` has four elements.
        let four = unsafe { F32x4::load(four.as_ptr()) };
        lanes = lanes.add(four.mul(four));
    }
    rest.iter().fold(lanes.sum(), |sum, x| sum + x * x)
}

/// The scalar reference, in f64, for one row.
#[cfg(not(target_family = "wasm"))]
pub fn reference(x: &[f32], weight: &[f32], epsilon: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + epsilon).sqrt();
    x.iter().zip(weight).map(|(x, w)| *x as f64 * factor * *w as f64).collect()
}
