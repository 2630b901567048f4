//! `LatentAttention`: Multi-head Latent Attention over a paged cache of latents (DeepSeek-V2, arXiv
//! 2405.04434, section 2.1), in the absorbed form unless told otherwise. The op's function body in the
//! exported graph says the same.

use super::attention::{self, attend, Heads, Values};
use super::cache::Cache;
use super::expanded_attention;
use super::matrix::{Format, Matrix};
use super::multiply::{multiply_float, Strided, StridedMut};
use super::rms_norm::rms_norm;
use super::rotary::{rotate, Pairs};
use super::scratch::{bytes_of, Scratch};
use super::step_batch::StepBatch;
use crate::team::{Shared, Team};

use core::ops::Range;

/// Sizes and attributes of one layer.
#[derive(Clone, Copy)]
pub struct LatentShape {
    pub heads: usize,
    pub nope: usize,
    pub rope: usize,
    pub rank: usize,
    pub value: usize,
    /// P.
    pub block_size: usize,
    /// Of the scores.
    pub scale: f32,
    /// Of the latent's norm.
    pub epsilon: f32,
    /// Whether sequences may be computed in the expanded form where that takes fewer operations.
    pub may_expand: bool,
}

/// Tensors of one layer.
pub struct LatentTensors<'a> {
    /// [T, H*(N+R)], before the rotation.
    pub query: &'a [f32],
    /// [T, C+R], before norm and rotation.
    pub latent: &'a [f32],
    /// [C].
    pub norm_weight: &'a [f32],
    /// Packed by [`pack_kv_b`].
    pub kv_b: &'a [u8],
    /// How `kv_b` is stored.
    pub format: Format,
    /// [T, R/2].
    pub cos: &'a [f32],
    /// [T, R/2].
    pub sin: &'a [f32],
    /// [blocks, P, 1, C+R].
    pub cache: Cache<'a>,
    /// [T, H*V].
    pub y: Shared<'a, f32>,
}

/// Bytes of `kv_b` after packing: for every head the transpose of W_UK, [C, N], then W_UV, [V, C].
pub fn kv_b_bytes(format: Format, shape: &LatentShape) -> usize {
    shape.heads * head_bytes(format, shape)
}

fn head_bytes(format: Format, shape: &LatentShape) -> usize {
    format.packed_bytes(shape.rank, shape.nope) + format.packed_bytes(shape.value, shape.rank)
}

impl LatentShape {
    /// A shape for what concerns one head's matrices alone.
    pub fn one_head(nope: usize, value: usize, rank: usize) -> Self {
        Self {
            heads: 1,
            nope,
            rope: 0,
            rank,
            value,
            block_size: 1,
            scale: 1.0,
            epsilon: 0.0,
            may_expand: false,
        }
    }

    fn all_heads(&self) -> Heads {
        let key_width = self.rank + self.rope;
        Heads { groups: 1, per_group: self.heads, key_width, value_width: self.rank }
    }
}

/// Bytes of temporary memory for `tokens` tokens, contexts of at most `context` positions and `threads`
/// threads.
pub fn scratch_bytes(shape: &LatentShape, tokens: usize, context: usize, threads: usize) -> usize {
    let heads = shape.all_heads();
    let absorbed = bytes_of::<f32>(tokens * shape.heads * heads.query_stride())
        + attention::scratch_bytes(&heads, tokens, context, threads);
    let expanded = bytes_of::<f32>(tokens * shape.heads * (shape.nope + shape.rope))
        + expanded_attention::scratch_bytes(shape, tokens, threads);
    threads * bytes_of::<f32>(shape.rank + shape.rope)
        + if shape.may_expand { absorbed.max(expanded) } else { absorbed }
}

/// Runs one layer.
///
/// # Panics
/// If a length does not fit.
pub fn latent_attention(
    team: &Team,
    shape: &LatentShape,
    batch: StepBatch,
    tensors: LatentTensors,
    scratch: Shared<u8>,
) {
    let LatentShape { heads, nope, rope, value, .. } = *shape;
    let tokens = batch.slots.len();
    assert_eq!(tensors.kv_b.len(), kv_b_bytes(tensors.format, shape));
    assert_eq!(tensors.query.len(), tokens * heads * (nope + rope));
    assert_eq!(tensors.y.len(), tokens * heads * value);
    if !shape.may_expand {
        return absorbed(team, shape, batch, 0..tokens, &tensors, scratch);
    }
    // Sequences in turn that take the absorbed form are computed together.
    let mut from = 0;
    for b in 0..batch.context_lengths.len() {
        let own = batch.query_starts[b] as usize..batch.query_starts[b + 1] as usize;
        let context = batch.context_lengths[b] as usize;
        if expanded_attention::takes_fewer_operations(shape, own.len(), context) {
            absorbed(team, shape, batch, from..own.start, &tensors, scratch);
            from = own.end;
            expanded(team, shape, batch, b, &tensors, scratch);
        }
    }
    absorbed(team, shape, batch, from..tokens, &tensors, scratch);
}

impl LatentTensors<'_> {
    /// A token's share of `cos` and `sin`.
    fn angles(&self, shape: &LatentShape, token: usize) -> (&[f32], &[f32]) {
        let own = token * shape.rope / 2..(token + 1) * shape.rope / 2;
        (&self.cos[own.clone()], &self.sin[own])
    }

    /// Puts a token's latent into the cache. `row`: C+R elements to work on.
    ///
    /// # Safety
    /// No other thread may use the slot until the next barrier.
    unsafe fn append(&self, shape: &LatentShape, token: usize, slot: usize, row: &mut [f32]) {
        let LatentShape { rope, rank, epsilon, .. } = *shape;
        let latent = &self.latent[token * (rank + rope)..(token + 1) * (rank + rope)];
        rms_norm(&latent[..rank], self.norm_weight, epsilon, &mut row[..rank]);
        let (cos, sin) = self.angles(shape, token);
        rotate(&latent[rank..], cos, sin, Pairs::Interleaved, &mut row[rank..]);
        self.cache.write(slot, 0, row);
    }
}

/// Some tokens of the batch, in the absorbed form.
fn absorbed(
    team: &Team,
    shape: &LatentShape,
    batch: StepBatch,
    tokens: Range<usize>,
    tensors: &LatentTensors,
    scratch: Shared<u8>,
) {
    if tokens.is_empty() {
        return;
    }
    let LatentShape { heads, nope, rope, rank, value, block_size, scale, .. } = *shape;
    let LatentTensors { query, kv_b, format, cache, y, .. } = *tensors;
    let width = rank + rope;
    let all_heads = shape.all_heads();
    let stride = all_heads.query_stride();
    let mut scratch = Scratch::new(scratch);
    let row = scratch.take_own::<f32>(width, team);
    let queries = scratch.take::<f32>(batch.slots.len() * heads * stride); // [T, H, stride]
    let head_bytes = head_bytes(format, shape);
    let key_bytes = format.packed_bytes(rank, nope);

    // Each head's queries move to the latent space; each token's latent goes to the cache.
    team.share(heads + tokens.len(), 1, |items| {
        for item in items {
            if let Some(i) = item.checked_sub(heads) {
                let token = tokens.start + i;
                // SAFETY: slots are distinct, but for padding, whose rows nobody uses.
                unsafe { tensors.append(shape, token, batch.slots[token] as usize, row) };
                continue;
            }
            let head = item;
            let packed = &kv_b[head * head_bytes..head * head_bytes + key_bytes];
            let first = tokens.start * heads + head;
            let values = &query[first * (nope + rope)..];
            let x = Strided { values, stride: heads * (nope + rope) };
            let mut into =
                StridedMut { values: queries.from(first * stride), stride: heads * stride };
            multiply_float(&Matrix::new(format, rank, nope, packed), x, tokens.len(), &mut into);
            for token in tokens.clone() {
                let at = (token * heads + head) * stride;
                // SAFETY: this head's queries are this item's.
                let row = unsafe { queries.write(at..at + stride) };
                let at = (token * heads + head) * (nope + rope) + nope;
                let (cos, sin) = tensors.angles(shape, token);
                rotate(&query[at..at + rope], cos, sin, Pairs::Interleaved, &mut row[rank..width]);
                row[..width].iter_mut().for_each(|element| *element *= scale);
                row[width..].fill(0.0);
            }
        }
    });

    let attended = tokens.clone();
    let values = Values::OfKeys;
    attend(team, all_heads, batch, attended, block_size, queries, cache, values, &mut scratch);

    team.share(heads, 1, |items| {
        for head in items {
            let packed = &kv_b[head * head_bytes + key_bytes..(head + 1) * head_bytes];
            let first = tokens.start * heads + head;
            // SAFETY: written before the barrier.
            let values = unsafe { queries.from(first * stride).read_all() };
            let x = Strided { values, stride: heads * stride };
            let mut into = StridedMut { values: y.from(first * value), stride: heads * value };
            multiply_float(&Matrix::new(format, value, rank, packed), x, tokens.len(), &mut into);
        }
    });
}

/// The tokens of sequence `b`, in the expanded form.
fn expanded(
    team: &Team,
    shape: &LatentShape,
    batch: StepBatch,
    b: usize,
    tensors: &LatentTensors,
    scratch: Shared<u8>,
) {
    let LatentShape { heads, nope, rope, rank, value, scale, .. } = *shape;
    let LatentTensors { query, kv_b, format, cache, y, .. } = *tensors;
    let own = batch.query_starts[b] as usize..batch.query_starts[b + 1] as usize;
    let (tokens, width) = (own.len(), nope + rope);
    let mut scratch = Scratch::new(scratch);
    let row = scratch.take_own::<f32>(rank + rope, team);
    let queries = scratch.take::<f32>(tokens * heads * width); // [tokens, H, N+R]

    team.share(tokens, 1, |items| {
        for i in items {
            let token = own.start + i;
            let (cos, sin) = tensors.angles(shape, token);
            // SAFETY: slots are distinct, but for padding, whose rows nobody uses; queries are this item's.
            let into = unsafe {
                tensors.append(shape, token, batch.slots[token] as usize, row);
                queries.write(i * heads * width..(i + 1) * heads * width)
            };
            let from = query[token * heads * width..].chunks_exact(width);
            for (from, into) in from.zip(into.chunks_exact_mut(width)) {
                into[..nope].copy_from_slice(&from[..nope]);
                rotate(&from[nope..], cos, sin, Pairs::Interleaved, &mut into[nope..]);
                into.iter_mut().for_each(|element| *element *= scale);
            }
        }
    });

    let (blocks, _) = batch.of_token(own.start);
    // SAFETY: written before the barrier.
    let queries = unsafe { queries.read_all() };
    let (context, y) = (batch.context_lengths[b] as usize, y.from(own.start * heads * value));
    let sequence = expanded_attention::Sequence { queries, tokens, context, blocks, cache, y };
    let head_bytes = head_bytes(format, shape);
    let weights = |head: usize| {
        kv_b[head * head_bytes..][..head_bytes].split_at(format.packed_bytes(rank, nope))
    };
    expanded_attention::attend(team, shape, &sequence, format, weights, &mut scratch);
}

/// Packs one head of kv_b_proj as it lies in a file, [N+V, C]: W_UK and W_UV.
///
/// # Panics
/// If a length does not fit or the format is quantized.
pub fn pack_kv_b(format: Format, source: &[u8], shape: &LatentShape, packed: &mut [u8]) {
    let (key, value) = source.split_at(shape.nope * format.file_row_bytes(shape.rank));
    let (key_packed, value_packed) =
        packed.split_at_mut(format.packed_bytes(shape.rank, shape.nope));
    super::matrix::pack_transposed(format, key, shape.rank, shape.nope, key_packed);
    super::matrix::pack(format, value, shape.value, shape.rank, value_packed);
}
