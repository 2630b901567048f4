//! Weight matrices as the kernels want them: rows in groups of eight, interleaved, so that one load
//! brings the same columns of several rows. Packing happens once, while loading.
//!
//! A group of eight rows, by format (k counts columns, b blocks of 32 columns):
//! - f32, f16: for every k the eight rows' elements.
//! - int8: for every b eight f16 scales, then for every four columns two vectors of 16 bytes, rows 0-3
//!   and 4-7, four neighbouring columns a row: levels 0 ... 255, zero at 128.
//! - int4: for every b eight f16 scales, then for i in 0..4 two vectors as above whose low nibbles hold
//!   columns 4i ... 4i+3 and whose high nibbles hold columns 16+4i ... 16+4i+3: levels 0 ... 15, zero
//!   at 8.
//!
//! Missing rows of the last group and missing columns of the last block are zeros.

use core::array::from_fn;

use crate::simd::I8x16;

/// Rows of a group.
pub const GROUP: usize = 8;
/// Columns that share a scale.
pub const BLOCK: usize = 32;
/// Bytes of a group's scales in one block.
pub const SCALE_BYTES: usize = GROUP * 2;
/// Bytes of a group in one block, scales included.
pub const INT8_BLOCK_BYTES: usize = SCALE_BYTES + GROUP * BLOCK;
/// Bytes of a group in one block, scales included.
pub const INT4_BLOCK_BYTES: usize = SCALE_BYTES + GROUP * BLOCK / 2;
/// The nibble that stands for 0.
pub const INT4_ZERO: u8 = 8;
/// The byte that stands for 0.
pub const INT8_ZERO: u8 = 128;

/// How the elements of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Format {
    F32 = 0,
    F16 = 1,
    Int8 = 2,
    Int4 = 3,
}

impl Format {
    /// The format with a number, as step programs name it.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Int8,
            3 => Self::Int4,
            _ => panic!("no such format"),
        }
    }

    /// Whether its kernels take quantized activations.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4)
    }

    /// Bytes of one packed group of eight rows.
    pub fn group_bytes(self, columns: usize) -> usize {
        match self {
            Self::F32 => columns * GROUP * 4,
            Self::F16 => columns * GROUP * 2,
            Self::Int8 => columns.div_ceil(BLOCK) * INT8_BLOCK_BYTES,
            Self::Int4 => columns.div_ceil(BLOCK) * INT4_BLOCK_BYTES,
        }
    }

    /// Bytes of a packed matrix.
    pub fn packed_bytes(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(GROUP) * self.group_bytes(columns)
    }

    /// Bytes of one row in a file, without scales.
    pub fn file_row_bytes(self, columns: usize) -> usize {
        match self {
            Self::F32 => columns * 4,
            Self::F16 => columns * 2,
            Self::Int8 => columns.div_ceil(BLOCK) * BLOCK,
            Self::Int4 => columns.div_ceil(BLOCK) * BLOCK / 2,
        }
    }

    /// Bytes of one row's scales in a file.
    pub fn file_scale_bytes(self, columns: usize) -> usize {
        if self.is_quantized() {
            columns.div_ceil(BLOCK) * 2
        } else {
            0
        }
    }
}

/// A packed matrix [rows, columns].
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub format: Format,
    pub rows: usize,
    pub columns: usize,
    pub packed: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// If `packed` is not as long as the matrix needs.
    pub fn new(format: Format, rows: usize, columns: usize, packed: &'a [u8]) -> Self {
        assert_eq!(packed.len(), format.packed_bytes(rows, columns));
        Self { format, rows, columns, packed }
    }

    /// The rows of some groups of eight.
    ///
    /// # Panics
    /// If there are not as many groups.
    pub fn groups(&self, groups: core::ops::Range<usize>) -> Self {
        let bytes = self.format.group_bytes(self.columns);
        Self {
            rows: self.rows.min(groups.end * GROUP) - groups.start * GROUP,
            packed: &self.packed[groups.start * bytes..groups.end * bytes],
            ..*self
        }
    }

    /// The `index`-th of several equal matrices that lie one after the other.
    #[cfg(not(target_family = "wasm"))]
    pub fn of_stack(
        format: Format,
        rows: usize,
        columns: usize,
        stack: &'a [u8],
        index: usize,
    ) -> Self {
        let bytes = format.packed_bytes(rows, columns);
        Self::new(format, rows, columns, &stack[index * bytes..(index + 1) * bytes])
    }
}

/// Packs rows of a file, [rows, file_row_bytes]; the scales apart, see [`pack_scales`].
///
/// # Panics
/// If a length does not fit.
pub fn pack(format: Format, source: &[u8], rows: usize, columns: usize, packed: &mut [u8]) {
    let row_bytes = format.file_row_bytes(columns);
    let in_blocks = |vectors: usize, bytes: usize| {
        move |v: usize| v / vectors * bytes + SCALE_BYTES + v % vectors * 16
    };
    let part = Interleaving { source, row_bytes, rows, group_bytes: format.group_bytes(columns) };
    match format {
        Format::F32 => part.write::<4>(packed, |v| v * 16, words),
        Format::F16 => part.write::<2>(packed, |v| v * 16, halves),
        Format::Int8 => part.write::<16>(packed, in_blocks(16, INT8_BLOCK_BYTES), words),
        Format::Int4 => part.write::<16>(packed, in_blocks(8, INT4_BLOCK_BYTES), nibbles),
    }
}

/// Packs the scales of rows of a file, [rows, blocks] f16, to where [`pack`] leaves room for them.
///
/// # Panics
/// If a length does not fit or the format has no scales.
pub fn pack_scales(format: Format, source: &[u8], rows: usize, columns: usize, packed: &mut [u8]) {
    let row_bytes = format.file_scale_bytes(columns);
    let group_bytes = format.group_bytes(columns);
    let block_bytes = group_bytes / columns.div_ceil(BLOCK);
    assert!(format.is_quantized());
    let part = Interleaving { source, row_bytes, rows, group_bytes };
    part.write::<2>(packed, |v| v * block_bytes, halves);
}

/// Rows on their way into groups of eight.
struct Interleaving<'a> {
    source: &'a [u8],
    row_bytes: usize,
    rows: usize,
    group_bytes: usize,
}

impl Interleaving<'_> {
    /// Takes 16 bytes of each of eight rows at a time and interleaves them. Vector v of a group goes to
    /// the group's byte `at(v)`. Where a row does not end with a vector, elements of SIZE bytes are copied
    /// one by one. Missing rows are zeros.
    #[inline(always)]
    fn write<const SIZE: usize>(
        &self,
        packed: &mut [u8],
        at: impl Fn(usize) -> usize,
        interleave: impl Fn([I8x16; 8]) -> [I8x16; 8],
    ) {
        let Self { source, row_bytes, rows, group_bytes } = *self;
        assert_eq!(source.len(), rows * row_bytes);
        assert_eq!(packed.len(), rows.div_ceil(GROUP) * group_bytes);
        let vectors = row_bytes / 16;
        for (g, group) in packed.chunks_exact_mut(group_bytes).enumerate() {
            let lanes = GROUP.min(rows - g * GROUP);
            let row = |lane: usize| &source[(g * GROUP + lane) * row_bytes..][..row_bytes];
            let starts: [*const u8; GROUP] = from_fn(|lane| row(lane.min(lanes - 1)).as_ptr());
            for i in 0..vectors {
                // SAFETY: within the row.
                let load = |lane: usize| unsafe { I8x16::load(starts[lane].add(i * 16)) };
                let sixteen = match lanes == GROUP {
                    true => from_fn(load),
                    false => {
                        from_fn(|lane| if lane < lanes { load(lane) } else { I8x16::splat(0) })
                    }
                };
                let into = &mut group[at(i * 8)..at(i * 8 + 7) + 16];
                for (j, vector) in interleave(sixteen).into_iter().enumerate() {
                    // SAFETY: within the slice, since `at` rises.
                    unsafe { vector.store(into.as_mut_ptr().add(at(i * 8 + j) - at(i * 8))) };
                }
            }
            for element in vectors * 16 / SIZE..row_bytes / SIZE {
                for lane in 0..GROUP {
                    let to = at(element * SIZE / 2) + lane * SIZE;
                    match lane < lanes {
                        true => group[to..to + SIZE]
                            .copy_from_slice(&row(lane)[element * SIZE..][..SIZE]),
                        false => group[to..to + SIZE].fill(0),
                    }
                }
            }
        }
    }
}

/// By words of four bytes: words 0 of rows 0-3, words 0 of rows 4-7, words 1 of rows 0-3, ...
#[inline(always)]
fn words([a, b, c, d, e, f, g, h]: [I8x16; 8]) -> [I8x16; 8] {
    let [a, b, c, d] = I8x16::transpose_words([a, b, c, d]);
    let [e, f, g, h] = I8x16::transpose_words([e, f, g, h]);
    [a, e, b, f, c, g, d, h]
}

/// By halves of two bytes: halves 0 of rows 0-7, halves 1 of rows 0-7, ...
#[inline(always)]
fn halves(rows: [I8x16; 8]) -> [I8x16; 8] {
    let [a, b, c, d, e, f, g, h] = words(rows); // two halves of eight rows a pair
    let ([a, b], [c, d]) = (I8x16::unzip_halves(a, b), I8x16::unzip_halves(c, d));
    let ([e, f], [g, h]) = (I8x16::unzip_halves(e, f), I8x16::unzip_halves(g, h));
    [a, b, c, d, e, f, g, h]
}

/// As int4 wants its 32 columns.
#[inline(always)]
fn nibbles(rows: [I8x16; 8]) -> [I8x16; 8] {
    words(rows.map(I8x16::split_nibbles))
}

/// Packs the transpose of a float matrix: `source` [columns, rows] becomes a matrix [rows, columns].
///
/// # Panics
/// If a length does not fit or the format is quantized.
pub fn pack_transposed(
    format: Format,
    source: &[u8],
    rows: usize,
    columns: usize,
    packed: &mut [u8],
) {
    let size = match format {
        Format::F32 => 4,
        Format::F16 => 2,
        _ => panic!("only float matrices are transposed"),
    };
    assert_eq!(source.len(), rows * columns * size);
    assert_eq!(packed.len(), format.packed_bytes(rows, columns));
    packed.fill(0);
    for (column, from) in source.chunks_exact(rows * size).enumerate() {
        for (row, element) in from.chunks_exact(size).enumerate() {
            let at =
                row / GROUP * format.group_bytes(columns) + (column * GROUP + row % GROUP) * size;
            packed[at..at + size].copy_from_slice(element);
        }
    }
}

/// The number at a row and column of a packed matrix, straight from the layout above: for tests.
pub fn element(matrix: &Matrix, row: usize, column: usize) -> f32 {
    let Matrix { format, columns, packed, .. } = *matrix;
    let group = &packed[row / GROUP * format.group_bytes(columns)..];
    let lane = row % GROUP;
    let half = |at: usize| f16_to_f32(u16::from_le_bytes([group[at], group[at + 1]]));
    match format {
        Format::F32 => {
            let at = (column * GROUP + lane) * 4;
            f32::from_le_bytes([group[at], group[at + 1], group[at + 2], group[at + 3]])
        }
        Format::F16 => half((column * GROUP + lane) * 2),
        Format::Int8 => {
            let block = column / BLOCK * INT8_BLOCK_BYTES;
            let at = block + SCALE_BYTES + column % BLOCK / 4 * 4 * GROUP + lane * 4 + column % 4;
            half(block + lane * 2) * (group[at] as f32 - INT8_ZERO as f32)
        }
        Format::Int4 => {
            let block = column / BLOCK * INT4_BLOCK_BYTES;
            let at = block + SCALE_BYTES + column % 16 / 4 * 4 * GROUP + lane * 4 + column % 4;
            let level = group[at] >> (column % BLOCK / 16 * 4) & 15;
            half(block + lane * 2) * (level as f32 - INT4_ZERO as f32)
        }
    }
}

/// The number that half-precision bits stand for.
pub fn f16_to_f32(bits: u16) -> f32 {
    let shifted = f32::from_bits((bits as u32 & 0x7fff) << 13) * crate::simd::F16_SHIFT;
    if bits & 0x8000 == 0 {
        shifted
    } else {
        -shifted
    }
}
