//! Paged caches [blocks, P, heads, width]: how their elements are stored. What is written is read back
//! through the format even within the same step, so that chunks do not change results.

use super::matrix::BLOCK;
use crate::simd::F32x4;
use crate::team::Shared;

/// How the elements of a cache are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    F32,
    /// The upper half of an f32, rounded to nearest, ties to even.
    Bf16,
    /// Blocks of 32 elements: an f32 scale, then 32 levels -127 ... 127.
    Int8,
}

/// Bytes of a block of int8 elements.
const INT8_CACHE_BLOCK_BYTES: usize = 4 + BLOCK;

impl CacheFormat {
    /// The format with a number, as step programs name it.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::F32,
            1 => Self::Bf16,
            2 => Self::Int8,
            _ => panic!("no such cache format"),
        }
    }

    /// Bytes of one head's row of `width` elements.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => width * 4,
            Self::Bf16 => (width * 2).next_multiple_of(4),
            Self::Int8 => width.div_ceil(BLOCK) * INT8_CACHE_BLOCK_BYTES,
        }
    }

    /// Stores a row.
    ///
    /// # Panics
    /// If `into` has not [`CacheFormat::row_bytes`].
    pub fn write(self, row: &[f32], into: &mut [u8]) {
        assert_eq!(into.len(), self.row_bytes(row.len()));
        match self {
            Self::F32 => {
                for (value, bytes) in row.iter().zip(into.chunks_exact_mut(4)) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            Self::Bf16 => {
                for (value, bytes) in row.iter().zip(into.chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&to_bf16(*value).to_le_bytes());
                }
            }
            Self::Int8 => {
                let blocks = into.chunks_exact_mut(INT8_CACHE_BLOCK_BYTES);
                for (values, block) in row.chunks(BLOCK).zip(blocks) {
                    let mut padded = [0.0; BLOCK];
                    padded[..values.len()].copy_from_slice(values);
                    // SAFETY: `padded` has a block's elements.
                    let quantized = unsafe { super::quantize::quantize_block(padded.as_ptr()) };
                    block[..4].copy_from_slice(&quantized.scale.to_le_bytes());
                    for (byte, level) in block[4..].iter_mut().zip(quantized.levels) {
                        *byte = level as u8;
                    }
                }
            }
        }
    }

    /// Reads a row; what `into` has beyond the row's width becomes 0.
    ///
    /// # Panics
    /// If `row` has not [`CacheFormat::row_bytes`] of `width`, or `into` is shorter.
    #[inline(always)]
    pub fn read(self, row: &[u8], width: usize, into: &mut [f32]) {
        assert!(row.len() == self.row_bytes(width) && width <= into.len());
        let (into, rest) = into.split_at_mut(width);
        rest.fill(0.0);
        match self {
            Self::F32 => {
                // SAFETY: `into` has as many bytes; they need not be aligned.
                unsafe {
                    let to = into.as_mut_ptr() as *mut u8;
                    core::ptr::copy_nonoverlapping(row.as_ptr(), to, row.len());
                }
            }
            Self::Bf16 => {
                let whole = width / 4 * 4;
                for i in (0..whole).step_by(4) {
                    // SAFETY: i + 4 <= width.
                    unsafe {
                        F32x4::load_bf16(row.as_ptr().add(i * 2) as *const u16)
                            .store(into.as_mut_ptr().add(i));
                    }
                }
                for i in whole..width {
                    let bits = u16::from_le_bytes([row[i * 2], row[i * 2 + 1]]);
                    into[i] = f32::from_bits((bits as u32) << 16);
                }
            }
            Self::Int8 => {
                let blocks = row.chunks_exact(INT8_CACHE_BLOCK_BYTES);
                for (values, block) in into.chunks_mut(BLOCK).zip(blocks) {
                    let scale =
                        F32x4::splat(f32::from_le_bytes([block[0], block[1], block[2], block[3]]));
                    let mut widened = [0.0; BLOCK];
                    for i in (0..BLOCK).step_by(4) {
                        // SAFETY: i + 4 <= BLOCK.
                        unsafe {
                            F32x4::load_i8(block.as_ptr().add(4 + i) as *const i8)
                                .mul(scale)
                                .store(widened.as_mut_ptr().add(i));
                        }
                    }
                    values.copy_from_slice(&widened[..values.len()]);
                }
            }
        }
    }
}

/// Rounds to nearest, ties to even; a NaN stays one.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// A cache and the way its rows lie.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    /// [blocks, P, heads, row bytes].
    pub bytes: Shared<'a, u8>,
    pub format: CacheFormat,
    pub heads: usize,
    /// Elements of a head's row.
    pub width: usize,
}

impl<'a> Cache<'a> {
    fn range(&self, slot: usize, head: usize) -> core::ops::Range<usize> {
        let bytes = self.format.row_bytes(self.width);
        let begin = (slot * self.heads + head) * bytes;
        begin..begin + bytes
    }

    /// Stores a head's row.
    ///
    /// # Safety
    /// No other thread may use this slot's row of this head until the next barrier.
    ///
    /// # Panics
    /// If there is no such slot.
    pub unsafe fn write(&self, slot: usize, head: usize, row: &[f32]) {
        self.format.write(row, self.bytes.write(self.range(slot, head)));
    }

    /// Reads a head's row, see [`CacheFormat::read`].
    ///
    /// # Safety
    /// Nobody may write to the slot until the next barrier.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline(always)]
    pub unsafe fn read(&self, slot: usize, head: usize, into: &mut [f32]) {
        self.format.read(self.bytes.read(self.range(slot, head)), self.width, into);
    }
}
