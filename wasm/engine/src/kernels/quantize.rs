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
    /// Minus four times the sum of the levels, twice: two halves of what a zero point of 8 adds.
    pub correction: [i16; 2],
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
            // SAFETY: BLOCK numbers each.
            *block = unsafe {
                if values.len() == BLOCK {
                    quantize_block(values.as_ptr())
                } else {
                    let mut padded = [0.0; BLOCK];
                    padded[..values.len()].copy_from_slice(values);
                    quantize_block(padded.as_ptr())
                }
            };
        }
    }
}

/// Below it 127 / magnitude could overflow: such a block becomes zeros.
const SMALLEST: f32 = 1e-36;
/// Added to a number below 2^22, it leaves the nearest whole one, ties to even, in the low bits.
const ROUNDING: f32 = 12582912.0; // 1.5 * 2^23

/// # Safety
/// `values` must point to BLOCK readable numbers.
#[inline(always)]
pub(super) unsafe fn quantize_block(values: *const f32) -> QuantizedBlock {
    let lanes: [F32x4; BLOCK / 4] = core::array::from_fn(|i| F32x4::load(values.add(i * 4)));
    // As integers, the bits of magnitudes are ordered as the numbers are, with NaN above all.
    let bits = |i: usize| lanes[i].abs().as_i32();
    let largest = (1..BLOCK / 4).fold(bits(0), |largest, i| largest.max(bits(i))).to_array();
    let magnitude = f32::from_bits(largest.into_iter().fold(0, i32::max) as u32);
    let inverse = F32x4::splat(if magnitude < SMALLEST { 0.0 } else { 127.0 / magnitude });
    let rounding = F32x4::splat(ROUNDING);
    let level = |i: usize| lanes[i].mul(inverse).add(rounding).as_i32().sub(rounding.as_i32());
    let eight = |i: usize| level(2 * i).narrow(level(2 * i + 1));
    let eights = [eight(0), eight(1), eight(2), eight(3)];
    let mut block =
        QuantizedBlock { scale: magnitude / 127.0, correction: [0; 2], levels: [0; BLOCK] };
    eights[0].narrow(eights[1]).store(block.levels.as_mut_ptr() as *mut u8);
    eights[2].narrow(eights[3]).store(block.levels.as_mut_ptr().add(16) as *mut u8);
    let sums = eights[0].add(eights[1]).add(eights[2].add(eights[3])).add_neighbours();
    block.correction = [(-4 * sums.to_array().iter().sum::<i32>()) as i16; 2];
    block
}

/// The scalar reference: nearest level, ties to even, in f64.
pub fn reference(values: &[f32; BLOCK]) -> QuantizedBlock {
    let magnitude = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let inverse = if magnitude < SMALLEST { 0.0 } else { 127.0 / magnitude };
    let level = |value: f32| {
        let exact = value * inverse;
        let floor = exact as i32 - i32::from(exact < exact as i32 as f32);
        let fraction = exact - floor as f32;
        floor + i32::from(fraction > 0.5 || (fraction == 0.5 && floor % 2 != 0))
    };
    let levels = values.map(|value| level(value) as i8);
    let sum: i16 = levels.iter().map(|level| *level as i16).sum();
    QuantizedBlock { scale: magnitude / 127.0, correction: [-4 * sum; 2], levels }
}
