//! The vectors as arrays, for processors without a list of their own.

use core::array::from_fn;

/// The same; natively it has no use.
#[inline(always)]
pub fn opaque<T>(address: *const T) -> *const T {
    address
}

/// Four f32.
#[derive(Clone, Copy)]
pub struct F32x4([f32; 4]);
/// Four i32.
#[derive(Clone, Copy)]
pub struct I32x4([i32; 4]);
/// Eight i16.
#[derive(Clone, Copy)]
pub struct I16x8([i16; 8]);
/// Sixteen bytes.
#[derive(Clone, Copy)]
pub struct I8x16([i8; 16]);

impl F32x4 {
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Self([value; 4])
    }
    /// # Safety
    /// `from` must point to four readable f32.
    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> Self {
        Self((from as *const [f32; 4]).read_unaligned())
    }
    /// Four halves as f32 times 2^-112: the caller owes a multiplication with 2^112.
    ///
    /// # Safety
    /// `from` must point to four readable u16.
    #[inline(always)]
    pub unsafe fn load_f16_shifted(from: *const u16) -> Self {
        let halves = (from as *const [u16; 4]).read_unaligned();
        Self(halves.map(|h| f32::from_bits(((h as i16 as i32) << 13) as u32 & 0x8fff_ffff)))
    }
    /// One f32, four times.
    ///
    /// # Safety
    /// `from` must point to a readable f32.
    #[inline(always)]
    pub unsafe fn load_splat(from: *const f32) -> Self {
        Self([from.read_unaligned(); 4])
    }
    /// Four bf16 as f32.
    ///
    /// # Safety
    /// `from` must point to four readable u16.
    #[inline(always)]
    pub unsafe fn load_bf16(from: *const u16) -> Self {
        let halves = (from as *const [u16; 4]).read_unaligned();
        Self(halves.map(|half| f32::from_bits((half as u32) << 16)))
    }
    /// Four i8 as f32.
    ///
    /// # Safety
    /// `from` must point to four readable bytes.
    #[inline(always)]
    pub unsafe fn load_i8(from: *const i8) -> Self {
        Self((from as *const [i8; 4]).read_unaligned().map(f32::from))
    }
    /// # Safety
    /// `to` must point to four writable f32.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut f32) {
        (to as *mut [f32; 4]).write_unaligned(self.0)
    }
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(from_fn(|i| f(self.0[i], other.0[i])))
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    pub fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    pub fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
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
        self.zip(other, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) })
    }
    /// The smaller of each pair; NaN where either is.
    #[inline(always)]
    pub fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) })
    }
    /// `limit` where it is less, else the same: NaN stays.
    #[inline(always)]
    pub fn at_most(self, limit: Self) -> Self {
        self.zip(limit, |a, b| if b < a { b } else { a })
    }
    /// `limit` where it is more, else the same: NaN stays.
    #[inline(always)]
    pub fn at_least(self, limit: Self) -> Self {
        self.zip(limit, |a, b| if a < b { b } else { a })
    }
    #[inline(always)]
    pub fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }
    #[inline(always)]
    pub fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }
    /// Rounded to nearest, ties to even.
    #[inline(always)]
    pub fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }
    /// Whole numbers in the range of i32; others saturate, NaN becomes 0.
    #[inline(always)]
    pub fn to_i32(self) -> I32x4 {
        I32x4(self.0.map(|value| value as i32))
    }
    /// The same bits as i32.
    #[inline(always)]
    pub fn as_i32(self) -> I32x4 {
        I32x4(self.0.map(|value| value.to_bits() as i32))
    }
    /// `then` in the lanes where `self < other`, `otherwise` in the rest.
    #[inline(always)]
    pub fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self {
        Self(from_fn(|i| if self.0[i] < other.0[i] { then.0[i] } else { otherwise.0[i] }))
    }
    /// Lane `i`, four times.
    #[inline(always)]
    pub fn splat_lane(self, i: usize) -> Self {
        Self([self.0[i]; 4])
    }
    /// The even and the odd ones of eight.
    #[inline(always)]
    pub fn unzip(a: Self, b: Self) -> [Self; 2] {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.0, b.0);
        [Self([a0, a2, b0, b2]), Self([a1, a3, b1, b3])]
    }
    /// The same; natively it has no use.
    #[inline(always)]
    pub fn kept(self) -> Self {
        self
    }
    #[inline(always)]
    pub fn to_array(self) -> [f32; 4] {
        self.0
    }
}

impl I32x4 {
    /// The same; natively it has no use.
    #[inline(always)]
    pub fn kept(self) -> Self {
        self
    }
    #[inline(always)]
    pub fn splat(value: i32) -> Self {
        Self([value; 4])
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }
    #[inline(always)]
    pub fn shl<const BITS: u32>(self) -> Self {
        Self(self.0.map(|value| value << BITS))
    }
    /// Halved and rounded down.
    #[inline(always)]
    pub fn halved(self) -> Self {
        Self(self.0.map(|value| value >> 1))
    }
    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
    }
    /// The larger of each pair.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i].max(other.0[i])))
    }
    /// As i16, `self` first; what does not fit saturates.
    #[inline(always)]
    pub fn narrow(self, other: Self) -> I16x8 {
        let element = |i: usize| if i < 4 { self.0[i] } else { other.0[i - 4] };
        I16x8(from_fn(|i| element(i).clamp(i16::MIN as i32, i16::MAX as i32) as i16))
    }
    /// As f32, rounded to nearest.
    #[inline(always)]
    pub fn to_f32(self) -> F32x4 {
        F32x4(self.0.map(|value| value as f32))
    }
    /// The same bits as f32.
    #[inline(always)]
    pub fn as_f32(self) -> F32x4 {
        F32x4(self.0.map(|value| f32::from_bits(value as u32)))
    }
    #[inline(always)]
    pub fn to_array(self) -> [i32; 4] {
        self.0
    }
    /// `[a0 + a1, a2 + a3, b0 + b1, b2 + b3]`.
    #[inline(always)]
    pub fn add_pairs(a: Self, b: Self) -> Self {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.0, b.0);
        Self([a0 + a1, a2 + a3, b0 + b1, b2 + b3])
    }
}

impl I16x8 {
    /// The same; natively it has no use.
    #[inline(always)]
    pub fn kept(self) -> Self {
        self
    }
    #[inline(always)]
    pub fn splat(value: i16) -> Self {
        Self([value; 8])
    }
    /// # Safety
    /// `from` must point to sixteen readable bytes.
    #[inline(always)]
    pub unsafe fn load(from: *const u8) -> Self {
        Self((from as *const [i16; 8]).read_unaligned())
    }
    /// # Safety
    /// `to` must point to sixteen writable bytes.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut u8) {
        (to as *mut [i16; 8]).write_unaligned(self.0)
    }
    /// Two i16, four times.
    ///
    /// # Safety
    /// `from` must be readable.
    #[inline(always)]
    pub unsafe fn load_pair_splat(from: *const [i16; 2]) -> Self {
        let pair = *from;
        Self(from_fn(|i| pair[i % 2]))
    }
    /// Eight i8, extended.
    ///
    /// # Safety
    /// `from` must point to eight readable bytes.
    #[inline(always)]
    pub unsafe fn load_i8(from: *const i8) -> Self {
        Self((from as *const [i8; 8]).read_unaligned().map(i16::from))
    }
    /// Elements 2i and 2i + 1, four times, for i below 4.
    #[inline(always)]
    pub fn splat_pair(self, i: usize) -> Self {
        Self(from_fn(|j| self.0[i * 2 + j % 2]))
    }
    /// Elements 0-3 (of half 0) or 4-7 (1), twice.
    #[inline(always)]
    pub fn four_twice(self, half: usize) -> Self {
        Self(from_fn(|i| self.0[half * 4 + i % 4]))
    }
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }
    /// Sums of neighbouring products: four i32.
    #[inline(always)]
    pub fn dot(self, other: Self) -> I32x4 {
        let product = |i: usize| self.0[i] as i32 * other.0[i] as i32;
        I32x4(from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1))))
    }
    /// Sums of neighbouring elements: four i32.
    #[inline(always)]
    pub fn add_neighbours(self) -> I32x4 {
        I32x4(from_fn(|i| self.0[2 * i] as i32 + self.0[2 * i + 1] as i32))
    }
    /// As bytes, `self` first; what does not fit saturates.
    #[inline(always)]
    pub fn narrow(self, other: Self) -> I8x16 {
        let element = |i: usize| if i < 8 { self.0[i] } else { other.0[i - 8] };
        I8x16(from_fn(|i| element(i).clamp(-128, 127) as i8))
    }
}

impl I8x16 {
    /// # Safety
    /// `from` must point to sixteen readable bytes.
    #[inline(always)]
    pub unsafe fn load(from: *const u8) -> Self {
        Self((from as *const [i8; 16]).read_unaligned())
    }
    /// Bytes 4i to 4i + 3, four times, for i below 4.
    #[inline(always)]
    pub fn splat_four(self, i: usize) -> Self {
        Self(from_fn(|j| self.0[i * 4 + j % 4]))
    }
    /// # Safety
    /// `to` must point to sixteen writable bytes.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut u8) {
        (to as *mut [i8; 16]).write_unaligned(self.0)
    }
    /// Bytes 0 to 7, unsigned, as i16.
    #[inline(always)]
    pub fn low_unsigned(self) -> I16x8 {
        I16x8(from_fn(|i| self.0[i] as u8 as i16))
    }
    /// Bytes 8 to 15, unsigned, as i16.
    #[inline(always)]
    pub fn high_unsigned(self) -> I16x8 {
        I16x8(from_fn(|i| self.0[i + 8] as u8 as i16))
    }
    /// Sums of neighbouring products with `other`, whose bytes must lie in 0 ... 127.
    #[inline(always)]
    pub fn relaxed_dot(self, other: Self) -> I16x8 {
        let product = |i: usize| self.0[i] as i16 * other.0[i] as i16;
        I16x8(from_fn(|i| product(2 * i).saturating_add(product(2 * i + 1))))
    }
    /// The low four bits of each byte.
    #[inline(always)]
    pub fn low_nibbles(self) -> Self {
        Self(self.0.map(|byte| byte & 15))
    }
    /// The high four bits of each byte.
    #[inline(always)]
    pub fn high_nibbles(self) -> Self {
        Self(self.0.map(|byte| (byte as u8 >> 4) as i8))
    }
}

/// For interleaving rows.
impl I8x16 {
    #[inline(always)]
    pub fn splat(value: i8) -> Self {
        Self([value; 16])
    }
    /// Of 32 nibbles, two a byte, the low one first: byte i holds nibble i and, high, nibble 16 + i.
    #[inline(always)]
    pub fn split_nibbles(self) -> Self {
        let nibble = |i: usize| self.0[i / 2] as u8 >> (i % 2 * 4) & 15;
        Self(from_fn(|i| (nibble(i) | nibble(16 + i) << 4) as i8))
    }
    /// Four times four words of four bytes, rows and columns swapped.
    #[inline(always)]
    pub fn transpose_words(rows: [Self; 4]) -> [Self; 4] {
        from_fn(|column| Self(from_fn(|i| rows[i / 4].0[column * 4 + i % 4])))
    }
    /// The even and the odd ones of sixteen halves of two bytes.
    #[inline(always)]
    pub fn unzip_halves(a: Self, b: Self) -> [Self; 2] {
        let byte = |i: usize| if i < 16 { a.0[i] } else { b.0[i - 16] };
        from_fn(|odd| Self(from_fn(|i| byte(i / 2 * 4 + odd * 2 + i % 2))))
    }
}
