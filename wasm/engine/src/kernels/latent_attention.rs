//! `LatentAttention`: Multi-head Latent Attention in the absorbed form over a paged cache of latents
//! (DeepSeek-V2, arXiv 2405.04434, section 2.1). The op's function body in the exported graph says the
//! same.

use super::attention::{self, attend, Heads, Values};
use super::cache::Cache;
use super::matrix::{Format, Matrix};
use super::multiply::{multiply_float, Strided, StridedMut};
use super::rms_norm::rms_norm;
use super::rotary::{rotate, Pairs};
use super::scratch::{bytes_of, Scratch};
use super::step_batch::StepBatch;
use crate::team::{Shared, Team};

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
        Self { heads: 1, nope, rope: 0, rank, value, block_size: 1, scale: 1.0, epsilon: 0.0 }
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
    bytes_of::<f32>(tokens * shape.heads * heads.query_stride())
        + threads * bytes_of::<f32>(shape.rank + shape.rope)
        + attention::scratch_bytes(&heads, tokens, context, threads)
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
    let LatentShape { heads, nope, rope, rank, value, block_size, scale, epsilon } = *shape;
    let LatentTensors { query, latent, norm_weight, kv_b, format, cos, sin, cache, y } = tensors;
    let tokens = batch.slots.len();
    let width = rank + rope;
    let all_heads = shape.all_heads();
    let stride = all_heads.query_stride();
    let mut scratch = Scratch::new(scratch);
    let absorbed = scratch.take::<f32>(tokens * heads * stride); // [T, H, stride]
    let row = scratch.take_own::<f32>(width, team);
    assert_eq!(kv_b.len(), kv_b_bytes(format, shape));
    assert!(query.len() == tokens * heads * (nope + rope) && y.len() == tokens * heads * value);
    let angles = |token: usize| token * rope / 2..(token + 1) * rope / 2;
    let head_bytes = head_bytes(format, shape);
    let key_bytes = format.packed_bytes(rank, nope);

    // Each head's queries move to the latent space; each token's latent goes to the cache.
    team.share(heads + tokens, 1, |items| {
        for item in items {
            if let Some(token) = item.checked_sub(heads) {
                let latent = &latent[token * width..(token + 1) * width];
                rms_norm(&latent[..rank], norm_weight, epsilon, &mut row[..rank]);
                let (cos, sin) = (&cos[angles(token)], &sin[angles(token)]);
                rotate(&latent[rank..], cos, sin, Pairs::Interleaved, &mut row[rank..]);
                // SAFETY: slots are distinct, but for padding, whose rows nobody uses.
                unsafe { cache.write(batch.slots[token] as usize, 0, row) };
                continue;
            }
            let head = item;
            let packed = &kv_b[head * head_bytes..head * head_bytes + key_bytes];
            let x =
                Strided { values: &query[head * (nope + rope)..], stride: heads * (nope + rope) };
            let mut into =
                StridedMut { values: absorbed.from(head * stride), stride: heads * stride };
            multiply_float(&Matrix::new(format, rank, nope, packed), x, tokens, &mut into);
            for token in 0..tokens {
                let at = (token * heads + head) * stride;
                // SAFETY: this head's queries are this item's.
                let row = unsafe { absorbed.write(at..at + stride) };
                let at = (token * heads + head) * (nope + rope) + nope;
                let (cos, sin) = (&cos[angles(token)], &sin[angles(token)]);
                rotate(&query[at..at + rope], cos, sin, Pairs::Interleaved, &mut row[rank..width]);
                row[..width].iter_mut().for_each(|element| *element *= scale);
                row[width..].fill(0.0);
            }
        }
    });

    attend(team, all_heads, batch, block_size, absorbed, cache, Values::OfKeys, &mut scratch);

    team.share(heads, 1, |items| {
        for head in items {
            let packed = &kv_b[head * head_bytes + key_bytes..(head + 1) * head_bytes];
            // SAFETY: written before the barrier.
            let values = unsafe { absorbed.from(head * stride).read_all() };
            let x = Strided { values, stride: heads * stride };
            let mut into = StridedMut { values: y.from(head * value), stride: heads * value };
            multiply_float(&Matrix::new(format, value, rank, packed), x, tokens, &mut into);
        }
    });
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
