//! Matrix products y[t, n] = sum over k of x[t, k] W[n, k], the linear layers of the model.
//!
//! Every output is summed over k (over blocks of k for quantized weights) in rising order, alone, at any
//! number of tokens: a token's result does not depend on the batch around it.

use core::array::from_fn;

use super::matrix::{
    Format, Matrix, BLOCK, GROUP, INT4_BLOCK_BYTES, INT8_BLOCK_BYTES, INT8_ZERO, SCALE_BYTES,
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

/// Levels of rows 0-3 and 4-7 at four neighbouring columns.
type Four = [I8x16; 2];

/// A quantized format: the integer dot products of one block, exact in whatever way they are taken.
trait QuantizedFormat {
    /// Bytes of a group in one block, scales included.
    const BLOCK_BYTES: usize;
    /// Whether the sums of four tokens at once fit the registers; those of two always do.
    const FOUR_TOKENS: bool;
    /// For each of TOKENS rows the products with eight rows of weights, summed over the block.
    ///
    /// # Safety
    /// `levels` must point to the block's bytes after the scales, `x` be readable.
    unsafe fn dots<const TOKENS: usize>(
        levels: *const u8,
        x: [*const QuantizedBlock; TOKENS],
    ) -> [[I32x4; 2]; TOKENS];
}

struct Int8;

impl QuantizedFormat for Int8 {
    const BLOCK_BYTES: usize = INT8_BLOCK_BYTES;
    const FOUR_TOKENS: bool = false;

    #[inline(always)]
    unsafe fn dots<const TOKENS: usize>(
        levels: *const u8,
        x: [*const QuantizedBlock; TOKENS],
    ) -> [[I32x4; 2]; TOKENS] {
        wide_dots(|i| [load_four(levels, i), load_four(levels, i + 4)], INT8_ZERO as i32, x)
    }
}

struct Int4;

impl QuantizedFormat for Int4 {
    const BLOCK_BYTES: usize = INT4_BLOCK_BYTES;
    const FOUR_TOKENS: bool =
        cfg!(any(target_feature = "relaxed-simd", not(target_family = "wasm")));

    #[inline(always)]
    unsafe fn dots<const TOKENS: usize>(
        levels: *const u8,
        x: [*const QuantizedBlock; TOKENS],
    ) -> [[I32x4; 2]; TOKENS] {
        let unpack = |i: usize| {
            let bytes = load_four(levels, i);
            [bytes.map(I8x16::low_nibbles), bytes.map(I8x16::high_nibbles)]
        };
        #[cfg(any(target_feature = "relaxed-simd", not(target_family = "wasm")))]
        return nibble_dots(unpack, x);
        #[cfg(not(any(target_feature = "relaxed-simd", not(target_family = "wasm"))))]
        wide_dots(unpack, super::matrix::INT4_ZERO as i32, x)
    }
}

#[inline(always)]
unsafe fn load_four(levels: *const u8, i: usize) -> Four {
    [I8x16::load(levels.add(i * 32)), I8x16::load(levels.add(i * 32 + 16))]
}

/// Products of nibbles, four times as many an instruction as in [`wide_dots`]. `unpack(i)` brings
/// columns 4i ... 4i+3 and 16+4i ... 16+4i+3.
///
/// A row's sum is two i16. Each starts from half of the zero point's share, -8 * sum(x): with it and any
/// of its sixteen products of at most 15 * 127, it stays within -30480 ... 30480.
#[cfg(any(target_feature = "relaxed-simd", not(target_family = "wasm")))]
#[inline(always)]
unsafe fn nibble_dots<const TOKENS: usize>(
    unpack: impl Fn(usize) -> [Four; 2],
    x: [*const QuantizedBlock; TOKENS],
) -> [[I32x4; 2]; TOKENS] {
    use crate::simd::I16x8;
    let mut sums = x.map(|x| [I16x8::load_pair_splat(&raw const (*x).correction); 2]);
    let levels = x.map(|x| &raw const (*x).levels as *const u8);
    let columns = levels.map(|levels| [I8x16::load(levels), I8x16::load(levels.add(16))]);
    four_times!(i, {
        for (half, four) in unpack(i).into_iter().enumerate() {
            for (t, sums) in sums.iter_mut().enumerate() {
                // Spreading takes a shuffle, or a load with its bounds check: two tokens each keep both
                // the vector units and the rest of the core busy.
                let x = match t {
                    0 | 1 => columns[t][half].splat_four(i),
                    _ => I8x16::load_four_splat(levels[t].add(half * 16 + i * 4)),
                };
                for (sum, rows) in sums.iter_mut().zip(four) {
                    *sum = sum.add(x.relaxed_dot(rows)).kept();
                }
            }
        }
    });
    sums.map(|[a, b]| [a.add_neighbours(), b.add_neighbours()])
}

/// Products of unsigned bytes widened to 16 bits, `zero` standing for 0. A row's sum is two i32.
#[inline(always)]
unsafe fn wide_dots<const TOKENS: usize>(
    unpack: impl Fn(usize) -> [Four; 2],
    zero: i32,
    x: [*const QuantizedBlock; TOKENS],
) -> [[I32x4; 2]; TOKENS] {
    use crate::simd::I16x8;
    let start = |x: *const QuantizedBlock| (*x).correction[0] as i32 * (zero / 8);
    let mut sums = x.map(|x| [I32x4::splat(start(x)); 4]);
    four_times!(i, {
        for (half, [a, b]) in unpack(i).into_iter().enumerate() {
            let four = [a.low_unsigned(), a.high_unsigned(), b.low_unsigned(), b.high_unsigned()];
            for (sums, x) in sums.iter_mut().zip(x) {
                let levels = (&raw const (*x).levels as *const i8).add(half * 16);
                let x = I16x8::load_i8(levels.add(i / 2 * 8)).four_twice(i % 2);
                for (sum, rows) in sums.iter_mut().zip(four) {
                    *sum = sum.add(rows.dot(x)).kept();
                }
            }
        }
    });
    sums.map(|[a, b, c, d]| [I32x4::add_pairs(a, b), I32x4::add_pairs(c, d)])
}

/// Group by group, so that memory is read as one long stream and a group's weights stay in the
/// first-level cache for all tokens.
fn quantized_tiles<Q: QuantizedFormat>(
    w: &Matrix,
    x: &[QuantizedBlock],
    tokens: usize,
    y: &mut StridedMut,
) {
    for group in 0..w.rows.div_ceil(GROUP) {
        let mut token = 0;
        while Q::FOUR_TOKENS && tokens - token >= 4 {
            quantized_tile::<Q, 4>(w, group, x, token, y);
            token += 4;
        }
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
            let x: [*const QuantizedBlock; TOKENS] = from_fn(|t| x.as_ptr().add(t * blocks + b));
            let dots = Q::dots(scales.add(SCALE_BYTES), x);
            let factor = F32x4::splat(F16_SHIFT);
            let low = F32x4::load_f16_shifted(scales as *const u16).mul(factor);
            let high = F32x4::load_f16_shifted((scales as *const u16).add(4)).mul(factor);
            for t in 0..TOKENS {
                let scale = F32x4::splat((*x[t]).scale);
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
