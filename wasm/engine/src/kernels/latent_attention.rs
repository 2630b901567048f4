//! `LatentAttention`: Multi-head Latent Attention in the absorbed form over a paged cache of latents
//! (DeepSeek-V2, arXiv 2405.04434, section 2.1). The op's function body in the exported graph says the
//! same.

use super::attention::{attend, CacheRows, Heads, Queries};
use super::matrix::{Format, Matrix};
use super::multiply::{multiply_float, Strided, StridedMut};
use super::rms_norm::rms_norm;
use super::rotary::{rotate, Pairs};
use super::scratch::{bytes_of, Scratch};
use super::step_batch::StepBatch;

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
    /// [blocks, P, C+R].
    pub cache: &'a mut [f32],
    /// [T, H*V].
    pub y: &'a mut [f32],
}

/// Bytes of `kv_b` after packing: for every head the transpose of W_UK, [C, N], then W_UV, [V, C].
pub fn kv_b_bytes(format: Format, shape: &LatentShape) -> usize {
    shape.heads * head_bytes(format, shape)
}

fn head_bytes(format: Format, shape: &LatentShape) -> usize {
    format.packed_bytes(shape.rank, shape.nope) + format.packed_bytes(shape.value, shape.rank)
}

/// Bytes of temporary memory for `tokens` tokens and contexts of at most `context` positions.
pub fn scratch_bytes(shape: &LatentShape, tokens: usize, context: usize) -> usize {
    bytes_of::<f32>(shape.heads * tokens * (shape.rank + shape.rope))
        + bytes_of::<f32>(shape.heads * context)
}

/// Runs one layer.
///
/// # Panics
/// If a length does not fit.
pub fn latent_attention(
    shape: &LatentShape,
    batch: StepBatch,
    tensors: LatentTensors,
    scratch: &mut [u8],
) {
    let LatentShape { heads, nope, rope, rank, value, block_size, scale, epsilon } = *shape;
    let LatentTensors { query, latent, norm_weight, kv_b, format, cos, sin, cache, y } = tensors;
    let tokens = batch.slots.len();
    let width = rank + rope;
    let mut scratch = Scratch::new(scratch);
    let absorbed = scratch.take::<f32>(heads * tokens * width); // [H, T, C+R]
    let scores = scratch.take::<f32>(heads * batch.longest_context());
    assert_eq!(kv_b.len(), kv_b_bytes(format, shape));
    assert!(query.len() == tokens * heads * (nope + rope) && y.len() == tokens * heads * value);
    let angles = |token: usize| token * rope / 2..(token + 1) * rope / 2;

    for (token, slot) in batch.slots.iter().enumerate() {
        let row = &mut cache[*slot as usize * width..(*slot as usize + 1) * width];
        let latent = &latent[token * width..(token + 1) * width];
        rms_norm(&latent[..rank], norm_weight, epsilon, &mut row[..rank]);
        let (cos, sin) = (&cos[angles(token)], &sin[angles(token)]);
        rotate(&latent[rank..], cos, sin, Pairs::Interleaved, &mut row[rank..]);
    }

    let head_bytes = head_bytes(format, shape);
    let key_bytes = format.packed_bytes(rank, nope);
    for head in 0..heads {
        let packed = &kv_b[head * head_bytes..head * head_bytes + key_bytes];
        let x = Strided { values: &query[head * (nope + rope)..], stride: heads * (nope + rope) };
        let rows = &mut absorbed[head * tokens * width..(head + 1) * tokens * width];
        let mut into = StridedMut { values: rows, stride: width };
        multiply_float(&Matrix::new(format, rank, nope, packed), x, tokens, &mut into);
        for (token, row) in rows.chunks_exact_mut(width).enumerate() {
            let at = (token * heads + head) * (nope + rope) + nope;
            let (cos, sin) = (&cos[angles(token)], &sin[angles(token)]);
            rotate(&query[at..at + rope], cos, sin, Pairs::Interleaved, &mut row[rank..]);
            row.iter_mut().for_each(|element| *element *= scale);
        }
    }

    let heads_of_token = Heads { groups: 1, per_group: heads, key_width: width, value_width: rank };
    batch.for_each_token(|token, blocks, visible| {
        let rows = CacheRows { cache, blocks, block_size, row_width: width };
        let mut queries =
            Queries { values: &mut absorbed[token * width..], stride: tokens * width };
        attend(heads_of_token, &mut queries, rows, rows, visible, scores);
    });

    for head in 0..heads {
        let packed = &kv_b[head * head_bytes + key_bytes..(head + 1) * head_bytes];
        let x = Strided { values: &absorbed[head * tokens * width..], stride: width };
        let mut into = StridedMut { values: &mut y[head * value..], stride: heads * value };
        multiply_float(&Matrix::new(format, value, rank, packed), x, tokens, &mut into);
    }
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
    super::matrix::pack(format, value, &[], shape.value, shape.rank, value_packed);
}
