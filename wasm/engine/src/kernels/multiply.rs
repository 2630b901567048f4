//! Matrix products y[t, n] = sum over k of x[t, k] W[n, k], the linear layers of the model.
//!
//! Every output is summed over k (over blocks of k for quantized weights) in rising order, alone, at any
//! number of tokens: a token's result does not depend on the batch around it.

use core::array::from_fn;

use super::matrix::{Format, Matrix, GROUP};
use super::multiply_quantized::multiply_quantized;
use super::quantize::QuantizedBlock;
use crate::simd::{F32x4, F16_SHIFT};
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
    /// A group's sums for one token, as [`StridedMut::store`] wrote them.
    #[inline(always)]
    pub(super) fn load(&self, token: usize, row: usize, rows: usize) -> [F32x4; 2] {
        let at = token * self.stride + row;
        let count = GROUP.min(rows - row);
        // SAFETY: nobody else uses these columns.
        let from = unsafe { self.values.read(at..at + count) };
        let mut padded = [0.0; GROUP];
        padded[..count].copy_from_slice(from);
        // SAFETY: eight elements.
        unsafe { [F32x4::load(padded.as_ptr()), F32x4::load(padded.as_ptr().add(4))] }
    }

    /// Writes a group's sums for one token; the last group of a matrix may have fewer rows.
    #[inline(always)]
    pub(super) fn store(&mut self, token: usize, row: usize, rows: usize, sums: [F32x4; 2]) {
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
        Format::F16 if tokens >= WIDENED_FROM && w.columns <= WIDENED_COLUMNS => {
            widened_tiles(w, x, tokens, y)
        }
        Format::F16 => float_tiles::<u16>(w, x, tokens, y),
        _ => panic!("a quantized matrix takes quantized rows"),
    }
}

/// Bytes of weights that a thread takes at a time: long enough to be streamed, short enough that a thread
/// that is held up does not hold up the others for long.
const CHUNK_BYTES: usize = 1024 * 1024;

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

/// Runs a block for i = 0 ... 3, written out: LLVM would not always unroll it, and the sums would then
/// lie in memory.
macro_rules! four_times {
    ($i:ident, $body:block) => {
        four_times!($i, $body, 0 1 2 3)
    };
    ($i:ident, $body:block, $($value:literal)*) => {
        $({
            let $i: usize = $value;
            $body
        })*
    };
}
pub(super) use four_times;

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

/// Eight elements, the `i`-th group of a float matrix, as f32.
///
/// # Panics
/// If there is no such group or the format is quantized.
#[inline(always)]
pub(super) fn load_group(format: Format, packed: &[u8], i: usize) -> [F32x4; 2] {
    // SAFETY: the slices have eight elements.
    unsafe {
        match format {
            Format::F32 => f32::load(packed[i * 32..i * 32 + 32].as_ptr() as *const f32),
            Format::F16 => u16::load(packed[i * 16..i * 16 + 16].as_ptr() as *const u16),
            _ => panic!("a quantized matrix has no such elements"),
        }
    }
}

#[inline(never)] // once, for matrices of f32 and widened groups
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

/// From so many tokens on widening a group once for all of them costs less than for every four.
const WIDENED_FROM: usize = 12;
/// Columns of a group that is widened: it lies on the stack and leaves room in the first-level cache.
const WIDENED_COLUMNS: usize = 512;

/// [`float_tiles`] of f16 for many tokens.
#[inline(never)]
fn widened_tiles(w: &Matrix, x: Strided, tokens: usize, y: &mut StridedMut) {
    let mut widened = [0f32; WIDENED_COLUMNS * GROUP];
    let widened = &mut widened[..w.columns * GROUP];
    for group in 0..w.rows.div_ceil(GROUP) {
        let packed = w.groups(group..group + 1).packed;
        for (i, into) in widened.chunks_exact_mut(GROUP).enumerate() {
            let [low, high] = load_group(Format::F16, packed, i);
            // SAFETY: eight elements.
            unsafe {
                low.store(into.as_mut_ptr());
                high.store(into.as_mut_ptr().add(4));
            }
        }
        let rows = GROUP.min(w.rows - group * GROUP);
        // SAFETY: any bits are bytes.
        let (_, packed, _) = unsafe { widened.align_to() };
        let w = Matrix { format: Format::F32, rows, columns: w.columns, packed };
        let mut y = StridedMut { values: y.values.from(group * GROUP), ..*y };
        float_tiles::<f32>(&w, x, tokens, &mut y);
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
        let whole = w.columns / 4 * 4;
        for k in (0..whole).step_by(4) {
            let x: [F32x4; TOKENS] = from_fn(|t| F32x4::load(values.add(t * x.stride + k)));
            four_times!(i, {
                add_column(&mut sums, weights.add((k + i) * GROUP), w, x.map(|x| x.splat_lane(i)));
            });
        }
        for k in whole..w.columns {
            let x = from_fn(|t| F32x4::splat(*values.add(t * x.stride + k)));
            add_column(&mut sums, weights.add(k * GROUP), w, x);
        }
    }
    for (g, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            y.store(token + t, (group + g) * GROUP, w.rows, *sum);
        }
    }
}

/// One column's share of a tile, given it for every token.
#[inline(always)]
unsafe fn add_column<W: FloatElement, const GROUPS: usize, const TOKENS: usize>(
    sums: &mut [[[F32x4; 2]; TOKENS]; GROUPS],
    weights: *const W,
    w: &Matrix,
    x: [F32x4; TOKENS],
) {
    for (g, sums) in sums.iter_mut().enumerate() {
        let [low, high] = W::load(weights.add(g * w.columns * GROUP));
        for (sum, x) in sums.iter_mut().zip(x) {
            sum[0] = sum[0].add(low.mul(x)).kept();
            sum[1] = sum[1].add(high.mul(x)).kept();
        }
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
