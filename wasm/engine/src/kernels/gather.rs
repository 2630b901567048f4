//! Rows of a table by index, as f32: embeddings, rotary rows, the rows whose logits are wanted.

use super::matrix::f16_to_f32;

/// How a table's elements are stored.
#[derive(Clone, Copy)]
pub enum Table<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Bf16(&'a [u16]),
}

/// y[i] = table[indices[i]], `y` [indices, width].
///
/// # Panics
/// If an index is outside of the table or a length does not fit.
pub fn gather(table: Table, width: usize, indices: &[i32], y: &mut [f32]) {
    assert_eq!(y.len(), indices.len() * width);
    for (index, y) in indices.iter().zip(y.chunks_exact_mut(width)) {
        let row = *index as usize * width..(*index as usize + 1) * width;
        match table {
            Table::F32(values) => y.copy_from_slice(&values[row]),
            Table::F16(values) => {
                y.iter_mut().zip(&values[row]).for_each(|(y, bits)| *y = f16_to_f32(*bits))
            }
            Table::Bf16(values) => y
                .iter_mut()
                .zip(&values[row])
                .for_each(|(y, bits)| *y = f32::from_bits((*bits as u32) << 16)),
        }
    }
}
