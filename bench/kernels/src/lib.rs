//! Kernels as exports, for `bench/kernels.ts`: the shipped module has no use for them one by one.

#![no_std]

use core::slice::{from_raw_parts, from_raw_parts_mut};

pub use hybridseek_engine::exports::*;
use hybridseek_engine::kernels::matrix::{Format, Matrix, BLOCK};
use hybridseek_engine::kernels::multiply::{
    multiply_float, multiply_quantized, Strided, StridedMut,
};
use hybridseek_engine::kernels::quantize::{self, QuantizedBlock};

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
    let y = &mut StridedMut { values: from_raw_parts_mut(y, tokens * rows), stride: rows };
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
