//! `PagedAttention`: multi-head and grouped-query attention with rotary embedding over paged caches of
//! keys and values. The op's function body in the exported graph says the same.

use super::attention::{attend, CacheRows, Heads, Queries};
use super::rotary::{rotate, Pairs};
use super::scratch::{bytes_of, Scratch};
use super::step_batch::StepBatch;

/// Sizes and attributes of one layer.
#[derive(Clone, Copy)]
pub struct PagedShape {
    /// Query heads.
    pub heads: usize,
    /// Key heads; divides `heads`.
    pub groups: usize,
    /// Elements of a query and a key head.
    pub key_width: usize,
    /// Elements of a value head.
    pub value_width: usize,
    /// P.
    pub block_size: usize,
    /// Of the scores.
    pub scale: f32,
    /// Which elements rotate against one another.
    pub pairs: Pairs,
}

/// Tensors of one layer.
pub struct PagedTensors<'a> {
    /// [T, H*W], before the rotation.
    pub query: &'a [f32],
    /// [T, G*W], before the rotation.
    pub key: &'a [f32],
    /// [T, G*V].
    pub value: &'a [f32],
    /// [T, W/2].
    pub cos: &'a [f32],
    /// [T, W/2].
    pub sin: &'a [f32],
    /// [blocks, P, G, W].
    pub key_cache: &'a mut [f32],
    /// [blocks, P, G, V].
    pub value_cache: &'a mut [f32],
    /// [T, H*V].
    pub y: &'a mut [f32],
}

/// Bytes of temporary memory for contexts of at most `context` positions.
pub fn scratch_bytes(shape: &PagedShape, context: usize) -> usize {
    bytes_of::<f32>(shape.heads * shape.key_width.max(shape.value_width))
        + bytes_of::<f32>(shape.heads * context)
}

/// Runs one layer.
///
/// # Panics
/// If a length does not fit.
pub fn paged_attention(
    shape: &PagedShape,
    batch: StepBatch,
    tensors: PagedTensors,
    scratch: &mut [u8],
) {
    let PagedShape { heads, groups, key_width, value_width, block_size, scale, pairs } = *shape;
    let PagedTensors { query, key, value, cos, sin, key_cache, value_cache, y } = tensors;
    let half = key_width / 2;
    let (key_row, value_row) = (groups * key_width, groups * value_width);
    let angles = |token: usize| token * half..(token + 1) * half;

    for (token, slot) in batch.slots.iter().enumerate() {
        let slot = *slot as usize;
        let keys = &mut key_cache[slot * key_row..(slot + 1) * key_row];
        let raw = &key[token * key_row..(token + 1) * key_row];
        for (raw, rotated) in raw.chunks_exact(key_width).zip(keys.chunks_exact_mut(key_width)) {
            rotate(raw, &cos[angles(token)], &sin[angles(token)], pairs, rotated);
        }
        value_cache[slot * value_row..(slot + 1) * value_row]
            .copy_from_slice(&value[token * value_row..(token + 1) * value_row]);
    }

    let stride = key_width.max(value_width);
    let mut scratch = Scratch::new(scratch);
    let queries = scratch.take::<f32>(heads * stride);
    let scores = scratch.take::<f32>(heads * batch.longest_context());
    let heads_of_token = Heads { groups, per_group: heads / groups, key_width, value_width };
    batch.for_each_token(|token, blocks, visible| {
        let raw = &query[token * heads * key_width..(token + 1) * heads * key_width];
        for (raw, rotated) in raw.chunks_exact(key_width).zip(queries.chunks_exact_mut(stride)) {
            let rotated = &mut rotated[..key_width];
            rotate(raw, &cos[angles(token)], &sin[angles(token)], pairs, rotated);
            rotated.iter_mut().for_each(|element| *element *= scale);
        }
        let keys = CacheRows { cache: key_cache, blocks, block_size, row_width: key_row };
        let values = CacheRows { cache: value_cache, blocks, block_size, row_width: value_row };
        let mut in_place = Queries { values: queries, stride };
        attend(heads_of_token, &mut in_place, keys, values, visible, scores);
        let y = &mut y[token * heads * value_width..(token + 1) * heads * value_width];
        for (mixed, y) in queries.chunks_exact(stride).zip(y.chunks_exact_mut(value_width)) {
            y.copy_from_slice(&mixed[..value_width]);
        }
    });
}
