//! Paged caches [blocks, P, heads, width]: how their elements are stored. What is written is read back
//! through the format even within the same step, so that chunks do not change results.

use super::matrix::BLOCK;
use crate::simd::{opaque, F32x4};
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

/// Elements of the other formats that a step of a loop widens.
const STEP: usize = 16;
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

    /// Widens a row of `width` elements to f32, with zeros behind them up to whole vectors.
    ///
    /// # Panics
    /// If `row` has not [`CacheFormat::row_bytes`] of `width`, or `into` not that many vectors.
    #[inline(never)] // a row at a time, in several kernels
    pub fn widen(self, row: &[u8], width: usize, into: &mut [f32]) {
        assert!(row.len() == self.row_bytes(width) && into.len() >= width.next_multiple_of(4));
        let step = match self {
            Self::F32 | Self::Bf16 => STEP,
            Self::Int8 => BLOCK,
        };
        let (mut from, mut to) = (row.as_ptr(), into.as_mut_ptr());
        for _ in 0..width / step {
            // SAFETY: both have the elements of a step.
            unsafe {
                (from, to) = (opaque(from), opaque(to) as *mut f32);
                from = from.add(self.widen_step(from, to));
                to = to.add(step);
            }
        }
        let begin = width / step * step;
        let left = width - begin;
        if left > 0 {
            let mut bytes = [0; STEP * 4]; // the longest step
            let mut elements = [0.0; BLOCK];
            let rest = &row[self.row_bytes(begin)..];
            bytes[..rest.len()].copy_from_slice(rest);
            // SAFETY: there is room for a step of every format.
            unsafe { self.widen_step(bytes.as_ptr(), elements.as_mut_ptr()) };
            elements[left..].fill(0.0);
            let into = &mut into[begin..width.next_multiple_of(4)];
            into.copy_from_slice(&elements[..into.len()]);
        }
    }

    /// Widens STEP elements, or a block of int8; returns how many bytes they were.
    ///
    /// # Safety
    /// There must be as many.
    #[inline(always)]
    unsafe fn widen_step(self, from: *const u8, to: *mut f32) -> usize {
        match self {
            Self::F32 => {
                for i in 0..STEP / 4 {
                    F32x4::load((from as *const f32).add(i * 4)).store(to.add(i * 4));
                }
                STEP * 4
            }
            Self::Bf16 => {
                for i in 0..STEP / 4 {
                    F32x4::load_bf16((from as *const u16).add(i * 4)).store(to.add(i * 4));
                }
                STEP * 2
            }
            Self::Int8 => {
                let scale = F32x4::load_splat(from as *const f32);
                for i in 0..BLOCK / 4 {
                    let levels = F32x4::load_i8(from.add(4 + i * 4) as *const i8);
                    levels.mul(scale).store(to.add(i * 4));
                }
                INT8_CACHE_BLOCK_BYTES
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

    /// Whether rows are whole vectors of f32, for who reads them where they lie.
    pub fn lies_in_vectors(&self) -> bool {
        self.format == CacheFormat::F32 && self.width % 4 == 0
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

    /// A head's rows of `count` slots in turn, as they are stored, each [`Cache::row_distance`] bytes after
    /// the one before.
    ///
    /// # Safety
    /// Nobody may write to the slots until the next barrier.
    ///
    /// # Panics
    /// If there are no such slots.
    #[inline(always)]
    pub unsafe fn rows(&self, slot: usize, head: usize, count: usize) -> &'a [u8] {
        assert!(count > 0);
        let bytes = self.range(slot, head).start..self.range(slot + count - 1, head).end;
        self.bytes.read(bytes)
    }

    /// Bytes from a head's row to that of the next slot.
    pub fn row_distance(&self) -> usize {
        self.heads * self.format.row_bytes(self.width)
    }
}
