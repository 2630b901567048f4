//! Multi-head Latent Attention in the expanded form: every head's keys and values are made from the
//! latents, a block of positions at a time, used by all queries of a sequence and forgotten
//! (FlashAttention-2, arXiv 2307.08691). With many queries that takes fewer operations than the absorbed
//! form, but a result depends on which form a step took, and in this one on the machine.

use super::cache::Cache;
use super::latent_attention::LatentShape;
use super::matrix::{Format, GROUP};
use super::multiply::{load_group, StridedMut};
use super::scratch::{bytes_of, Scratch};
use super::softmax::{exponentials, largest_of};
use crate::math;
use crate::simd::{opaque, F32x4, I8x16};
use crate::team::{Shared, Team};

use core::array::from_fn;

/// Positions that are expanded at a time: what is made of them fits a core's cache.
const BLOCK: usize = 128;
/// Positions whose elements lie in turn, in two vectors: a panel [elements, PANEL].
const PANEL: usize = GROUP;
/// Queries, outputs or positions that a tile takes with a panel.
const ROWS: usize = 4;

/// Whether the expanded form takes fewer operations for the last `tokens` of `context` positions. Per
/// head, expanding takes rank * (nope + value) products a position of the context, absorbing as many a
/// token; a pair of query and key takes nope + rope + value products here and 2 * rank + rope there.
pub fn takes_fewer_operations(shape: &LatentShape, tokens: usize, context: usize) -> bool {
    let LatentShape { nope, value, rank, .. } = *shape;
    let past = context - tokens;
    let pairs = tokens * (past + tokens.div_ceil(2));
    past * rank * (nope + value) < pairs * (2 * rank).saturating_sub(nope + value)
}

/// Bytes of temporary memory for at most `tokens` tokens and `threads` threads.
pub fn scratch_bytes(shape: &LatentShape, tokens: usize, threads: usize) -> usize {
    let sizes = Sizes::of(shape);
    threads
        * (bytes_of::<f32>(PANEL * sizes.width)
            + bytes_of::<f32>(BLOCK * sizes.width)
            + bytes_of::<f32>(BLOCK * (shape.nope + shape.rope))
            + bytes_of::<f32>(BLOCK * sizes.values)
            + bytes_of::<f32>(sizes.weights)
            + bytes_of::<f32>(ROWS * BLOCK)
            + bytes_of::<f32>(2 * tokens))
}

/// Elements of buffers.
struct Sizes {
    /// A latent with its rotated key, whole vectors.
    width: usize,
    /// A position's values, whole groups.
    values: usize,
    /// Weights of a tile, for keys or for values.
    weights: usize,
}

impl Sizes {
    fn of(shape: &LatentShape) -> Self {
        let rank = shape.rank.next_multiple_of(GROUP);
        Self {
            width: (shape.rank + shape.rope).next_multiple_of(4),
            values: shape.value.next_multiple_of(GROUP),
            weights: rank * ROWS.max(GROUP),
        }
    }
}

/// One sequence's last tokens and its cache.
pub struct Sequence<'a> {
    /// [tokens, H, N+R]: rotated and scaled.
    pub queries: &'a [f32],
    pub tokens: usize,
    /// Positions, those of the tokens included.
    pub context: usize,
    /// The sequence's row of the block tables.
    pub blocks: &'a [i32],
    /// [blocks, P, 1, C+R].
    pub cache: Cache<'a>,
    /// [tokens, H*V].
    pub y: Shared<'a, f32>,
}

/// Attends for the tokens of one sequence. `weights(head)`: W_UK and W_UV as
/// [`super::latent_attention::pack_kv_b`] leaves them.
///
/// # Panics
/// If a length does not fit.
pub fn attend<'a>(
    team: &Team,
    shape: &LatentShape,
    sequence: &Sequence,
    format: Format,
    weights: impl Fn(usize) -> (&'a [u8], &'a [u8]),
    scratch: &mut Scratch,
) {
    let LatentShape { heads, nope, rope, value, .. } = *shape;
    let tokens = sequence.tokens;
    assert_eq!(sequence.queries.len(), tokens * heads * (nope + rope));
    assert!(sequence.y.len() >= tokens * heads * value);
    let sizes = Sizes::of(shape);
    let mut own = Own {
        rows: scratch.take_own(PANEL * sizes.width, team),
        latents: scratch.take_own(BLOCK * sizes.width, team),
        keys: scratch.take_own(BLOCK * (nope + rope), team),
        values: scratch.take_own(BLOCK * sizes.values, team),
        weights: scratch.take_own(sizes.weights, team),
        scores: scratch.take_own(ROWS * BLOCK, team),
        state: scratch.take_own(2 * tokens, team),
        sizes,
    };
    team.share(heads, 1, |items| {
        for head in items {
            // SAFETY: the cache was written before the barrier; a head of y is one item's.
            unsafe { own.attend(shape, sequence, head, format, weights(head)) };
        }
    });
}

/// What a thread has for itself.
struct Own<'a> {
    /// [PANEL, width]: latents as they lie in the cache.
    rows: &'a mut [f32],
    /// Panels [width, PANEL] of latents.
    latents: &'a mut [f32],
    /// Panels [N+R, PANEL] of keys.
    keys: &'a mut [f32],
    /// For every group of values [BLOCK, GROUP].
    values: &'a mut [f32],
    /// The weights of a tile.
    weights: &'a mut [f32],
    /// [ROWS, BLOCK].
    scores: &'a mut [f32],
    /// [tokens, 2]: the largest score so far, and the sum of the weights.
    state: &'a mut [f32],
    sizes: Sizes,
}

impl Own<'_> {
    /// One head.
    ///
    /// # Safety
    /// Nobody may write to the cache, and nobody use this head's part of y, until the next barrier.
    unsafe fn attend(
        &mut self,
        shape: &LatentShape,
        sequence: &Sequence,
        head: usize,
        format: Format,
        (key_weights, value_weights): (&[u8], &[u8]),
    ) {
        let LatentShape { heads, nope, rope, rank, value, .. } = *shape;
        let Sequence { tokens, context, .. } = *sequence;
        assert_eq!(key_weights.len(), format.packed_bytes(rank, nope));
        assert_eq!(value_weights.len(), format.packed_bytes(value, rank));
        let past = context - tokens;
        let mut y = StridedMut { values: sequence.y.from(head * value), stride: heads * value };
        for (token, state) in self.state.chunks_exact_mut(2).enumerate().take(tokens) {
            state.copy_from_slice(&[f32::NEG_INFINITY, 0.0]);
            for row in (0..value).step_by(GROUP) {
                y.store(token, row, value, [F32x4::splat(0.0); 2]);
            }
        }
        for begin in (0..context).step_by(BLOCK) {
            let count = BLOCK.min(context - begin);
            self.load_latents(shape, sequence, begin, count);
            self.expand_keys(shape, format, key_weights, count);
            self.expand_values(shape, format, value_weights, count);
            let mut token = begin.saturating_sub(past);
            let query = |token: usize| {
                let at = (token * heads + head) * (nope + rope);
                sequence.queries[at..at + nope + rope].as_ptr()
            };
            let seen = |token: usize| (past + token + 1).saturating_sub(begin).min(count);
            while token + ROWS <= tokens {
                let queries = from_fn(|r| query(token + r));
                self.add_block::<ROWS>(shape, queries, token, &seen, count, &mut y);
                token += ROWS;
            }
            while token < tokens {
                self.add_block::<1>(shape, [query(token)], token, &seen, count, &mut y);
                token += 1;
            }
        }
        for (token, state) in self.state.chunks_exact(2).enumerate().take(tokens) {
            let total = F32x4::splat(state[1]);
            for row in (0..value).step_by(GROUP) {
                let sums = y.load(token, row, value).map(|sum| sum.div(total));
                y.store(token, row, value, sums);
            }
        }
    }

    /// Brings the latents of a block's positions into panels.
    unsafe fn load_latents(
        &mut self,
        shape: &LatentShape,
        sequence: &Sequence,
        begin: usize,
        count: usize,
    ) {
        let (width, size) = (self.sizes.width, shape.block_size);
        for first in (0..count).step_by(PANEL) {
            let positions = begin + first..begin + count.min(first + PANEL);
            for (position, row) in positions.zip(self.rows.chunks_exact_mut(width)) {
                let slot = sequence.blocks[position / size] as usize * size + position % size;
                let bytes = sequence.cache.rows(slot, 0, 1);
                sequence.cache.format.widen(bytes, sequence.cache.width, row);
            }
            let panel = self.latents[first * width..][..PANEL * width].as_mut_ptr();
            for half in 0..2 {
                let rows: [_; 4] = from_fn(|r| self.rows[(half * 4 + r) * width..].as_ptr());
                for k in (0..width).step_by(4) {
                    let four = rows.map(|row| I8x16::load(row.add(k) as *const u8));
                    for (i, column) in I8x16::transpose_words(four).into_iter().enumerate() {
                        column.store(panel.add((k + i) * PANEL + half * 4) as *mut u8);
                    }
                }
            }
        }
    }

    /// Makes the block's keys.
    unsafe fn expand_keys(
        &mut self,
        shape: &LatentShape,
        format: Format,
        packed: &[u8],
        count: usize,
    ) {
        let LatentShape { nope, rope, rank, .. } = *shape;
        let (width, stride) = (self.sizes.width, rank.next_multiple_of(GROUP));
        let key_width = nope + rope;
        for first in (0..nope).step_by(ROWS) {
            let outputs = ROWS.min(nope - first);
            for (i, row) in self.weights.chunks_exact_mut(stride).enumerate().take(outputs) {
                for (group, eight) in row.chunks_exact_mut(GROUP).enumerate() {
                    let [low, high] = load_group(format, packed, group * nope + first + i);
                    low.store(eight.as_mut_ptr());
                    high.store(eight.as_mut_ptr().add(4));
                }
            }
            // Rows behind the last output are what was there before, and their results not kept.
            let rows: [_; ROWS] = from_fn(|i| self.weights[i * stride..].as_ptr());
            for (latents, keys) in self
                .latents
                .chunks_exact(PANEL * width)
                .zip(self.keys.chunks_exact_mut(PANEL * key_width))
                .take(count.div_ceil(PANEL))
            {
                let sums = products::<ROWS, 1>(rows, latents.as_ptr(), rank);
                let keys = keys[first * PANEL..][..outputs * PANEL].chunks_exact_mut(PANEL);
                for (key, sums) in keys.zip(sums) {
                    sums[0].store(key.as_mut_ptr());
                    sums[1].store(key.as_mut_ptr().add(4));
                }
            }
        }
        for (latents, keys) in self
            .latents
            .chunks_exact(PANEL * width)
            .zip(self.keys.chunks_exact_mut(PANEL * key_width))
        {
            keys[nope * PANEL..].copy_from_slice(&latents[rank * PANEL..][..rope * PANEL]);
        }
    }

    /// Makes the block's values.
    unsafe fn expand_values(
        &mut self,
        shape: &LatentShape,
        format: Format,
        packed: &[u8],
        count: usize,
    ) {
        let LatentShape { rank, .. } = *shape;
        let width = self.sizes.width;
        let groups = self.values.chunks_exact_mut(BLOCK * GROUP);
        for (group, values) in groups.enumerate() {
            let panel = &mut self.weights[..rank * GROUP];
            for (k, eight) in panel.chunks_exact_mut(GROUP).enumerate() {
                let [low, high] = load_group(format, packed, group * rank + k);
                low.store(eight.as_mut_ptr());
                high.store(eight.as_mut_ptr().add(4));
            }
            let fours = values.chunks_exact_mut(ROWS * GROUP).enumerate();
            for (i, four) in fours.take(count.div_ceil(ROWS)) {
                let latents =
                    self.latents[i * ROWS / PANEL * PANEL * width + i * ROWS % PANEL..].as_ptr();
                let rows: [_; ROWS] = from_fn(|r| latents.add(r));
                let sums = products::<ROWS, PANEL>(rows, panel.as_ptr(), rank);
                for (value, sums) in four.chunks_exact_mut(GROUP).zip(sums) {
                    sums[0].store(value.as_mut_ptr());
                    sums[1].store(value.as_mut_ptr().add(4));
                }
            }
        }
    }

    /// Adds a block of `count` positions to the results of some queries, which see `seen(token)` of them.
    #[inline(always)]
    unsafe fn add_block<const QUERIES: usize>(
        &mut self,
        shape: &LatentShape,
        queries: [*const f32; QUERIES],
        token: usize,
        seen: &impl Fn(usize) -> usize,
        count: usize,
        y: &mut StridedMut,
    ) {
        let key_width = shape.nope + shape.rope;
        let panels = self.keys.chunks_exact(PANEL * key_width).take(count.div_ceil(PANEL));
        for (i, panel) in panels.enumerate() {
            let sums = products::<QUERIES, 1>(queries, panel.as_ptr(), key_width);
            for (scores, sums) in self.scores.chunks_exact_mut(BLOCK).zip(sums) {
                let eight = &mut scores[i * PANEL..][..PANEL];
                sums[0].store(eight.as_mut_ptr());
                sums[1].store(eight.as_mut_ptr().add(4));
            }
        }
        let mut factors = [F32x4::splat(0.0); QUERIES];
        for (r, scores) in self.scores.chunks_exact_mut(BLOCK).enumerate().take(QUERIES) {
            let (weights, unseen) = scores[..count].split_at_mut(seen(token + r));
            let state = &mut self.state[(token + r) * 2..][..2];
            let before = F32x4::splat(state[0]);
            let largest = largest_of(weights).max(before);
            factors[r] = math::exp_of_negative(before.sub(largest));
            state[0] = largest.to_array()[0];
            state[1] = state[1] * factors[r].to_array()[0] + exponentials(weights, largest);
            unseen.fill(0.0);
        }
        let weights: [_; QUERIES] = from_fn(|r| self.scores[r * BLOCK..].as_ptr());
        for (group, values) in self.values.chunks_exact(BLOCK * GROUP).enumerate() {
            let sums = products::<QUERIES, 1>(weights, values.as_ptr(), count);
            for (r, sums) in sums.iter().enumerate() {
                let before = y.load(token + r, group * GROUP, shape.value);
                let added = from_fn(|i| before[i].mul(factors[r]).add(sums[i]));
                y.store(token + r, group * GROUP, shape.value, added);
            }
        }
    }
}

/// Products of rows, whose elements lie STEP apart, with a panel, eight sums each.
///
/// # Safety
/// Rows and panel must have `count` elements and groups of eight.
#[inline(never)] // some 200 products a call at least
unsafe fn products<const COUNT: usize, const STEP: usize>(
    mut rows: [*const f32; COUNT],
    mut panel: *const f32,
    count: usize,
) -> [[F32x4; 2]; COUNT] {
    let mut sums = [[F32x4::splat(0.0); 2]; COUNT];
    let mut add = |rows: &[*const f32; COUNT], panel: *const f32, k: usize| {
        let eight = panel.add(k * GROUP);
        let (low, high) = (F32x4::load(eight), F32x4::load(eight.add(4)));
        for (row, sums) in rows.iter().zip(&mut sums) {
            let element = F32x4::load_splat(row.add(k * STEP));
            sums[0] = low.relaxed_mul_add(element, sums[0]).kept();
            sums[1] = high.relaxed_mul_add(element, sums[1]).kept();
        }
    };
    let mut left = count;
    while left >= 4 {
        rows = rows.map(|row| opaque(row));
        panel = opaque(panel);
        add(&rows, panel, 0);
        add(&rows, panel, 1);
        add(&rows, panel, 2);
        add(&rows, panel, 3);
        rows = rows.map(|row| row.add(4 * STEP));
        panel = panel.add(4 * GROUP);
        left -= 4;
    }
    for k in 0..left {
        add(&rows, panel, k);
    }
    sums
}
