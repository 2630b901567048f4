//! Sums, products and the logistic function of tensors, element by element.

use crate::math;

/// y = a + b.
///
/// # Panics
/// If the lengths differ.
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    assert!(a.len() == y.len() && b.len() == y.len());
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = a + b;
    }
}

/// y = a * b.
///
/// # Panics
/// If the lengths differ.
pub fn mul(a: &[f32], b: &[f32], y: &mut [f32]) {
    assert!(a.len() == y.len() && b.len() == y.len());
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = a * b;
    }
}

/// y = 1 / (1 + e^-x).
///
/// # Panics
/// If the lengths differ.
pub fn sigmoid(x: &[f32], y: &mut [f32]) {
    math::map(x, y, math::sigmoid);
}

/// Copies `x` [rows, width] into the columns [offset, offset + width) of `y` [rows, y_width].
///
/// # Panics
/// If a length does not fit.
pub fn copy_columns(x: &[f32], width: usize, y: &mut [f32], y_width: usize, offset: usize) {
    assert_eq!(x.len() / width, y.len() / y_width);
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(y_width)) {
        y[offset..offset + width].copy_from_slice(x);
    }
}
