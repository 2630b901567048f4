//! Products with quantized matrices: blocks of integer dot products, scaled and added in f32.

use core::array::from_fn;

use super::matrix::{
    Format, Matrix, BLOCK, GROUP, INT4_BLOCK_BYTES, INT4_ZERO, INT8_BLOCK_BYTES, INT8_ZERO,
    SCALE_BYTES,
};
use super::multiply::{four_times, StridedMut};
use super::quantize::{rows_by_fours, FourBlocks, QuantizedBlock};
use crate::simd::{opaque, F32x4, I16x8, I32x4, I8x16, F16_SHIFT, RELAXED_DOT};

/// Multiplies quantized rows `x` [tokens, blocks], as [`super::quantize::quantize`] leaves them, with a
/// quantized matrix.
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
        Format::Int4 if RELAXED_DOT && tokens >= UNPACKED_FROM => unpacked_tiles(w, x, tokens, y),
        Format::Int4 => quantized_tiles::<Int4>(w, x, tokens, y),
        _ => panic!("a float matrix takes rows of f32"),
    }
}

/// Rows of activations at one of their blocks.
trait Activations: Copy {
    /// The same rows at the next block.
    ///
    /// # Safety
    /// There must be one.
    unsafe fn next(self) -> Self;
    /// Row t's scale, four times.
    ///
    /// # Safety
    /// As for all below: the block must be readable.
    unsafe fn scale(self, t: usize) -> F32x4;
    /// Row t's correction, eight times.
    unsafe fn correction(self, t: usize) -> I16x8;
    /// Minus four times the sum of row t's levels.
    unsafe fn minus_four_sums(self, t: usize) -> i16;
    /// Row t's levels 4i ... 4i+3, four times.
    unsafe fn levels(self, t: usize, i: usize) -> I8x16;
    /// Those levels as i16, twice.
    unsafe fn wide_levels(self, t: usize, i: usize) -> I16x8;
}

/// Rows that lie one by one.
#[derive(Clone, Copy)]
struct Apart<const ROWS: usize>([*const QuantizedBlock; ROWS]);

impl<const ROWS: usize> Activations for Apart<ROWS> {
    #[inline(always)]
    unsafe fn next(self) -> Self {
        Self(self.0.map(|row| opaque(row.add(1))))
    }
    #[inline(always)]
    unsafe fn scale(self, t: usize) -> F32x4 {
        F32x4::load_splat(&raw const (*self.0[t]).scale)
    }
    #[inline(always)]
    unsafe fn correction(self, t: usize) -> I16x8 {
        I16x8::load_pair_splat(&raw const (*self.0[t]).correction)
    }
    #[inline(always)]
    unsafe fn minus_four_sums(self, t: usize) -> i16 {
        (*self.0[t]).correction[0]
    }
    #[inline(always)]
    unsafe fn levels(self, t: usize, i: usize) -> I8x16 {
        let levels = &raw const (*self.0[t]).levels as *const u8;
        I8x16::load(levels.add(i / 4 * 16)).splat_four(i % 4)
    }
    #[inline(always)]
    unsafe fn wide_levels(self, t: usize, i: usize) -> I16x8 {
        let levels = &raw const (*self.0[t]).levels as *const i8;
        I16x8::load_i8(levels.add(i / 2 * 8)).four_twice(i % 2)
    }
}

/// Four rows that lie together.
#[derive(Clone, Copy)]
struct Joined(*const FourBlocks);

impl Activations for Joined {
    #[inline(always)]
    unsafe fn next(self) -> Self {
        Self(opaque(self.0.add(1)))
    }
    #[inline(always)]
    unsafe fn scale(self, t: usize) -> F32x4 {
        F32x4::load(&raw const (*self.0).scales as *const f32).splat_lane(t)
    }
    #[inline(always)]
    unsafe fn correction(self, t: usize) -> I16x8 {
        I16x8::load(&raw const (*self.0).corrections as *const u8).splat_pair(t)
    }
    #[inline(always)]
    unsafe fn minus_four_sums(self, t: usize) -> i16 {
        (*self.0).corrections[t][0]
    }
    #[inline(always)]
    unsafe fn levels(self, t: usize, i: usize) -> I8x16 {
        let word = &raw const (*self.0).levels[i];
        I8x16::load(word as *const u8).splat_four(t)
    }
    #[inline(always)]
    unsafe fn wide_levels(self, t: usize, i: usize) -> I16x8 {
        let two = &raw const (*self.0).levels[i][t / 2 * 2];
        I16x8::load_i8(two as *const i8).four_twice(t % 2)
    }
}

/// Levels of rows 0-3 and 4-7 at columns 4i ... 4i+3, and i.
type Four = (usize, [I8x16; 2]);

/// A quantized format: the integer dot products of one block, exact in whatever way they are taken.
trait QuantizedFormat {
    /// Bytes of a group in one block, scales included.
    const BLOCK_BYTES: usize;
    /// For each of TOKENS rows the products with eight rows of weights, summed over the block.
    ///
    /// # Safety
    /// `block` must point to a group's block, `x` be readable.
    unsafe fn dots<const TOKENS: usize>(
        block: *const u8,
        x: impl Activations,
    ) -> [[I32x4; 2]; TOKENS];
    /// The scales of the eight rows.
    ///
    /// # Safety
    /// `block` must point to a group's block.
    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [F32x4; 2] {
        let factor = F32x4::splat(F16_SHIFT);
        [
            F32x4::load_f16_shifted(block as *const u16).mul(factor),
            F32x4::load_f16_shifted((block as *const u16).add(4)).mul(factor),
        ]
    }
}

struct Int8;

impl QuantizedFormat for Int8 {
    const BLOCK_BYTES: usize = INT8_BLOCK_BYTES;

    #[inline(always)]
    unsafe fn dots<const TOKENS: usize>(
        block: *const u8,
        x: impl Activations,
    ) -> [[I32x4; 2]; TOKENS] {
        let four = |block, i| (i, load_four(block, i));
        let unpack = |block, i: usize| [four(block, 2 * i), four(block, 2 * i + 1)];
        wide_dots(block, unpack, INT8_ZERO as i32, x)
    }
}

struct Int4;

impl QuantizedFormat for Int4 {
    const BLOCK_BYTES: usize = INT4_BLOCK_BYTES;

    #[inline(always)]
    unsafe fn dots<const TOKENS: usize>(
        block: *const u8,
        x: impl Activations,
    ) -> [[I32x4; 2]; TOKENS] {
        let unpack = |block, i: usize| {
            let bytes = load_four(block, i);
            [(i, bytes.map(I8x16::low_nibbles)), (4 + i, bytes.map(I8x16::high_nibbles))]
        };
        if RELAXED_DOT {
            nibble_dots(block, unpack, x)
        } else {
            wide_dots(block, unpack, INT4_ZERO as i32, x)
        }
    }
}

#[inline(always)]
unsafe fn load_four(block: *const u8, i: usize) -> [I8x16; 2] {
    let levels = block.add(SCALE_BYTES + i * 32);
    [I8x16::load(levels), I8x16::load(levels.add(16))]
}

/// Products of nibbles, four times as many an instruction as in [`wide_dots`]. `unpack(block, i)` brings
/// a quarter of the columns.
///
/// A row's sum is two i16. Each starts from half of the zero point's share, -8 * sum(x): with it and any
/// of its sixteen products of at most 15 * 127, it stays within -30480 ... 30480.
#[inline(always)]
unsafe fn nibble_dots<const TOKENS: usize>(
    block: *const u8,
    unpack: impl Fn(*const u8, usize) -> [Four; 2],
    x: impl Activations,
) -> [[I32x4; 2]; TOKENS] {
    let mut sums: [[I16x8; 2]; TOKENS] = from_fn(|t| [x.correction(t); 2]);
    four_times!(i, {
        for (column, four) in unpack(block, i) {
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = x.levels(t, column);
                for (sum, rows) in sums.iter_mut().zip(four) {
                    *sum = sum.add(x.relaxed_dot(rows)).kept();
                }
            }
        }
    });
    sums.map(|[a, b]| [a.add_neighbours(), b.add_neighbours()])
}

/// Products of unsigned bytes widened to 16 bits, `zero` standing for 0. Two tokens at a time: their sums
/// fill the registers.
#[inline(always)]
unsafe fn wide_dots<const TOKENS: usize>(
    block: *const u8,
    unpack: impl Fn(*const u8, usize) -> [Four; 2],
    zero: i32,
    x: impl Activations,
) -> [[I32x4; 2]; TOKENS] {
    let mut dots = [[I32x4::splat(0); 2]; TOKENS];
    if TOKENS == 1 {
        [dots[0]] = wide_dots_from(0, block, &unpack, zero, x);
    } else {
        [dots[0], dots[1]] = wide_dots_from(0, block, &unpack, zero, x);
    }
    if TOKENS == 4 {
        // The weights are loaded again: they would not stay in registers.
        [dots[2], dots[3]] = wide_dots_from(2, opaque(block), &unpack, zero, x);
    }
    dots
}

/// Those of rows `first` and so on. A row's sum is two i32.
#[inline(always)]
unsafe fn wide_dots_from<const TOKENS: usize>(
    first: usize,
    block: *const u8,
    unpack: impl Fn(*const u8, usize) -> [Four; 2],
    zero: i32,
    x: impl Activations,
) -> [[I32x4; 2]; TOKENS] {
    let start = |t: usize| I32x4::splat(x.minus_four_sums(first + t) as i32 * (zero / 8));
    let mut sums: [[I32x4; 4]; TOKENS] = from_fn(|t| [start(t); 4]);
    four_times!(i, {
        for (column, [a, b]) in unpack(block, i) {
            let four = [a.low_unsigned(), a.high_unsigned(), b.low_unsigned(), b.high_unsigned()];
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = x.wide_levels(first + t, column);
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
#[inline(never)] // once, for dense layers and experts
fn quantized_tiles<Q: QuantizedFormat>(
    w: &Matrix,
    x: &[QuantizedBlock],
    tokens: usize,
    y: &mut StridedMut,
) {
    let blocks = w.columns.div_ceil(BLOCK);
    let joined = rows_by_fours(tokens);
    for (group, bytes) in w.packed.chunks_exact(blocks * Q::BLOCK_BYTES).enumerate() {
        let mut tile = Tile { y, row: group * GROUP, rows: w.rows, bytes: bytes.as_ptr(), blocks };
        // SAFETY: `bytes` holds `blocks` blocks and `x` as many for each token.
        unsafe {
            let at = |token: usize| x.as_ptr().add(token * blocks);
            for token in (0..joined).step_by(4) {
                tile.write::<Q, 4>(token, false, Joined(at(token) as *const FourBlocks));
            }
            let mut token = joined;
            if tokens - token >= 2 {
                tile.write::<Q, 2>(token, false, Apart([at(token), at(token + 1)]));
                token += 2;
            }
            if token < tokens {
                tile.write::<Q, 1>(token, false, Apart([at(token)]));
            }
        }
    }
}

/// A group's products with a few tokens.
struct Tile<'a, 'b> {
    y: &'a mut StridedMut<'b>,
    /// The group's first row of `rows`.
    row: usize,
    rows: usize,
    /// The group's blocks and how many there are.
    bytes: *const u8,
    blocks: usize,
}

impl Tile<'_, '_> {
    /// Writes the sums of tokens `token` and so on, added to what is there if `more`.
    ///
    /// # Safety
    /// There must be as many blocks from `x` on.
    #[inline(always)]
    unsafe fn write<Q: QuantizedFormat, const TOKENS: usize>(
        &mut self,
        token: usize,
        more: bool,
        mut x: impl Activations,
    ) {
        let mut sums = [[F32x4::splat(0.0); 2]; TOKENS];
        if more {
            sums = from_fn(|t| self.y.load(token + t, self.row, self.rows));
        }
        let (mut block, mut left) = (self.bytes, self.blocks);
        // The first block stands apart for the engine's sake: limits that addresses are compared with
        // are computed where they are needed first, and so before the loop. Two blocks a round save
        // some of the loop's own instructions.
        add_block::<Q, TOKENS>(&mut sums, block, x);
        while left > 1 {
            block = opaque(block.add(Q::BLOCK_BYTES));
            x = x.next();
            add_block::<Q, TOKENS>(&mut sums, block, x);
            if left == 2 {
                break;
            }
            block = opaque(block.add(Q::BLOCK_BYTES));
            x = x.next();
            add_block::<Q, TOKENS>(&mut sums, block, x);
            left -= 2;
        }
        for (t, sums) in sums.iter().enumerate() {
            self.y.store(token + t, self.row, self.rows, *sums);
        }
    }
}

/// From so many tokens on unpacking nibbles once for all of them costs less than for every four.
const UNPACKED_FROM: usize = 24;
/// Blocks that are unpacked at a time: they lie on the stack and leave room in the first-level cache.
const UNPACKED_BLOCKS: usize = 64;
/// Tokens that meet them: their blocks stay in the second-level cache for all groups.
const UNPACKED_TOKENS: usize = 128;

/// A group's block of int4 unpacked: eight f32 scales, then for every four columns two vectors.
#[derive(Clone, Copy)]
#[repr(C)]
struct Unpacked {
    scales: [f32; GROUP],
    levels: [[[u8; 16]; 2]; BLOCK / 4],
}

impl QuantizedFormat for Unpacked {
    const BLOCK_BYTES: usize = size_of::<Self>();

    #[inline(always)]
    unsafe fn dots<const TOKENS: usize>(
        block: *const u8,
        x: impl Activations,
    ) -> [[I32x4; 2]; TOKENS] {
        let four = |block: *const u8, i: usize| {
            let two = &raw const (*(block as *const Self)).levels[i];
            let row = |half: usize| I8x16::load((two as *const u8).add(half * 16));
            (i, [row(0), row(1)])
        };
        nibble_dots(block, |block, i| [four(block, 2 * i), four(block, 2 * i + 1)], x)
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [F32x4; 2] {
        [F32x4::load(block as *const f32), F32x4::load((block as *const f32).add(4))]
    }
}

impl Unpacked {
    /// # Safety
    /// `block` must point to a group's block of int4, `into` to room for it.
    unsafe fn unpack(block: *const u8, into: *mut Self) {
        let scales = &raw mut (*into).scales as *mut f32;
        let [low, high] = Int4::scales(block);
        low.store(scales);
        high.store(scales.add(4));
        let levels = &raw mut (*into).levels as *mut u8;
        for i in 0..8 {
            let bytes = I8x16::load(block.add(SCALE_BYTES + i * 16));
            bytes.low_nibbles().store(levels.add(i * 16));
            bytes.high_nibbles().store(levels.add(128 + i * 16));
        }
    }
}

/// [`quantized_tiles`] for many tokens.
#[inline(never)]
fn unpacked_tiles(w: &Matrix, x: &[QuantizedBlock], tokens: usize, y: &mut StridedMut) {
    let blocks = w.columns.div_ceil(BLOCK);
    let joined = rows_by_fours(tokens);
    let mut unpacked = [const { core::mem::MaybeUninit::<Unpacked>::uninit() }; UNPACKED_BLOCKS];
    for first in (0..joined).step_by(UNPACKED_TOKENS) {
        for begin in (0..blocks).step_by(UNPACKED_BLOCKS) {
            let count = UNPACKED_BLOCKS.min(blocks - begin);
            for (group, bytes) in w.packed.chunks_exact(blocks * INT4_BLOCK_BYTES).enumerate() {
                let packed = bytes[begin * INT4_BLOCK_BYTES..].chunks_exact(INT4_BLOCK_BYTES);
                for (block, into) in packed.zip(&mut unpacked) {
                    // SAFETY: a block and room for one.
                    unsafe { Unpacked::unpack(block.as_ptr(), into.as_mut_ptr()) };
                }
                let bytes = unpacked.as_ptr() as *const u8;
                let mut tile = Tile { y, row: group * GROUP, rows: w.rows, bytes, blocks: count };
                for token in (first..joined.min(first + UNPACKED_TOKENS)).step_by(4) {
                    // SAFETY: `count` blocks were unpacked; x has as many from there on for four tokens.
                    unsafe {
                        let x = x.as_ptr().add(token * blocks + begin * 4) as *const FourBlocks;
                        tile.write::<Unpacked, 4>(token, begin > 0, Joined(x));
                    }
                }
            }
        }
    }
    if joined < tokens {
        let mut y = StridedMut { values: y.values.from(joined * y.stride), ..*y };
        quantized_tiles::<Int4>(w, &x[joined * blocks..], tokens - joined, &mut y);
    }
}

#[inline(always)]
unsafe fn add_block<Q: QuantizedFormat, const TOKENS: usize>(
    sums: &mut [[F32x4; 2]; TOKENS],
    block: *const u8,
    x: impl Activations,
) {
    let dots = Q::dots::<TOKENS>(block, x);
    let [low, high] = Q::scales(block);
    for (t, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
        let scale = x.scale(t);
        sums[0] = sums[0].add(dots[0].to_f32().mul(low.mul(scale)));
        sums[1] = sums[1].add(dots[1].to_f32().mul(high.mul(scale)));
    }
}
