//! Rows as the experts' matrices take them: f32, or int8 blocks for quantized ones.

use core::ops::Range;

use super::matrix::{Format, Matrix, BLOCK};
use super::multiply::{multiply_float, Strided, StridedMut};
use super::multiply_quantized::multiply_quantized;
use super::quantize::{join_four, quantize, QuantizedBlock};
use super::scratch::{bytes_of, Scratch};
use crate::team::Shared;

/// The rows and how many elements or blocks each has. Quantized rows that are written together lie as
/// [`quantize`] leaves them.
#[derive(Clone, Copy)]
pub enum ExpertRows<'a> {
    Float(Shared<'a, f32>, usize),
    Quantized(Shared<'a, QuantizedBlock>, usize),
}

impl<'a> ExpertRows<'a> {
    /// Bytes of scratch.
    pub fn bytes(format: Format, rows: usize, columns: usize) -> usize {
        match format.is_quantized() {
            true => bytes_of::<QuantizedBlock>(rows * columns.div_ceil(BLOCK)),
            false => bytes_of::<f32>(rows * columns),
        }
    }

    /// Room for rows that matrices of `format` take.
    pub fn take(format: Format, scratch: &mut Scratch<'a>, rows: usize, columns: usize) -> Self {
        if format.is_quantized() {
            let per_row = columns.div_ceil(BLOCK);
            Self::Quantized(scratch.take(rows * per_row), per_row)
        } else {
            Self::Float(scratch.take(rows * columns), columns)
        }
    }

    /// Writes rows of f32.
    ///
    /// # Safety
    /// No other thread may touch the rows until the next barrier.
    pub unsafe fn put(&self, rows: Range<usize>, values: &[f32]) {
        match *self {
            Self::Float(all, width) => {
                all.write(rows.start * width..rows.end * width).copy_from_slice(values)
            }
            Self::Quantized(all, width) => {
                let blocks = all.write(rows.start * width..rows.end * width);
                quantize(values, values.len() / rows.len(), blocks)
            }
        }
    }

    /// Copies rows that lie one by one: row `from_row(i)` becomes the i-th. Of quantized ones four or one.
    ///
    /// # Safety
    /// As for [`ExpertRows::put`], and nobody may write to those rows of `from`.
    pub unsafe fn copy(&self, rows: Range<usize>, from: &Self, from_row: impl Fn(usize) -> usize) {
        match (*self, *from) {
            (Self::Float(all, width), Self::Float(from, _)) => {
                let into = all.write(rows.start * width..rows.end * width);
                for (i, into) in into.chunks_exact_mut(width).enumerate() {
                    let row = from_row(i);
                    into.copy_from_slice(from.read(row * width..(row + 1) * width));
                }
            }
            (Self::Quantized(all, width), Self::Quantized(from, _)) => {
                let into = all.write(rows.start * width..rows.end * width);
                let row = |i| from.read(from_row(i) * width..(from_row(i) + 1) * width);
                match rows.len() {
                    4 => join_four(core::array::from_fn(row), into),
                    _ => into.copy_from_slice(row(0)),
                }
            }
            _ => panic!("rows of two kinds"),
        }
    }

    /// Multiplies rows that lie as [`quantize`] leaves them with a matrix.
    ///
    /// # Safety
    /// Nobody may write to the rows until the next barrier.
    pub unsafe fn multiply(&self, w: &Matrix, first: usize, count: usize, y: &mut StridedMut) {
        match *self {
            Self::Float(rows, width) => {
                let values = rows.read(first * width..(first + count) * width);
                multiply_float(w, Strided { values, stride: width }, count, y);
            }
            Self::Quantized(rows, width) => {
                let blocks = rows.read(first * width..(first + count) * width);
                multiply_quantized(w, blocks, count, y);
            }
        }
    }
}
