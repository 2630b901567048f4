//! The vectors in WebAssembly's instructions.

use core::arch::asm;
#[cfg(target_arch = "wasm32")]
use core::arch::wasm32::*;
#[cfg(target_arch = "wasm64")]
use core::arch::wasm64::*;

/// Makes the compiler compute a value at this place. LLVM would regroup a sum and compute it in one
/// go at its end, with all that goes into it alive by then: sixteen registers hold a tile only if its
/// sums grow side by side. The use that it sees here is none to the engine, which drops it.
#[inline(always)]
fn keep(value: v128) {
    let lane = i32x4_extract_lane::<0>(value);
    // SAFETY: no instruction.
    unsafe { asm!("# {0}", in(local) lane, options(nomem, nostack, preserves_flags)) };
}

/// The same address, of which the compiler knows nothing: it keeps loads at constant distances from it
/// as they are written. The engine drops it.
#[inline(always)]
pub fn opaque<T>(mut address: *const T) -> *const T {
    // SAFETY: no instruction.
    unsafe { asm!("# {0}", inout(local) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Four f32.
#[derive(Clone, Copy)]
pub struct F32x4(v128);
/// Four i32.
#[derive(Clone, Copy)]
pub struct I32x4(v128);
/// Eight i16.
#[derive(Clone, Copy)]
pub struct I16x8(v128);
/// Sixteen bytes.
#[derive(Clone, Copy)]
pub struct I8x16(v128);

impl F32x4 {
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Self(f32x4_splat(value))
    }
    /// # Safety
    /// `from` must point to four readable f32.
    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> Self {
        Self(v128_load(from as *const v128))
    }
    /// Four halves as f32 times 2^-112: the caller owes a multiplication with 2^112.
    ///
    /// # Safety
    /// `from` must point to four readable u16.
    #[inline(always)]
    pub unsafe fn load_f16_shifted(from: *const u16) -> Self {
        let wide = i32x4_load_extend_i16x4(from as *const i16);
        Self(v128_and(i32x4_shl(wide, 13), i32x4_splat(0x8fff_ffffu32 as i32)))
    }
    /// One f32, four times.
    ///
    /// # Safety
    /// `from` must point to a readable f32.
    #[inline(always)]
    pub unsafe fn load_splat(from: *const f32) -> Self {
        Self(v128_load32_splat(from as *const u32))
    }
    /// Four bf16 as f32.
    ///
    /// # Safety
    /// `from` must point to four readable u16.
    #[inline(always)]
    pub unsafe fn load_bf16(from: *const u16) -> Self {
        Self(i32x4_shl(u32x4_load_extend_u16x4(from), 16))
    }
    /// Four i8 as f32.
    ///
    /// # Safety
    /// `from` must point to four readable bytes.
    #[inline(always)]
    pub unsafe fn load_i8(from: *const i8) -> Self {
        let four = i16x8_extend_low_i8x16(v128_load32_zero(from as *const u32));
        Self(f32x4_convert_i32x4(i32x4_extend_low_i16x8(four)))
    }
    /// # Safety
    /// `to` must point to four writable f32.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut f32) {
        v128_store(to as *mut v128, self.0)
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(f32x4_add(self.0, other.0))
    }
    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        Self(f32x4_sub(self.0, other.0))
    }
    #[inline(always)]
    pub fn mul(self, other: Self) -> Self {
        Self(f32x4_mul(self.0, other.0))
    }
    #[inline(always)]
    pub fn div(self, other: Self) -> Self {
        Self(f32x4_div(self.0, other.0))
    }
    /// This times `factor` plus `term`, in one instruction where there is one: rounded once or twice, as
    /// machines differ. For what need not be exact.
    #[inline(always)]
    pub fn relaxed_mul_add(self, factor: Self, term: Self) -> Self {
        #[cfg(target_feature = "relaxed-simd")]
        return Self(f32x4_relaxed_madd(self.0, factor.0, term.0));
        #[cfg(not(target_feature = "relaxed-simd"))]
        self.mul(factor).add(term)
    }
    /// The larger of each pair; NaN where either is.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        Self(f32x4_max(self.0, other.0))
    }
    /// The smaller of each pair; NaN where either is.
    #[inline(always)]
    pub fn min(self, other: Self) -> Self {
        Self(f32x4_min(self.0, other.0))
    }
    /// `limit` where it is less, else the same: NaN stays. One instruction, unlike [`Self::min`].
    #[inline(always)]
    pub fn at_most(self, limit: Self) -> Self {
        Self(f32x4_pmin(self.0, limit.0))
    }
    /// `limit` where it is more, else the same: NaN stays. One instruction, unlike [`Self::max`].
    #[inline(always)]
    pub fn at_least(self, limit: Self) -> Self {
        Self(f32x4_pmax(self.0, limit.0))
    }
    #[inline(always)]
    pub fn abs(self) -> Self {
        Self(f32x4_abs(self.0))
    }
    #[inline(always)]
    pub fn sqrt(self) -> Self {
        Self(f32x4_sqrt(self.0))
    }
    /// Rounded to nearest, ties to even.
    #[inline(always)]
    pub fn round(self) -> Self {
        Self(f32x4_nearest(self.0))
    }
    /// Whole numbers in the range of i32; others saturate, NaN becomes 0.
    #[inline(always)]
    pub fn to_i32(self) -> I32x4 {
        I32x4(i32x4_trunc_sat_f32x4(self.0))
    }
    /// The same bits as i32.
    #[inline(always)]
    pub fn as_i32(self) -> I32x4 {
        I32x4(self.0)
    }
    /// `then` in the lanes where `self < other`, `otherwise` in the rest.
    #[inline(always)]
    pub fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self {
        Self(v128_bitselect(then.0, otherwise.0, f32x4_lt(self.0, other.0)))
    }
    /// Lane `i`, four times.
    #[inline(always)]
    pub fn splat_lane(self, i: usize) -> Self {
        Self(match i {
            0 => i32x4_shuffle::<0, 0, 0, 0>(self.0, self.0),
            1 => i32x4_shuffle::<1, 1, 1, 1>(self.0, self.0),
            2 => i32x4_shuffle::<2, 2, 2, 2>(self.0, self.0),
            _ => i32x4_shuffle::<3, 3, 3, 3>(self.0, self.0),
        })
    }
    /// The even and the odd ones of eight.
    #[inline(always)]
    pub fn unzip(a: Self, b: Self) -> [Self; 2] {
        [Self(i32x4_shuffle::<0, 2, 4, 6>(a.0, b.0)), Self(i32x4_shuffle::<1, 3, 5, 7>(a.0, b.0))]
    }
    /// The same, computed here: see [`keep`].
    #[inline(always)]
    pub fn kept(self) -> Self {
        keep(self.0);
        self
    }
    #[inline(always)]
    pub fn to_array(self) -> [f32; 4] {
        [
            f32x4_extract_lane::<0>(self.0),
            f32x4_extract_lane::<1>(self.0),
            f32x4_extract_lane::<2>(self.0),
            f32x4_extract_lane::<3>(self.0),
        ]
    }
}

impl I32x4 {
    /// The same, computed here: see [`keep`].
    #[inline(always)]
    pub fn kept(self) -> Self {
        keep(self.0);
        self
    }
    #[inline(always)]
    pub fn splat(value: i32) -> Self {
        Self(i32x4_splat(value))
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(i32x4_add(self.0, other.0))
    }
    #[inline(always)]
    pub fn shl<const BITS: u32>(self) -> Self {
        Self(i32x4_shl(self.0, BITS))
    }
    /// Halved and rounded down.
    #[inline(always)]
    pub fn halved(self) -> Self {
        Self(i32x4_shr(self.0, 1))
    }
    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        Self(i32x4_sub(self.0, other.0))
    }
    /// The larger of each pair.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        Self(i32x4_max(self.0, other.0))
    }
    /// As i16, `self` first; what does not fit saturates.
    #[inline(always)]
    pub fn narrow(self, other: Self) -> I16x8 {
        I16x8(i16x8_narrow_i32x4(self.0, other.0))
    }
    /// As f32, rounded to nearest.
    #[inline(always)]
    pub fn to_f32(self) -> F32x4 {
        F32x4(f32x4_convert_i32x4(self.0))
    }
    /// The same bits as f32.
    #[inline(always)]
    pub fn as_f32(self) -> F32x4 {
        F32x4(self.0)
    }
    #[inline(always)]
    pub fn to_array(self) -> [i32; 4] {
        [
            i32x4_extract_lane::<0>(self.0),
            i32x4_extract_lane::<1>(self.0),
            i32x4_extract_lane::<2>(self.0),
            i32x4_extract_lane::<3>(self.0),
        ]
    }
    /// `[a0 + a1, a2 + a3, b0 + b1, b2 + b3]`.
    #[inline(always)]
    pub fn add_pairs(a: Self, b: Self) -> Self {
        Self(i32x4_add(
            i32x4_shuffle::<0, 2, 4, 6>(a.0, b.0),
            i32x4_shuffle::<1, 3, 5, 7>(a.0, b.0),
        ))
    }
}

impl I16x8 {
    /// The same, computed here: see [`keep`].
    #[inline(always)]
    pub fn kept(self) -> Self {
        keep(self.0);
        self
    }
    #[inline(always)]
    pub fn splat(value: i16) -> Self {
        Self(i16x8_splat(value))
    }
    /// # Safety
    /// `from` must point to sixteen readable bytes.
    #[inline(always)]
    pub unsafe fn load(from: *const u8) -> Self {
        Self(v128_load(from as *const v128))
    }
    /// # Safety
    /// `to` must point to sixteen writable bytes.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut u8) {
        v128_store(to as *mut v128, self.0)
    }
    /// Two i16, four times.
    ///
    /// # Safety
    /// `from` must be readable.
    #[inline(always)]
    pub unsafe fn load_pair_splat(from: *const [i16; 2]) -> Self {
        Self(v128_load32_splat(from as *const u32))
    }
    /// Eight i8, extended.
    ///
    /// # Safety
    /// `from` must point to eight readable bytes.
    #[inline(always)]
    pub unsafe fn load_i8(from: *const i8) -> Self {
        Self(i16x8_load_extend_i8x8(from))
    }
    /// Elements 2i and 2i + 1, four times, for i below 4.
    #[inline(always)]
    pub fn splat_pair(self, i: usize) -> Self {
        Self(I8x16(self.0).splat_four(i).0)
    }
    /// Elements 0-3 (of half 0) or 4-7 (1), twice.
    #[inline(always)]
    pub fn four_twice(self, half: usize) -> Self {
        match half {
            0 => Self(i64x2_shuffle::<0, 0>(self.0, self.0)),
            _ => Self(i64x2_shuffle::<1, 1>(self.0, self.0)),
        }
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(i16x8_add(self.0, other.0))
    }
    /// Sums of neighbouring products: four i32.
    #[inline(always)]
    pub fn dot(self, other: Self) -> I32x4 {
        I32x4(i32x4_dot_i16x8(self.0, other.0))
    }
    /// Sums of neighbouring elements: four i32.
    #[inline(always)]
    pub fn add_neighbours(self) -> I32x4 {
        I32x4(i32x4_dot_i16x8(self.0, i16x8_splat(1)))
    }
    /// As bytes, `self` first; what does not fit saturates.
    #[inline(always)]
    pub fn narrow(self, other: Self) -> I8x16 {
        I8x16(i8x16_narrow_i16x8(self.0, other.0))
    }
}

impl I8x16 {
    /// # Safety
    /// `from` must point to sixteen readable bytes.
    #[inline(always)]
    pub unsafe fn load(from: *const u8) -> Self {
        Self(v128_load(from as *const v128))
    }
    /// Bytes 4i to 4i + 3, four times, for i below 4.
    #[inline(always)]
    pub fn splat_four(self, i: usize) -> Self {
        Self(match i {
            0 => i32x4_shuffle::<0, 0, 0, 0>(self.0, self.0),
            1 => i32x4_shuffle::<1, 1, 1, 1>(self.0, self.0),
            2 => i32x4_shuffle::<2, 2, 2, 2>(self.0, self.0),
            _ => i32x4_shuffle::<3, 3, 3, 3>(self.0, self.0),
        })
    }
    /// # Safety
    /// `to` must point to sixteen writable bytes.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut u8) {
        v128_store(to as *mut v128, self.0)
    }
    /// Bytes 0 to 7, unsigned, as i16.
    #[inline(always)]
    pub fn low_unsigned(self) -> I16x8 {
        I16x8(i16x8_extend_low_u8x16(self.0))
    }
    /// Bytes 8 to 15, unsigned, as i16.
    #[inline(always)]
    pub fn high_unsigned(self) -> I16x8 {
        I16x8(i16x8_extend_high_u8x16(self.0))
    }
    /// The low four bits of each byte.
    #[inline(always)]
    pub fn low_nibbles(self) -> Self {
        Self(v128_and(self.0, u8x16_splat(15)))
    }
    /// The high four bits of each byte.
    #[inline(always)]
    pub fn high_nibbles(self) -> Self {
        Self(v128_and(u16x8_shr(self.0, 4), u8x16_splat(15)))
    }
    /// Sums of neighbouring products with `other`, whose bytes must lie in 0 ... 127: there every
    /// engine's relaxed dot product is exact. Worth its while if [`super::RELAXED_DOT`].
    #[inline(always)]
    pub fn relaxed_dot(self, other: Self) -> I16x8 {
        #[cfg(target_feature = "relaxed-simd")]
        return I16x8(i16x8_relaxed_dot_i8x16_i7x16(self.0, other.0));
        #[cfg(not(target_feature = "relaxed-simd"))]
        I16x8(i16x8_narrow_i32x4(
            i32x4_dot_i16x8(i16x8_extend_low_i8x16(self.0), i16x8_extend_low_i8x16(other.0)),
            i32x4_dot_i16x8(i16x8_extend_high_i8x16(self.0), i16x8_extend_high_i8x16(other.0)),
        ))
    }
}

/// For interleaving rows.
impl I8x16 {
    #[inline(always)]
    pub fn splat(value: i8) -> Self {
        Self(i8x16_splat(value))
    }
    /// Of 32 nibbles, two a byte, the low one first: byte i holds nibble i and, high, nibble 16 + i.
    #[inline(always)]
    pub fn split_nibbles(self) -> Self {
        let (even, odd) = (self.low_nibbles().0, self.high_nibbles().0);
        let low =
            i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(even, odd);
        let high = i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(
            even, odd,
        );
        Self(v128_or(low, i16x8_shl(high, 4)))
    }
    /// Four times four words of four bytes, rows and columns swapped.
    #[inline(always)]
    pub fn transpose_words([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        let (ab, cd) =
            (i32x4_shuffle::<0, 4, 1, 5>(a.0, b.0), i32x4_shuffle::<0, 4, 1, 5>(c.0, d.0));
        let (ab_high, cd_high) =
            (i32x4_shuffle::<2, 6, 3, 7>(a.0, b.0), i32x4_shuffle::<2, 6, 3, 7>(c.0, d.0));
        [
            Self(i64x2_shuffle::<0, 2>(ab, cd)),
            Self(i64x2_shuffle::<1, 3>(ab, cd)),
            Self(i64x2_shuffle::<0, 2>(ab_high, cd_high)),
            Self(i64x2_shuffle::<1, 3>(ab_high, cd_high)),
        ]
    }
    /// The even and the odd ones of sixteen halves of two bytes.
    #[inline(always)]
    pub fn unzip_halves(a: Self, b: Self) -> [Self; 2] {
        [
            Self(i16x8_shuffle::<0, 2, 4, 6, 8, 10, 12, 14>(a.0, b.0)),
            Self(i16x8_shuffle::<1, 3, 5, 7, 9, 11, 13, 15>(a.0, b.0)),
        ]
    }
}
