//! Kernels as exports, for `bench/kernels.ts`: the shipped module has no use for them one by one.

#![no_std]

use core::slice::{from_raw_parts, from_raw_parts_mut};

pub use hybridseek_engine::exports::*;
use hybridseek_engine::kernels::matrix::{self, Format, Matrix, BLOCK};
use hybridseek_engine::kernels::multiply::{multiply_float, Strided, StridedMut};
use hybridseek_engine::kernels::multiply_quantized::multiply_quantized;
use hybridseek_engine::kernels::quantize::{self, QuantizedBlock};
use hybridseek_engine::team::Shared;

/// # Safety
/// The pointers must hold what `matrix::pack` and, for a quantized format, `pack_scales` take.
#[no_mangle]
pub unsafe extern "C" fn pack(
    format: u32,
    source: *const u8,
    scales: *const u8,
    rows: usize,
    columns: usize,
    into: *mut u8,
) {
    let format = Format::from_number(format);
    let source = from_raw_parts(source, rows * format.file_row_bytes(columns));
    let into = from_raw_parts_mut(into, format.packed_bytes(rows, columns));
    matrix::pack(format, source, rows, columns, into);
    if format.is_quantized() {
        let scales = from_raw_parts(scales, rows * format.file_scale_bytes(columns));
        matrix::pack_scales(format, scales, rows, columns, into);
    }
}

/// # Safety
/// The pointers must hold what `multiply_quantized` or `multiply_float` takes.
#[no_mangle]
pub unsafe extern "C" fn multiply(
    format: u32,
    rows: usize,
    columns: usize,
    packed: *const u8,
    x: *const u8,
    tokens: usize,
    y: *mut f32,
) {
    let format = Format::from_number(format);
    let packed = from_raw_parts(packed, format.packed_bytes(rows, columns));
    let matrix = Matrix::new(format, rows, columns, packed);
    let y = &mut StridedMut { values: Shared::from_raw(y, tokens * rows), stride: rows };
    if format.is_quantized() {
        let count = tokens * columns.div_ceil(BLOCK);
        multiply_quantized(&matrix, from_raw_parts(x as *const QuantizedBlock, count), tokens, y);
    } else {
        let values = from_raw_parts(x as *const f32, tokens * columns);
        multiply_float(&matrix, Strided { values, stride: columns }, tokens, y);
    }
}

/// # Safety
/// `x` must hold [rows, columns], `blocks` room for the result.
#[no_mangle]
pub unsafe extern "C" fn quantize(x: *const f32, rows: usize, columns: usize, blocks: *mut u8) {
    let count = rows * columns.div_ceil(BLOCK);
    let blocks = from_raw_parts_mut(blocks as *mut QuantizedBlock, count);
    quantize::quantize(from_raw_parts(x, rows * columns), columns, blocks);
}
