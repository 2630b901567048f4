//! Activations as int8 in blocks of 32 columns, one f32 scale each: what the kernels of quantized
//! weights take. Dot products of whole blocks are then exact integers, in every order.
//!
//! Rows lie by fours, block by block, see [`FourBlocks`]; up to three last ones lie one by one.

use core::array::from_fn;

use super::matrix::BLOCK;
use crate::simd::{F32x4, I8x16};

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

/// The same block of four rows, their words of four bytes in turn: one load brings as many columns of
/// four rows as one multiplication takes.
#[repr(C)]
pub struct FourBlocks {
    pub scales: [f32; 4],
    pub corrections: [[i16; 2]; 4],
    /// [words, rows].
    pub levels: [[[i8; 4]; 4]; BLOCK / 4],
}

impl FourBlocks {
    /// Puts a block of four rows together.
    #[inline(always)]
    fn join(&mut self, rows: [&QuantizedBlock; 4]) {
        for (r, row) in rows.into_iter().enumerate() {
            self.scales[r] = row.scale;
            self.corrections[r] = row.correction;
        }
        for half in 0..2 {
            // SAFETY: a row has 32 levels; four words of four rows are 64 bytes.
            unsafe {
                let row = |row: &QuantizedBlock| {
                    I8x16::load(row.levels.as_ptr().add(half * 16) as *const u8)
                };
                let into = &raw mut self.levels[half * 4] as *mut u8;
                for (i, word) in I8x16::transpose_words(rows.map(row)).into_iter().enumerate() {
                    word.store(into.add(i * 16));
                }
            }
        }
    }
}

/// How many of `rows` rows lie by fours.
pub fn rows_by_fours(rows: usize) -> usize {
    rows / 4 * 4
}

/// Quantizes rows: `x` [rows, columns] becomes `blocks` [rows, ceil(columns / 32)], the last block of a
/// row padded with zeros. A NaN or infinity makes its block's scale NaN or infinite, so that it shows in
/// every result it takes part in.
///
/// # Panics
/// If a length does not fit.
pub fn quantize(x: &[f32], columns: usize, blocks: &mut [QuantizedBlock]) {
    let per_row = columns.div_ceil(BLOCK);
    let rows = x.len() / columns;
    assert_eq!(rows * per_row, blocks.len());
    let block = |row: usize, b: usize| {
        let values = &x[row * columns + b * BLOCK..row * columns + columns.min((b + 1) * BLOCK)];
        // SAFETY: BLOCK numbers each.
        unsafe {
            if values.len() == BLOCK {
                quantize_block(values.as_ptr())
            } else {
                let mut padded = [0.0; BLOCK];
                padded[..values.len()].copy_from_slice(values);
                quantize_block(padded.as_ptr())
            }
        }
    };
    let (fours, rest) = blocks.split_at_mut(rows_by_fours(rows) * per_row);
    for (i, four) in fours_of(fours).iter_mut().enumerate() {
        let (row, b) = (i / per_row * 4, i % per_row);
        let rows: [_; 4] = from_fn(|r| block(row + r, b));
        four.join(rows.each_ref());
    }
    for (i, into) in rest.iter_mut().enumerate() {
        *into = block(rows_by_fours(rows) + i / per_row, i % per_row);
    }
}

/// Puts four rows that lie one by one together.
///
/// # Panics
/// If a length does not fit.
pub fn join_four(rows: [&[QuantizedBlock]; 4], into: &mut [QuantizedBlock]) {
    let into = fours_of(into);
    assert!(rows.iter().all(|row| row.len() == into.len()));
    for (b, four) in into.iter_mut().enumerate() {
        four.join(rows.map(|row| &row[b]));
    }
}

fn fours_of(blocks: &mut [QuantizedBlock]) -> &mut [FourBlocks] {
    const { assert!(size_of::<FourBlocks>() == 4 * size_of::<QuantizedBlock>()) };
    assert_eq!(blocks.len() % 4, 0);
    // SAFETY: as long, as aligned, and any bits are a value of either.
    unsafe {
        core::slice::from_raw_parts_mut(blocks.as_mut_ptr() as *mut FourBlocks, blocks.len() / 4)
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
    let lanes: [F32x4; BLOCK / 4] = from_fn(|i| F32x4::load(values.add(i * 4)));
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
