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

    /// Reads a row: calls `put(i, elements 4i ... 4i+3)` for every vector, zeros behind the row's width.
    ///
    /// # Panics
    /// If `row` has not [`CacheFormat::row_bytes`] of `width`.
    #[inline(always)]
    pub fn read(self, row: &[u8], width: usize, mut put: impl FnMut(usize, F32x4)) {
        assert!(row.len() == self.row_bytes(width));
        let whole = width / 4;
        let mut rest = [0.0; 4];
        match self {
            Self::F32 => {
                let elements = row.as_ptr() as *const f32;
                for i in 0..whole {
                    // SAFETY: 4 * i + 4 <= width; elements need not be aligned.
                    put(i, unsafe { F32x4::load(elements.add(i * 4)) });
                }
                for (value, bytes) in rest.iter_mut().zip(row[whole * 16..].chunks_exact(4)) {
                    *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
            }
            Self::Bf16 => {
                let elements = row.as_ptr() as *const u16;
                for i in 0..whole {
                    // SAFETY: as above.
                    put(i, unsafe { F32x4::load_bf16(elements.add(i * 4)) });
                }
                let bytes = &row[whole * 8..whole * 8 + width % 4 * 2];
                for (value, bytes) in rest.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = f32::from_bits(u32::from_le_bytes([0, 0, bytes[0], bytes[1]]));
                }
            }
            Self::Int8 => {
                // The last block's levels behind the width are zeros.
                let vectors = width.div_ceil(4);
                for (b, block) in row.chunks_exact(INT8_CACHE_BLOCK_BYTES).enumerate() {
                    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                    let scale = F32x4::splat(scale);
                    for i in 0..(vectors - b * BLOCK / 4).min(BLOCK / 4) {
                        // SAFETY: the block has 32 levels.
                        let levels =
                            unsafe { F32x4::load_i8(block.as_ptr().add(4 + i * 4) as *const i8) };
                        put(b * BLOCK / 4 + i, levels.mul(scale));
                    }
                }
                return;
            }
        }
        if width % 4 != 0 {
            // SAFETY: four f32.
            put(whole, unsafe { F32x4::load(rest.as_ptr()) });
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

    /// Whether rows are whole vectors of f32, for who reads them where they lie.
    pub fn lies_in_vectors(&self) -> bool {
        self.format == CacheFormat::F32 && self.width % 4 == 0
    }

    /// Where a head's rows of `count` slots in turn lie, each `heads * width` elements after the one before.
    ///
    /// # Safety
    /// Nobody may write to the slots until the next barrier.
    ///
    /// # Panics
    /// If there are no such slots or the elements are not f32.
    pub unsafe fn rows(&self, slot: usize, head: usize, count: usize) -> *const f32 {
        assert!(self.format == CacheFormat::F32 && count > 0);
        let bytes = self.range(slot, head).start..self.range(slot + count - 1, head).end;
        self.bytes.read(bytes).as_ptr() as *const f32
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
    pub unsafe fn read(&self, slot: usize, head: usize, put: impl FnMut(usize, F32x4)) {
        self.format.read(self.bytes.read(self.range(slot, head)), self.width, put);
    }
}
