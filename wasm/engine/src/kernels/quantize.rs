//! Activations as int8 in blocks of 32 columns, one f32 scale each: what the kernels of quantized
//! weights take. Dot products of whole blocks are then exact integers, in every order.

use super::matrix::BLOCK;
use crate::simd::F32x4;

/// One block of a row.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct QuantizedBlock {
    /// Element i is `scale * levels[i]`.
    pub scale: f32,
    /// Sum of the levels, for weights with a zero point.
    pub sum: i32,
    /// -127 ... 127.
    pub levels: [i8; BLOCK],
}

/// Quantizes rows: `x` [rows, columns] becomes `blocks` [rows, ceil(columns / 32)], the last block of a
/// row padded with zeros. A NaN or infinity makes its block's scale NaN or infinite, so that it shows in
/// every result it takes part in.
///
/// # Panics
/// If a length does not fit.
pub fn quantize(x: &[f32], columns: usize, blocks: &mut [QuantizedBlock]) {
    let per_row = columns.div_ceil(BLOCK);
    assert_eq!(x.len() / columns * per_row, blocks.len());
    for (row, into) in x.chunks_exact(columns).zip(blocks.chunks_exact_mut(per_row)) {
        for (values, block) in row.chunks(BLOCK).zip(into) {
            let mut padded = [0.0; BLOCK];
            padded[..values.len()].copy_from_slice(values);
            *block = quantize_block(&padded);
        }
    }
}

pub(super) fn quantize_block(values: &[f32; BLOCK]) -> QuantizedBlock {
    // SAFETY: i + 4 <= BLOCK.
    let lanes = |i: usize| unsafe { F32x4::load(values.as_ptr().add(i)) };
    let mut largest = F32x4::splat(0.0);
    for i in (0..BLOCK).step_by(4) {
        largest = largest.max(lanes(i).abs());
    }
    let [a, b, c, d] = largest.to_array();
    let largest = F32x4::splat(a).max(F32x4::splat(b)).max(F32x4::splat(c).max(F32x4::splat(d)));
    let magnitude = largest.to_array()[0];
    let inverse = F32x4::splat(if magnitude > 0.0 { 127.0 / magnitude } else { 0.0 });
    let mut block = QuantizedBlock { scale: magnitude / 127.0, sum: 0, levels: [0; BLOCK] };
    for i in (0..BLOCK).step_by(4) {
        let levels = lanes(i).mul(inverse).round().to_i32().to_array();
        for (level, into) in levels.iter().zip(&mut block.levels[i..i + 4]) {
            *into = *level as i8;
            block.sum += level;
        }
    }
    block
}

/// The scalar reference: nearest level, ties to even, in f64.
pub fn reference(values: &[f32; BLOCK]) -> QuantizedBlock {
    let magnitude = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let inverse = if magnitude > 0.0 { 127.0 / magnitude } else { 0.0 };
    let level = |value: f32| {
        let exact = value * inverse;
        let floor = exact as i32 - i32::from(exact < exact as i32 as f32);
        let fraction = exact - floor as f32;
        floor + i32::from(fraction > 0.5 || (fraction == 0.5 && floor % 2 != 0))
    };
    let levels = values.map(|value| level(value) as i8);
    let sum = levels.iter().map(|level| *level as i32).sum();
    QuantizedBlock { scale: magnitude / 127.0, sum, levels }
}
