//! Softmax attention of single queries over a paged cache: the core of both attention kernels.
//!
//! Sums run in the order of the positions, whatever the chunk or batch that a query came in.

use crate::math;
use crate::simd::F32x4;

/// A sequence's rows in a paged cache [blocks, P, row width] of f32.
#[derive(Clone, Copy)]
pub struct CacheRows<'a> {
    /// The whole cache.
    pub cache: &'a [f32],
    /// The sequence's blocks, in the order of its positions.
    pub blocks: &'a [i32],
    /// P.
    pub block_size: usize,
    /// Elements of a row, all heads together.
    pub row_width: usize,
}

impl<'a> CacheRows<'a> {
    /// # Panics
    /// If the position has no block.
    #[inline(always)]
    fn row(&self, position: usize) -> &'a [f32] {
        let slot = self.blocks[position / self.block_size] as usize * self.block_size
            + position % self.block_size;
        &self.cache[slot * self.row_width..(slot + 1) * self.row_width]
    }
}

/// Widths of one attention.
#[derive(Clone, Copy)]
pub struct Heads {
    /// Key heads in a cache row.
    pub groups: usize,
    /// Query heads of each key head.
    pub per_group: usize,
    /// Elements of a query and of a key.
    pub key_width: usize,
    /// Elements of a value: the first ones of a key head's share of the values' row.
    pub value_width: usize,
}

/// The queries of one token, one per head, `stride` elements apart. The result of head h takes the
/// place of the first `value_width` elements of its query.
pub struct Queries<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
}

/// Attends over the first `context` positions; queries are scaled already. `scores` has at least
/// heads * context elements.
///
/// # Panics
/// If a length does not fit.
pub fn attend(
    heads: Heads,
    queries: &mut Queries,
    keys: CacheRows,
    values: CacheRows,
    context: usize,
    scores: &mut [f32],
) {
    let Heads { groups, per_group, key_width, value_width } = heads;
    let key_stride = keys.row_width / groups;
    let value_stride = values.row_width / groups;
    assert!(key_width <= key_stride && value_width <= value_stride);
    let scores = &mut scores[..groups * per_group * context];

    for position in 0..context {
        let row = keys.row(position);
        for group in 0..groups {
            let key = &row[group * key_stride..group * key_stride + key_width];
            let first = group * per_group;
            let mut head = first;
            while first + per_group - head >= 4 {
                let dots = dot::<4>(queries, head, key);
                for (i, dot) in dots.iter().enumerate() {
                    scores[(head + i) * context + position] = *dot;
                }
                head += 4;
            }
            while head < first + per_group {
                scores[head * context + position] = dot::<1>(queries, head, key)[0];
                head += 1;
            }
        }
    }
    for (head, scores) in scores.chunks_exact_mut(context).enumerate() {
        softmax(scores);
        queries.values[head * queries.stride..head * queries.stride + value_width].fill(0.0);
    }
    let mut position = 0;
    while position < context {
        let count = (context - position).min(ROWS_AT_ONCE);
        let rows: [&[f32]; ROWS_AT_ONCE] =
            core::array::from_fn(|i| values.row(position + i.min(count - 1)));
        for head in 0..groups * per_group {
            let at = head / per_group * value_stride;
            let weights = &scores[head * context + position..head * context + position + count];
            let sums =
                &mut queries.values[head * queries.stride..head * queries.stride + value_width];
            if count == ROWS_AT_ONCE {
                let rows = rows.map(|row| &row[at..at + value_width]);
                add_weighted(weights, &rows, sums);
            } else {
                for (weight, row) in weights.iter().zip(rows) {
                    add_weighted(&[*weight], &[&row[at..at + value_width]], sums);
                }
            }
        }
        position += count;
    }
}

/// How many rows are mixed before the sums go back to memory.
const ROWS_AT_ONCE: usize = 4;

/// Products of HEADS neighbouring queries with a key.
#[inline(always)]
fn dot<const HEADS: usize>(queries: &Queries, head: usize, key: &[f32]) -> [f32; HEADS] {
    let query = |h: usize| {
        let at = (head + h) * queries.stride;
        &queries.values[at..at + key.len()]
    };
    let query: [&[f32]; HEADS] = core::array::from_fn(query);
    let whole = key.len() / 4 * 4;
    let mut lanes = [F32x4::splat(0.0); HEADS];
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 <= the length of the key and of each query.
        unsafe {
            let key = F32x4::load(key.as_ptr().add(i));
            for (lanes, query) in lanes.iter_mut().zip(query) {
                *lanes = lanes.add(F32x4::load(query.as_ptr().add(i)).mul(key));
            }
        }
    }
    core::array::from_fn(|h| {
        let rest = query[h][whole..].iter().zip(&key[whole..]);
        rest.fold(lanes[h].sum(), |sum, (q, k)| sum + q * k)
    })
}

/// sums += weights[0] * rows[0], then += weights[1] * rows[1], ...
#[inline(always)]
fn add_weighted<const ROWS: usize>(weights: &[f32], rows: &[&[f32]; ROWS], sums: &mut [f32]) {
    let width = sums.len();
    assert!(weights.len() == ROWS && rows.iter().all(|row| row.len() == width));
    let whole = width / 4 * 4;
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 <= the length of the sums and of each row.
        unsafe {
            let mut sum = F32x4::load(sums.as_ptr().add(i));
            for (row, weight) in rows.iter().zip(weights) {
                sum = sum.add(F32x4::load(row.as_ptr().add(i)).mul(F32x4::splat(*weight)));
            }
            sum.store(sums.as_mut_ptr().add(i));
        }
    }
    for i in whole..width {
        for (row, weight) in rows.iter().zip(weights) {
            sums[i] += row[i] * weight;
        }
    }
}

/// Softmax in place.
pub fn softmax(x: &mut [f32]) {
    let (whole, rest) = x.split_at(x.len() / 4 * 4);
    let mut lanes = F32x4::splat(f32::NEG_INFINITY);
    for four in whole.chunks_exact(4) {
        // SAFETY: `four` has four elements.
        lanes = lanes.max(unsafe { F32x4::load(four.as_ptr()) });
    }
    for value in rest {
        lanes = lanes.max(F32x4::splat(*value));
    }
    let [a, b, c, d] = lanes.to_array().map(F32x4::splat);
    let largest = a.max(b).max(c.max(d));
    let mut sum = F32x4::splat(0.0);
    let exponential = |four: F32x4| math::exp(four.sub(largest));
    let (whole, rest) = x.split_at_mut(x.len() / 4 * 4);
    for four in whole.chunks_exact_mut(4) {
        // SAFETY: `four` has four elements.
        unsafe {
            let e = exponential(F32x4::load(four.as_ptr()));
            e.store(four.as_mut_ptr());
            sum = sum.add(e);
        }
    }
    let mut total = sum.sum();
    for value in rest {
        *value = exponential(F32x4::splat(*value)).to_array()[0];
        total += *value;
    }
    for value in x {
        *value /= total;
    }
}

/// The scalar reference: one query over rows of keys and values, in f64.
#[cfg(not(target_family = "wasm"))]
pub fn reference(query: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
    let score = |key: &&[f32]| -> f64 {
        query.iter().zip(key.iter()).map(|(q, k)| *q as f64 * *k as f64).sum()
    };
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..values[0].len())
        .map(|i| weights.iter().zip(values).map(|(w, row)| w / total * row[i] as f64).sum())
        .collect()
}
