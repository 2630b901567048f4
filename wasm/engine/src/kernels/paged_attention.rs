//! `PagedAttention`: multi-head and grouped-query attention with rotary embedding over paged caches of
//! keys and values. The op's function body in the exported graph says the same.

use super::attention::{self, attend, Heads, Values};
use super::cache::Cache;
use super::rotary::{rotate, Pairs};
use super::scratch::{bytes_of, Scratch};
use super::step_batch::StepBatch;
use crate::team::{Shared, Team};

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
    pub key_cache: Cache<'a>,
    /// [blocks, P, G, V].
    pub value_cache: Cache<'a>,
    /// [T, H*V].
    pub y: Shared<'a, f32>,
}

impl PagedShape {
    fn all_heads(&self) -> Heads {
        let PagedShape { groups, key_width, value_width, .. } = *self;
        Heads { groups, per_group: self.heads / groups, key_width, value_width }
    }
}

/// Bytes of temporary memory for `tokens` tokens, contexts of at most `context` positions and `threads`
/// threads.
pub fn scratch_bytes(shape: &PagedShape, tokens: usize, context: usize, threads: usize) -> usize {
    let heads = shape.all_heads();
    bytes_of::<f32>(tokens * shape.heads * heads.query_stride())
        + threads * bytes_of::<f32>(shape.key_width)
        + attention::scratch_bytes(&heads, tokens, context, threads)
}

/// Runs one layer.
///
/// # Panics
/// If a length does not fit.
pub fn paged_attention(
    team: &Team,
    shape: &PagedShape,
    batch: StepBatch,
    tensors: PagedTensors,
    scratch: Shared<u8>,
) {
    let PagedShape { heads, groups, key_width, value_width, block_size, scale, pairs } = *shape;
    let PagedTensors { query, key, value, cos, sin, key_cache, value_cache, y } = tensors;
    let tokens = batch.slots.len();
    let half = key_width / 2;
    let all_heads = shape.all_heads();
    let stride = all_heads.query_stride();
    assert!(query.len() == tokens * heads * key_width && y.len() == tokens * heads * value_width);
    let mut scratch = Scratch::new(scratch);
    let queries = scratch.take::<f32>(tokens * heads * stride); // [T, H, stride]
    let rotated = scratch.take_own::<f32>(key_width, team);

    team.share(tokens, 1, |items| {
        for token in items {
            let slot = batch.slots[token] as usize;
            let angles = token * half..(token + 1) * half;
            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
            for group in 0..groups {
                let at = token * groups + group;
                let raw = &key[at * key_width..(at + 1) * key_width];
                rotate(raw, cos, sin, pairs, rotated);
                // SAFETY: slots are distinct, but for padding, whose rows nobody uses.
                unsafe {
                    key_cache.write(slot, group, rotated);
                    let row = &value[at * value_width..(at + 1) * value_width];
                    value_cache.write(slot, group, row);
                }
            }
            for head in 0..heads {
                let at = token * heads + head;
                // SAFETY: this token's queries are this item's.
                let row = unsafe { queries.write(at * stride..(at + 1) * stride) };
                let raw = &query[at * key_width..(at + 1) * key_width];
                rotate(raw, cos, sin, pairs, &mut row[..key_width]);
                row[..key_width].iter_mut().for_each(|element| *element *= scale);
                row[key_width..].fill(0.0);
            }
        }
    });

    let values = Values::Cache(value_cache);
    attend(team, all_heads, batch, 0..tokens, block_size, queries, key_cache, values, &mut scratch);

    team.share(tokens * heads, heads, |items| {
        for item in items {
            // SAFETY: results were written before the barrier; a head of y is one item's.
            unsafe {
                let result = queries.read(item * stride..item * stride + value_width);
                y.write(item * value_width..(item + 1) * value_width).copy_from_slice(result);
            }
        }
    });
}
