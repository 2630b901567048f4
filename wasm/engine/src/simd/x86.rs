//! The vectors in x86-64's instructions up to SSE4.1 (x86-64-v2, any processor since 2011): what the op
//! library of onnxruntime is built with. Results are those of the other lists, but for a NaN's payload.

use core::arch::asm;
use core::arch::x86_64::*;

/// The same address, of which the compiler knows nothing: see WebAssembly's list.
#[inline(always)]
pub fn opaque<T>(mut address: *const T) -> *const T {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Four f32.
#[derive(Clone, Copy)]
pub struct F32x4(__m128);
/// Four i32.
#[derive(Clone, Copy)]
pub struct I32x4(__m128i);
/// Eight i16.
#[derive(Clone, Copy)]
pub struct I16x8(__m128i);
/// Sixteen bytes.
#[derive(Clone, Copy)]
pub struct I8x16(__m128i);

/// Intrinsics that touch no memory.
macro_rules! lanes {
    ($call:expr) => {{
        // SAFETY: this list is compiled only where the instructions are there, see `simd.rs`.
        #[allow(unused_unsafe)]
        unsafe {
            $call
        }
    }};
}

/// One of four words, four times.
macro_rules! splat_word {
    ($vector:expr, $i:expr) => {
        lanes!(match $i {
            0 => _mm_shuffle_epi32::<0x00>($vector),
            1 => _mm_shuffle_epi32::<0x55>($vector),
            2 => _mm_shuffle_epi32::<0xaa>($vector),
            _ => _mm_shuffle_epi32::<0xff>($vector),
        })
    };
}

impl F32x4 {
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Self(lanes!(_mm_set1_ps(value)))
    }
    /// # Safety
    /// `from` must point to four readable f32.
    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> Self {
        Self(_mm_loadu_ps(from))
    }
    /// Four halves as f32 times 2^-112: the caller owes a multiplication with 2^112.
    ///
    /// # Safety
    /// `from` must point to four readable u16.
    #[inline(always)]
    pub unsafe fn load_f16_shifted(from: *const u16) -> Self {
        let wide = _mm_cvtepi16_epi32(_mm_loadl_epi64(from as *const __m128i));
        let mask = _mm_set1_epi32(0x8fff_ffffu32 as i32);
        Self(_mm_castsi128_ps(_mm_and_si128(_mm_slli_epi32::<13>(wide), mask)))
    }
    /// One f32, four times.
    ///
    /// # Safety
    /// `from` must point to a readable f32.
    #[inline(always)]
    pub unsafe fn load_splat(from: *const f32) -> Self {
        Self(_mm_set1_ps(from.read_unaligned()))
    }
    /// Four bf16 as f32.
    ///
    /// # Safety
    /// `from` must point to four readable u16.
    #[inline(always)]
    pub unsafe fn load_bf16(from: *const u16) -> Self {
        let halves = _mm_loadl_epi64(from as *const __m128i);
        Self(_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), halves)))
    }
    /// Four i8 as f32.
    ///
    /// # Safety
    /// `from` must point to four readable bytes.
    #[inline(always)]
    pub unsafe fn load_i8(from: *const i8) -> Self {
        let four = _mm_cvtsi32_si128((from as *const i32).read_unaligned());
        Self(_mm_cvtepi32_ps(_mm_cvtepi8_epi32(four)))
    }
    /// # Safety
    /// `to` must point to four writable f32.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut f32) {
        _mm_storeu_ps(to, self.0)
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(lanes!(_mm_add_ps(self.0, other.0)))
    }
    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        Self(lanes!(_mm_sub_ps(self.0, other.0)))
    }
    #[inline(always)]
    pub fn mul(self, other: Self) -> Self {
        Self(lanes!(_mm_mul_ps(self.0, other.0)))
    }
    #[inline(always)]
    pub fn div(self, other: Self) -> Self {
        Self(lanes!(_mm_div_ps(self.0, other.0)))
    }
    /// This times `factor` plus `term`, in one instruction where there is one: rounded once or twice, as
    /// machines differ. For what need not be exact.
    #[inline(always)]
    pub fn relaxed_mul_add(self, factor: Self, term: Self) -> Self {
        self.mul(factor).add(term)
    }
    /// The larger of each pair; NaN where either is.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        // The instruction gives its second operand where one is NaN or both are zeros.
        lanes! {{
            let (ab, ba) = (_mm_max_ps(self.0, other.0), _mm_max_ps(other.0, self.0));
            let differing = _mm_xor_ps(ab, ba);
            Self(_mm_sub_ps(_mm_or_ps(ab, differing), differing))
        }}
    }
    /// The smaller of each pair; NaN where either is.
    #[inline(always)]
    pub fn min(self, other: Self) -> Self {
        lanes!(Self(_mm_or_ps(_mm_min_ps(self.0, other.0), _mm_min_ps(other.0, self.0))))
    }
    /// `limit` where it is less, else the same: NaN stays.
    #[inline(always)]
    pub fn at_most(self, limit: Self) -> Self {
        Self(lanes!(_mm_min_ps(limit.0, self.0)))
    }
    /// `limit` where it is more, else the same: NaN stays.
    #[inline(always)]
    pub fn at_least(self, limit: Self) -> Self {
        Self(lanes!(_mm_max_ps(limit.0, self.0)))
    }
    #[inline(always)]
    pub fn abs(self) -> Self {
        lanes!(Self(_mm_andnot_ps(_mm_set1_ps(-0.0), self.0)))
    }
    #[inline(always)]
    pub fn sqrt(self) -> Self {
        Self(lanes!(_mm_sqrt_ps(self.0)))
    }
    /// Rounded to nearest, ties to even.
    #[inline(always)]
    pub fn round(self) -> Self {
        Self(lanes!(_mm_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }
    /// Whole numbers in the range of i32; others saturate, NaN becomes 0.
    #[inline(always)]
    pub fn to_i32(self) -> I32x4 {
        // What does not fit becomes 0x80000000, which is right at the lower end.
        lanes! {{
            let numbers = _mm_and_ps(self.0, _mm_cmpord_ps(self.0, self.0));
            let above = _mm_cmpge_ps(numbers, _mm_set1_ps(2147483648.0));
            I32x4(_mm_xor_si128(_mm_cvttps_epi32(numbers), _mm_castps_si128(above)))
        }}
    }
    /// The same bits as i32.
    #[inline(always)]
    pub fn as_i32(self) -> I32x4 {
        I32x4(lanes!(_mm_castps_si128(self.0)))
    }
    /// `then` in the lanes where `self < other`, `otherwise` in the rest.
    #[inline(always)]
    pub fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self {
        Self(lanes!(_mm_blendv_ps(otherwise.0, then.0, _mm_cmplt_ps(self.0, other.0))))
    }
    /// Lane `i`, four times.
    #[inline(always)]
    pub fn splat_lane(self, i: usize) -> Self {
        lanes!(Self(_mm_castsi128_ps(splat_word!(_mm_castps_si128(self.0), i))))
    }
    /// The even and the odd ones of eight.
    #[inline(always)]
    pub fn unzip(a: Self, b: Self) -> [Self; 2] {
        lanes!([Self(_mm_shuffle_ps::<0x88>(a.0, b.0)), Self(_mm_shuffle_ps::<0xdd>(a.0, b.0))])
    }
    /// The same, computed here: LLVM would regroup a sum and compute it at its end.
    #[inline(always)]
    pub fn kept(self) -> Self {
        // SAFETY: no instruction.
        unsafe { asm!("/* {0} */", in(xmm_reg) self.0, options(nomem, nostack, preserves_flags)) };
        self
    }
    #[inline(always)]
    pub fn to_array(self) -> [f32; 4] {
        let mut lanes = [0.0; 4];
        // SAFETY: four f32.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes
    }
}

impl I32x4 {
    /// The same, computed here: see [`F32x4::kept`].
    #[inline(always)]
    pub fn kept(self) -> Self {
        // SAFETY: no instruction.
        unsafe { asm!("/* {0} */", in(xmm_reg) self.0, options(nomem, nostack, preserves_flags)) };
        self
    }
    #[inline(always)]
    pub fn splat(value: i32) -> Self {
        Self(lanes!(_mm_set1_epi32(value)))
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(lanes!(_mm_add_epi32(self.0, other.0)))
    }
    #[inline(always)]
    pub fn shl<const BITS: u32>(self) -> Self {
        Self(lanes!(_mm_sll_epi32(self.0, _mm_cvtsi32_si128(BITS as i32))))
    }
    /// Halved and rounded down.
    #[inline(always)]
    pub fn halved(self) -> Self {
        Self(lanes!(_mm_srai_epi32::<1>(self.0)))
    }
    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        Self(lanes!(_mm_sub_epi32(self.0, other.0)))
    }
    /// The larger of each pair.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        Self(lanes!(_mm_max_epi32(self.0, other.0)))
    }
    /// As i16, `self` first; what does not fit saturates.
    #[inline(always)]
    pub fn narrow(self, other: Self) -> I16x8 {
        I16x8(lanes!(_mm_packs_epi32(self.0, other.0)))
    }
    /// As f32, rounded to nearest.
    #[inline(always)]
    pub fn to_f32(self) -> F32x4 {
        F32x4(lanes!(_mm_cvtepi32_ps(self.0)))
    }
    /// The same bits as f32.
    #[inline(always)]
    pub fn as_f32(self) -> F32x4 {
        F32x4(lanes!(_mm_castsi128_ps(self.0)))
    }
    #[inline(always)]
    pub fn to_array(self) -> [i32; 4] {
        let mut lanes = [0; 4];
        // SAFETY: sixteen bytes.
        unsafe { _mm_storeu_si128(lanes.as_mut_ptr() as *mut __m128i, self.0) };
        lanes
    }
    /// `[a0 + a1, a2 + a3, b0 + b1, b2 + b3]`.
    #[inline(always)]
    pub fn add_pairs(a: Self, b: Self) -> Self {
        Self(lanes!(_mm_hadd_epi32(a.0, b.0)))
    }
}

impl I16x8 {
    /// The same, computed here: see [`F32x4::kept`].
    #[inline(always)]
    pub fn kept(self) -> Self {
        // SAFETY: no instruction.
        unsafe { asm!("/* {0} */", in(xmm_reg) self.0, options(nomem, nostack, preserves_flags)) };
        self
    }
    #[inline(always)]
    pub fn splat(value: i16) -> Self {
        Self(lanes!(_mm_set1_epi16(value)))
    }
    /// # Safety
    /// `from` must point to sixteen readable bytes.
    #[inline(always)]
    pub unsafe fn load(from: *const u8) -> Self {
        Self(_mm_loadu_si128(from as *const __m128i))
    }
    /// # Safety
    /// `to` must point to sixteen writable bytes.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut u8) {
        _mm_storeu_si128(to as *mut __m128i, self.0)
    }
    /// Two i16, four times.
    ///
    /// # Safety
    /// `from` must be readable.
    #[inline(always)]
    pub unsafe fn load_pair_splat(from: *const [i16; 2]) -> Self {
        Self(_mm_set1_epi32((from as *const i32).read_unaligned()))
    }
    /// Eight i8, extended.
    ///
    /// # Safety
    /// `from` must point to eight readable bytes.
    #[inline(always)]
    pub unsafe fn load_i8(from: *const i8) -> Self {
        Self(_mm_cvtepi8_epi16(_mm_loadl_epi64(from as *const __m128i)))
    }
    /// Elements 2i and 2i + 1, four times, for i below 4.
    #[inline(always)]
    pub fn splat_pair(self, i: usize) -> Self {
        Self(splat_word!(self.0, i))
    }
    /// Elements 0-3 (of half 0) or 4-7 (1), twice.
    #[inline(always)]
    pub fn four_twice(self, half: usize) -> Self {
        Self(lanes!(match half {
            0 => _mm_unpacklo_epi64(self.0, self.0),
            _ => _mm_unpackhi_epi64(self.0, self.0),
        }))
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(lanes!(_mm_add_epi16(self.0, other.0)))
    }
    /// Sums of neighbouring products: four i32.
    #[inline(always)]
    pub fn dot(self, other: Self) -> I32x4 {
        I32x4(lanes!(_mm_madd_epi16(self.0, other.0)))
    }
    /// Sums of neighbouring elements: four i32.
    #[inline(always)]
    pub fn add_neighbours(self) -> I32x4 {
        I32x4(lanes!(_mm_madd_epi16(self.0, _mm_set1_epi16(1))))
    }
    /// As bytes, `self` first; what does not fit saturates.
    #[inline(always)]
    pub fn narrow(self, other: Self) -> I8x16 {
        I8x16(lanes!(_mm_packs_epi16(self.0, other.0)))
    }
}

impl I8x16 {
    /// # Safety
    /// `from` must point to sixteen readable bytes.
    #[inline(always)]
    pub unsafe fn load(from: *const u8) -> Self {
        Self(_mm_loadu_si128(from as *const __m128i))
    }
    /// Bytes 4i to 4i + 3, four times, for i below 4.
    #[inline(always)]
    pub fn splat_four(self, i: usize) -> Self {
        Self(splat_word!(self.0, i))
    }
    /// # Safety
    /// `to` must point to sixteen writable bytes.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut u8) {
        _mm_storeu_si128(to as *mut __m128i, self.0)
    }
    /// Bytes 0 to 7, unsigned, as i16.
    #[inline(always)]
    pub fn low_unsigned(self) -> I16x8 {
        I16x8(lanes!(_mm_unpacklo_epi8(self.0, _mm_setzero_si128())))
    }
    /// Bytes 8 to 15, unsigned, as i16.
    #[inline(always)]
    pub fn high_unsigned(self) -> I16x8 {
        I16x8(lanes!(_mm_unpackhi_epi8(self.0, _mm_setzero_si128())))
    }
    /// The low four bits of each byte.
    #[inline(always)]
    pub fn low_nibbles(self) -> Self {
        Self(lanes!(_mm_and_si128(self.0, _mm_set1_epi8(15))))
    }
    /// The high four bits of each byte.
    #[inline(always)]
    pub fn high_nibbles(self) -> Self {
        Self(lanes!(_mm_and_si128(_mm_srli_epi16::<4>(self.0), _mm_set1_epi8(15))))
    }
    /// Sums of neighbouring products with `other`, whose bytes must lie in 0 ... 127.
    #[inline(always)]
    pub fn relaxed_dot(self, other: Self) -> I16x8 {
        I16x8(lanes!(_mm_maddubs_epi16(other.0, self.0)))
    }
}

/// For interleaving rows.
impl I8x16 {
    #[inline(always)]
    pub fn splat(value: i8) -> Self {
        Self(lanes!(_mm_set1_epi8(value)))
    }
    /// Of 32 nibbles, two a byte, the low one first: byte i holds nibble i and, high, nibble 16 + i.
    #[inline(always)]
    pub fn split_nibbles(self) -> Self {
        let (even, odd) = (self.low_nibbles().0, self.high_nibbles().0);
        lanes! {{
            let (low, high) = (_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd));
            Self(_mm_or_si128(low, _mm_slli_epi16::<4>(high)))
        }}
    }
    /// Four times four words of four bytes, rows and columns swapped.
    #[inline(always)]
    pub fn transpose_words([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        lanes! {{
            let (ab, cd) = (_mm_unpacklo_epi32(a.0, b.0), _mm_unpacklo_epi32(c.0, d.0));
            let (ab_high, cd_high) = (_mm_unpackhi_epi32(a.0, b.0), _mm_unpackhi_epi32(c.0, d.0));
            [
                Self(_mm_unpacklo_epi64(ab, cd)),
                Self(_mm_unpackhi_epi64(ab, cd)),
                Self(_mm_unpacklo_epi64(ab_high, cd_high)),
                Self(_mm_unpackhi_epi64(ab_high, cd_high)),
            ]
        }}
    }
    /// The even and the odd ones of sixteen halves of two bytes.
    #[inline(always)]
    pub fn unzip_halves(a: Self, b: Self) -> [Self; 2] {
        lanes! {{
            let order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
            let (a, b) = (_mm_shuffle_epi8(a.0, order), _mm_shuffle_epi8(b.0, order));
            [Self(_mm_unpacklo_epi64(a, b)), Self(_mm_unpackhi_epi64(a, b))]
        }}
    }
}
