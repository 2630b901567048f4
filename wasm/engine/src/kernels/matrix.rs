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

/// Packs rows of a file: `source` [rows, file_row_bytes], for int8 and int4 with `scales` f16
/// [rows, blocks] (empty otherwise).
///
/// # Panics
/// If a length does not fit.
pub fn pack(
    format: Format,
    source: &[u8],
    scales: &[u16],
    rows: usize,
    columns: usize,
    packed: &mut [u8],
) {
    let row_bytes = format.file_row_bytes(columns);
    assert_eq!(source.len(), rows * row_bytes);
    assert_eq!(packed.len(), format.packed_bytes(rows, columns));
    let blocks = if format.is_quantized() { columns.div_ceil(BLOCK) } else { 0 };
    assert_eq!(scales.len(), rows * blocks);
    packed.fill(0);
    for row in 0..rows {
        let from = &source[row * row_bytes..(row + 1) * row_bytes];
        let group = &mut packed[row / GROUP * format.group_bytes(columns)..];
        let lane = row % GROUP;
        match format {
            Format::F32 => interleave::<4>(from, group, lane),
            Format::F16 => interleave::<2>(from, group, lane),
            Format::Int8 => pack_int8(from, &scales[row * blocks..(row + 1) * blocks], group, lane),
            Format::Int4 => pack_int4(from, &scales[row * blocks..(row + 1) * blocks], group, lane),
        }
    }
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

fn interleave<const SIZE: usize>(row: &[u8], group: &mut [u8], lane: usize) {
    for (k, element) in row.chunks_exact(SIZE).enumerate() {
        let at = (k * GROUP + lane) * SIZE;
        group[at..at + SIZE].copy_from_slice(element);
    }
}

fn pack_int8(row: &[u8], scales: &[u16], group: &mut [u8], lane: usize) {
    for (b, (levels, scale)) in row.chunks_exact(BLOCK).zip(scales).enumerate() {
        let block = &mut group[b * INT8_BLOCK_BYTES..(b + 1) * INT8_BLOCK_BYTES];
        block[lane * 2..lane * 2 + 2].copy_from_slice(&scale.to_le_bytes());
        for (k, four) in levels.chunks_exact(4).enumerate() {
            let at = SCALE_BYTES + k * 4 * GROUP + lane * 4;
            block[at..at + 4].copy_from_slice(four);
        }
    }
}

fn pack_int4(row: &[u8], scales: &[u16], group: &mut [u8], lane: usize) {
    for (b, (nibbles, scale)) in row.chunks_exact(BLOCK / 2).zip(scales).enumerate() {
        let block = &mut group[b * INT4_BLOCK_BYTES..(b + 1) * INT4_BLOCK_BYTES];
        block[lane * 2..lane * 2 + 2].copy_from_slice(&scale.to_le_bytes());
        for k in 0..BLOCK {
            let level = nibbles[k / 2] >> (k % 2 * 4) & 15;
            let at = SCALE_BYTES + k % 16 / 4 * 4 * GROUP + lane * 4 + k % 4;
            block[at] |= level << (k / 16 * 4);
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
