//! Matrix products y[t, n] = sum over k of x[t, k] W[n, k], the linear layers of the model.
//!
//! Every output is summed over k (over blocks of k for quantized weights) in rising order, alone, at any
//! number of tokens: a token's result does not depend on the batch around it.

use super::matrix::{
    Format, Matrix, BLOCK, GROUP, INT4_BLOCK_BYTES, INT8_BLOCK_BYTES, SCALE_BYTES,
};
use super::quantize::QuantizedBlock;
use crate::simd::{F32x4, I32x4, I8x16, F16_SHIFT};
use crate::team::{Shared, Team};

/// Rows of f32 that lie `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

/// Rows of f32 to be written, `stride` elements apart. Whoever multiplies owns the columns he writes.
#[derive(Clone, Copy)]
pub struct StridedMut<'a> {
    pub values: Shared<'a, f32>,
    pub stride: usize,
}

impl StridedMut<'_> {
    /// Writes a group's sums for one token; the last group of a matrix may have fewer rows.
    #[inline(always)]
    fn store(&mut self, token: usize, row: usize, rows: usize, sums: [F32x4; 2]) {
        let at = token * self.stride + row;
        let count = GROUP.min(rows - row);
        // SAFETY: nobody else uses these columns.
        let into = unsafe { self.values.write(at..at + count) };
        if count == GROUP {
            // SAFETY: `into` has eight elements.
            unsafe {
                sums[0].store(into.as_mut_ptr());
                sums[1].store(into.as_mut_ptr().add(4));
            }
        } else {
            let lanes = [sums[0].to_array(), sums[1].to_array()];
            for (lane, into) in into.iter_mut().enumerate() {
                *into = lanes[lane / 4][lane % 4];
            }
        }
    }
}

/// Multiplies rows of f32 with a float matrix.
///
/// # Panics
/// If a length does not fit or the matrix is quantized.
pub fn multiply_float(w: &Matrix, x: Strided, tokens: usize, y: &mut StridedMut) {
    if tokens == 0 {
        return;
    }
    assert!(x.values.len() >= (tokens - 1) * x.stride + w.columns);
    assert!(y.values.len() >= (tokens - 1) * y.stride + w.rows);
    match w.format {
        Format::F32 => float_tiles::<f32>(w, x, tokens, y),
        Format::F16 => float_tiles::<u16>(w, x, tokens, y),
        _ => panic!("a quantized matrix takes quantized rows"),
    }
}

/// Multiplies quantized rows `x` [tokens, blocks] with a quantized matrix.
///
/// # Panics
/// If a length does not fit or the matrix is not quantized.
pub fn multiply_quantized(w: &Matrix, x: &[QuantizedBlock], tokens: usize, y: &mut StridedMut) {
    if tokens == 0 {
        return;
    }
    assert_eq!(x.len(), tokens * w.columns.div_ceil(BLOCK));
    assert!(y.values.len() >= (tokens - 1) * y.stride + w.rows);
    match w.format {
        Format::Int8 => quantized_tiles::<Int8>(w, x, tokens, y),
        Format::Int4 => quantized_tiles::<Int4>(w, x, tokens, y),
        _ => panic!("a float matrix takes rows of f32"),
    }
}

/// Bytes of weights that a thread takes at a time: long enough to be streamed, short enough that a thread
/// that is held up does not hold up the others for long.
const CHUNK_BYTES: usize = 64 * 1024;

/// Groups of rows that a thread takes at a time, of `groups` in all.
pub fn grain_of(group_bytes: usize, groups: usize, team: &Team) -> usize {
    let shared_out = groups / (team.threads() * 4);
    (CHUNK_BYTES / group_bytes).min(shared_out).max(1)
}

/// [`multiply_float`], divided among the threads of a team.
pub fn share_float(team: &Team, w: &Matrix, x: Strided, tokens: usize, y: StridedMut) {
    share_groups(team, w, y, |w, y| multiply_float(w, x, tokens, y));
}

/// [`multiply_quantized`], divided among the threads of a team.
pub fn share_quantized(
    team: &Team,
    w: &Matrix,
    x: &[QuantizedBlock],
    tokens: usize,
    y: StridedMut,
) {
    share_groups(team, w, y, |w, y| multiply_quantized(w, x, tokens, y));
}

fn share_groups(
    team: &Team,
    w: &Matrix,
    y: StridedMut,
    multiply: impl Fn(&Matrix, &mut StridedMut),
) {
    if y.values.is_empty() {
        return; // a step may want no logits
    }
    let groups = w.rows.div_ceil(GROUP);
    let grain = grain_of(w.format.group_bytes(w.columns), groups, team);
    team.share(groups, grain, |range| {
        let mut y = StridedMut { values: y.values.from(range.start * GROUP), ..y };
        multiply(&w.groups(range), &mut y);
    });
}

/// An element of a float matrix.
trait FloatElement {
    /// Eight elements as f32.
    ///
    /// # Safety
    /// `from` must point to eight of them.
    unsafe fn load(from: *const Self) -> [F32x4; 2];
}

impl FloatElement for f32 {
    #[inline(always)]
    unsafe fn load(from: *const Self) -> [F32x4; 2] {
        [F32x4::load(from), F32x4::load(from.add(4))]
    }
}

impl FloatElement for u16 {
    #[inline(always)]
    unsafe fn load(from: *const Self) -> [F32x4; 2] {
        let factor = F32x4::splat(F16_SHIFT);
        [
            F32x4::load_f16_shifted(from).mul(factor),
            F32x4::load_f16_shifted(from.add(4)).mul(factor),
        ]
    }
}

fn float_tiles<W: FloatElement>(w: &Matrix, x: Strided, tokens: usize, y: &mut StridedMut) {
    let groups = w.rows.div_ceil(GROUP);
    let mut token = 0;
    while tokens - token >= 4 {
        for group in 0..groups {
            float_tile::<W, 1, 4>(w, group, x, token, y);
        }
        token += 4;
    }
    // Few tokens: several groups at once keep as many sums in flight.
    while token < tokens {
        let mut group = 0;
        while groups - group >= 4 {
            float_tile::<W, 4, 1>(w, group, x, token, y);
            group += 4;
        }
        while group < groups {
            float_tile::<W, 1, 1>(w, group, x, token, y);
            group += 1;
        }
        token += 1;
    }
}

#[inline(always)]
fn float_tile<W: FloatElement, const GROUPS: usize, const TOKENS: usize>(
    w: &Matrix,
    group: usize,
    x: Strided,
    token: usize,
    y: &mut StridedMut,
) {
    let mut sums = [[[F32x4::splat(0.0); 2]; TOKENS]; GROUPS];
    // SAFETY: `Matrix::new` checked the packed length: a group has columns * GROUP elements.
    // `multiply_float` checked that x has `columns` elements from each token's row on.
    unsafe {
        let weights = (w.packed.as_ptr() as *const W).add(group * w.columns * GROUP);
        let values = x.values.as_ptr().add(token * x.stride);
        for k in 0..w.columns {
            let mut splats = [F32x4::splat(0.0); TOKENS];
            for (t, splat) in splats.iter_mut().enumerate() {
                *splat = F32x4::splat(*values.add(t * x.stride + k));
            }
            for (g, sums) in sums.iter_mut().enumerate() {
                let [low, high] = W::load(weights.add((g * w.columns + k) * GROUP));
                for (sum, splat) in sums.iter_mut().zip(splats) {
                    sum[0] = sum[0].add(low.mul(splat));
                    sum[1] = sum[1].add(high.mul(splat));
                }
            }
        }
    }
    for (g, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            y.store(token + t, (group + g) * GROUP, w.rows, *sum);
        }
    }
}

/// A quantized format: the integer dot products of one block.
trait QuantizedFormat {
    /// Bytes of a group in one block, scales included.
    const BLOCK_BYTES: usize;
    /// For each of TOKENS rows the products with eight rows of weights, summed over the block.
    ///
    /// # Safety
    /// `levels` must point to the block's bytes after the scales.
    unsafe fn dot<const TOKENS: usize>(
        levels: *const u8,
        x: [&QuantizedBlock; TOKENS],
    ) -> [[I32x4; 2]; TOKENS];
}

struct Int8;

impl QuantizedFormat for Int8 {
    const BLOCK_BYTES: usize = INT8_BLOCK_BYTES;

    #[inline(always)]
    unsafe fn dot<const TOKENS: usize>(
        levels: *const u8,
        x: [&QuantizedBlock; TOKENS],
    ) -> [[I32x4; 2]; TOKENS] {
        use crate::simd::I16x8;
        let mut sums = [[I32x4::splat(0); 4]; TOKENS];
        for i in 0..BLOCK / 4 {
            let rows = [I8x16::load(levels.add(i * 32)), I8x16::load(levels.add(i * 32 + 16))];
            let weights = [rows[0].low(), rows[0].high(), rows[1].low(), rows[1].high()];
            for (sum, x) in sums.iter_mut().zip(x) {
                let four = I16x8::load_four_twice(x.levels.as_ptr().add(i * 4));
                for (sum, weight) in sum.iter_mut().zip(weights) {
                    *sum = sum.add(weight.dot(four));
                }
            }
        }
        sums.map(|[a, b, c, d]| [I32x4::add_pairs(a, b), I32x4::add_pairs(c, d)])
    }
}

struct Int4;

impl QuantizedFormat for Int4 {
    const BLOCK_BYTES: usize = INT4_BLOCK_BYTES;

    /// Sixteen products of at most 15 * 127 and the zero point's share stay within i16.
    #[cfg(target_feature = "relaxed-simd")]
    #[inline(always)]
    unsafe fn dot<const TOKENS: usize>(
        levels: *const u8,
        x: [&QuantizedBlock; TOKENS],
    ) -> [[I32x4; 2]; TOKENS] {
        use crate::simd::I16x8;
        // Two i16 sums make a row's: each begins with half of -8 * sum.
        let mut sums = x.map(|x| [I16x8::splat((-4 * x.sum) as i16); 2]);
        for i in 0..BLOCK / 8 {
            for half in 0..2 {
                let bytes = I8x16::load(levels.add(i * 32 + half * 16));
                let (low, high) = (bytes.low_nibbles(), bytes.high_nibbles());
                for (sum, x) in sums.iter_mut().zip(x) {
                    let first = I8x16::load_four_splat(x.levels.as_ptr().add(i * 4));
                    let second = I8x16::load_four_splat(x.levels.as_ptr().add(16 + i * 4));
                    sum[half] = sum[half].add(first.relaxed_dot(low)).add(second.relaxed_dot(high));
                }
            }
        }
        sums.map(|[a, b]| [a.add_neighbours(), b.add_neighbours()])
    }

    #[cfg(not(target_feature = "relaxed-simd"))]
    #[inline(always)]
    unsafe fn dot<const TOKENS: usize>(
        levels: *const u8,
        x: [&QuantizedBlock; TOKENS],
    ) -> [[I32x4; 2]; TOKENS] {
        use crate::simd::I16x8;
        let mut sums = x.map(|x| [I32x4::splat(-8 * x.sum); 2]);
        for i in 0..BLOCK / 8 {
            for half in 0..2 {
                // As i16: nibbles of the even and the odd columns, low ones first.
                let pairs = I8x16::load(levels.add(i * 32 + half * 16)).as_i16();
                let even = [pairs.nibble::<0>(), pairs.nibble::<4>()];
                let odd = [pairs.nibble::<8>(), pairs.nibble::<12>()];
                for (sum, x) in sums.iter_mut().zip(x) {
                    for part in 0..2 {
                        let four = I16x8::load_four_twice(x.levels.as_ptr().add(part * 16 + i * 4));
                        let products =
                            even[part].dot(four.even_pair()).add(odd[part].dot(four.odd_pair()));
                        sum[half] = sum[half].add(products);
                    }
                }
            }
        }
        sums
    }
}

fn quantized_tiles<Q: QuantizedFormat>(
    w: &Matrix,
    x: &[QuantizedBlock],
    tokens: usize,
    y: &mut StridedMut,
) {
    for group in 0..w.rows.div_ceil(GROUP) {
        let mut token = 0;
        while tokens - token >= 2 {
            quantized_tile::<Q, 2>(w, group, x, token, y);
            token += 2;
        }
        if token < tokens {
            quantized_tile::<Q, 1>(w, group, x, token, y);
        }
    }
}

#[inline(always)]
fn quantized_tile<Q: QuantizedFormat, const TOKENS: usize>(
    w: &Matrix,
    group: usize,
    x: &[QuantizedBlock],
    token: usize,
    y: &mut StridedMut,
) {
    let blocks = w.columns.div_ceil(BLOCK);
    let bytes = &w.packed[group * blocks * Q::BLOCK_BYTES..(group + 1) * blocks * Q::BLOCK_BYTES];
    let x = &x[token * blocks..(token + TOKENS) * blocks];
    let mut sums = [[F32x4::splat(0.0); 2]; TOKENS];
    for b in 0..blocks {
        // SAFETY: `bytes` holds `blocks` blocks and `x` as many for each token.
        unsafe {
            let scales = bytes.as_ptr().add(b * Q::BLOCK_BYTES);
            let mut rows = [x.get_unchecked(b); TOKENS];
            for (t, row) in rows.iter_mut().enumerate() {
                *row = x.get_unchecked(t * blocks + b);
            }
            let dots = Q::dot(scales.add(SCALE_BYTES), rows);
            let factor = F32x4::splat(F16_SHIFT);
            let low = F32x4::load_f16_shifted(scales as *const u16).mul(factor);
            let high = F32x4::load_f16_shifted((scales as *const u16).add(4)).mul(factor);
            for t in 0..TOKENS {
                let scale = F32x4::splat(rows[t].scale);
                sums[t][0] = sums[t][0].add(dots[t][0].to_f32().mul(low.mul(scale)));
                sums[t][1] = sums[t][1].add(dots[t][1].to_f32().mul(high.mul(scale)));
            }
        }
    }
    for (t, sum) in sums.iter().enumerate() {
        y.store(token + t, group * GROUP, w.rows, *sum);
    }
}

/// The scalar reference: f64 sums over the matrix's elements. `x` [tokens, columns], result
/// [tokens, rows].
#[cfg(not(target_family = "wasm"))]
pub fn reference(w: &Matrix, x: &[f32], tokens: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks_exact(w.columns).take(tokens) {
        for n in 0..w.rows {
            let products = row.iter().enumerate();
            y.push(products.map(|(k, x)| *x as f64 * super::matrix::element(w, n, k) as f64).sum());
        }
    }
    y
}
