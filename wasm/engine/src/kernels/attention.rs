//! Softmax attention of single queries over a paged cache: the core of both attention kernels.
//!
//! The context is cut at fixed positions, into segments that threads share and tiles that one thread works
//! on. Within a tile, between tiles and between segments everything is added up by rising position, so
//! that a query's result depends on what it sees and on nothing else: not on threads, chunk or batch.
//! (FlashAttention-2, arXiv 2307.08691; splitting the context as Flash-Decoding does.)

use super::cache::Cache;
use super::scratch::{bytes_of, Scratch};
use super::step_batch::StepBatch;
use crate::math;
use crate::simd::F32x4;
use crate::team::{Shared, Team};

/// Positions whose rows are widened to f32 at a time: 64 rows of a few hundred elements fit a core's cache.
///
/// A tile lies in pairs of rows whose vectors of 4 take turns, [TILE / 2, width / 4, 2, 4], and queries in
/// fours: what a step of a loop loads lies side by side. An engine checks the bounds of every load, and
/// addresses that differ by a constant are the cheapest.
const TILE: usize = 64;
/// Positions of a segment, whose partial result is one item of work.
const SEGMENT: usize = 8 * TILE;
/// Heads that use a widened tile together, at most.
const HEADS_AT_ONCE: usize = 32;
/// The least, what the kernels want; fewer heads at a time make more items.
const LEAST_HEADS_AT_ONCE: usize = 4;
/// Partial results that are kept between two barriers, f32; one token's in any case.
const PARTIAL_ELEMENTS: usize = 1 << 20;
/// Elements before a partial result's weighted sum: the largest score and the sum of the weights.
const PARTIAL_HEAD: usize = 4;

/// Widths of one attention.
#[derive(Clone, Copy)]
pub struct Heads {
    /// Key heads in a cache row.
    pub groups: usize,
    /// Query heads of each key head.
    pub per_group: usize,
    /// Elements of a query and of a key.
    pub key_width: usize,
    /// Elements of a value.
    pub value_width: usize,
}

impl Heads {
    /// Query heads.
    pub fn count(&self) -> usize {
        self.groups * self.per_group
    }

    /// Elements from one query to the next: whole vectors.
    pub fn query_stride(&self) -> usize {
        self.key_width.max(self.value_width).next_multiple_of(4)
    }

    fn partial_elements(&self) -> usize {
        PARTIAL_HEAD + self.value_width.next_multiple_of(4)
    }

    /// Tokens whose partial results fit the memory for them.
    fn tokens_at_once(&self, segments: usize) -> usize {
        (PARTIAL_ELEMENTS / (self.count() * segments * self.partial_elements())).max(1)
    }
}

/// Where values come from.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// They are the first elements of the keys (Multi-head Latent Attention).
    OfKeys,
    /// They have a cache of their own.
    Cache(Cache<'a>),
}

/// Bytes of temporary memory for at most `tokens` tokens, contexts of `context` and `threads` threads.
pub fn scratch_bytes(heads: &Heads, tokens: usize, context: usize, threads: usize) -> usize {
    let token = heads.count() * context.div_ceil(SEGMENT) * heads.partial_elements();
    bytes_of::<f32>((tokens * token).min(token.max(PARTIAL_ELEMENTS)))
        + threads
            * (2 * bytes_of::<f32>(TILE * heads.query_stride())
                + bytes_of::<f32>(HEADS_AT_ONCE * heads.query_stride())
                + bytes_of::<f32>(HEADS_AT_ONCE * TILE))
}

/// Attends for every token of the batch. `queries` [T, heads, query_stride]: scaled queries, zeros behind
/// `key_width`; the result takes the place of a query's first `value_width` elements.
///
/// # Panics
/// If a length does not fit.
pub fn attend(
    team: &Team,
    heads: Heads,
    batch: StepBatch,
    block_size: usize,
    queries: Shared<f32>,
    keys: Cache,
    values: Values,
    scratch: &mut Scratch,
) {
    let tokens = batch.slots.len();
    let segments = batch.longest_context().div_ceil(SEGMENT);
    let together = heads.tokens_at_once(segments).min(tokens);
    let (count, stride, partial_elements) =
        (heads.count(), heads.query_stride(), heads.partial_elements());
    assert_eq!(queries.len(), tokens * count * stride);
    let partials = scratch.take::<f32>(together * count * segments * partial_elements);
    let mut own = Own {
        queries: scratch.take_own(HEADS_AT_ONCE * stride, team),
        keys: scratch.take_own(TILE * stride, team),
        values: scratch.take_own(TILE * stride, team),
        scores: scratch.take_own(HEADS_AT_ONCE * TILE, team),
    };
    let mut heads_at_once = HEADS_AT_ONCE;
    let items =
        |at_once: usize| together * heads.groups * segments * heads.per_group.div_ceil(at_once);
    while heads_at_once > LEAST_HEADS_AT_ONCE && items(heads_at_once) < 2 * team.threads() {
        heads_at_once /= 2;
    }
    let blocks_of_heads = heads.per_group.div_ceil(heads_at_once);
    let items_of_token = heads.groups * blocks_of_heads * segments;
    let partial = |token: usize, head: usize, segment: usize| {
        let begin = ((token * count + head) * segments + segment) * partial_elements;
        begin..begin + partial_elements
    };

    for first in (0..tokens).step_by(together) {
        let wave = together.min(tokens - first);
        team.share(wave * items_of_token, 1, |items| {
            for item in items {
                let (i, rest) = (item / items_of_token, item % items_of_token);
                let (unit, segment) = (rest / segments, rest % segments);
                let (group, block) = (unit / blocks_of_heads, unit % blocks_of_heads);
                let (blocks, visible) = batch.of_token(first + i);
                let positions = segment * SEGMENT..visible.min((segment + 1) * SEGMENT);
                if positions.is_empty() {
                    continue;
                }
                let in_group =
                    block * heads_at_once..heads.per_group.min((block + 1) * heads_at_once);
                let slot = |position: usize| {
                    blocks[position / block_size] as usize * block_size + position % block_size
                };
                let place = (first + i) * count + group * heads.per_group;
                // SAFETY: results replace queries after the barrier; each partial result is one item's.
                unsafe {
                    let queries = queries
                        .read((place + in_group.start) * stride..(place + in_group.end) * stride);
                    let head = group * heads.per_group + in_group.start;
                    let mut partials =
                        Partials { all: partials, at: &|h| partial(i, head + h, segment) };
                    own.attend(
                        &heads,
                        group,
                        queries,
                        keys,
                        values,
                        positions,
                        slot,
                        &mut partials,
                    );
                }
            }
        });
        team.share(wave * count, 1, |items| {
            for item in items {
                let (i, head) = (item / count, item % count);
                let (_, visible) = batch.of_token(first + i);
                let used = visible.div_ceil(SEGMENT);
                let place = ((first + i) * count + head) * stride;
                // SAFETY: a result is one item's; partial results were written before the barrier.
                unsafe {
                    let parts =
                        partials.read(partial(i, head, 0).start..partial(i, head, used - 1).end);
                    let result = queries.write(place..place + stride);
                    combine(parts, partial_elements, &mut result[..heads.value_width]);
                }
            }
        });
    }
}

/// The partial results of an item's heads.
struct Partials<'a, 'b> {
    all: Shared<'a, f32>,
    at: &'b dyn Fn(usize) -> core::ops::Range<usize>,
}

/// What a thread has for itself.
struct Own<'a> {
    /// Fours of heads [key_width / 4, 4, 4], then single heads [key_width / 4, 4].
    queries: &'a mut [f32],
    /// A tile.
    keys: &'a mut [f32],
    /// A tile, where values have a cache of their own.
    values: &'a mut [f32],
    /// [heads, TILE].
    scores: &'a mut [f32],
}

impl Own<'_> {
    /// Attends with some heads of a key head over a segment.
    ///
    /// # Safety
    /// Nobody may write to the caches, and nobody use the partial results, until the next barrier.
    #[allow(clippy::too_many_arguments)]
    unsafe fn attend(
        &mut self,
        heads: &Heads,
        group: usize,
        queries: &[f32],
        keys: Cache,
        values: Values,
        positions: core::ops::Range<usize>,
        slot: impl Fn(usize) -> usize,
        partials: &mut Partials,
    ) {
        let stride = heads.query_stride();
        let count = queries.len() / stride;
        let key_width = heads.key_width.next_multiple_of(4);
        let value_width = heads.value_width.next_multiple_of(4);
        for h in 0..count {
            let partial = partials.all.write((partials.at)(h));
            partial.fill(0.0);
            partial[0] = f32::NEG_INFINITY;
        }
        let fours = count / 4 * 4;
        for (h, query) in queries.chunks_exact(stride).enumerate() {
            let (first, step) = match h < fours {
                true => (h / 4 * 4 * key_width + h % 4 * 4, 16),
                false => (h * key_width, 4),
            };
            for (i, four) in query[..key_width].chunks_exact(4).enumerate() {
                self.queries[first + i * step..first + i * step + 4].copy_from_slice(four);
            }
        }
        for begin in positions.clone().step_by(TILE) {
            let rows = TILE.min(positions.end - begin);
            for row in 0..rows {
                let slot = slot(begin + row);
                keys.read(slot, group, in_tile(self.keys, row, key_width));
                if let Values::Cache(values) = values {
                    values.read(slot, group, in_tile(self.values, row, value_width));
                }
            }
            self.score(count, key_width, rows);
            let (tile, width) = match values {
                Values::OfKeys => (&*self.keys, key_width),
                Values::Cache(_) => (&*self.values, value_width),
            };
            let partial = |h: usize| partials.all.write((partials.at)(h));
            for h in (0..fours).step_by(4) {
                let scores = &mut self.scores[h * TILE..(h + 4) * TILE];
                let partials = core::array::from_fn(|i| partial(h + i));
                add_tile::<4>(scores, tile, width, value_width, rows, partials);
            }
            for h in fours..count {
                let scores = &mut self.scores[h * TILE..(h + 1) * TILE];
                add_tile::<1>(scores, tile, width, value_width, rows, [partial(h)]);
            }
        }
    }

    /// scores[h, row] = query h times key row; an odd last row has one behind it that nobody looks at.
    fn score(&mut self, count: usize, width: usize, rows: usize) {
        let rows = rows.next_multiple_of(2);
        let fours = count / 4 * 4;
        for h in (0..fours).step_by(4) {
            let query = &self.queries[h * width..(h + 4) * width];
            for row in (0..rows).step_by(2) {
                let keys = &self.keys[row * width..(row + 2) * width];
                dot_tile::<4, 1>(query, keys, width, &mut self.scores[h * TILE + row..]);
            }
        }
        for h in fours..count {
            let query = &self.queries[h * width..(h + 1) * width];
            let mut row = 0;
            while rows - row >= 8 {
                let keys = &self.keys[row * width..(row + 8) * width];
                dot_tile::<1, 4>(query, keys, width, &mut self.scores[h * TILE + row..]);
                row += 8;
            }
            while row < rows {
                let keys = &self.keys[row * width..(row + 2) * width];
                dot_tile::<1, 1>(query, keys, width, &mut self.scores[h * TILE + row..]);
                row += 2;
            }
        }
    }
}

/// Writes the vectors of a row into a tile.
fn in_tile(tile: &mut [f32], row: usize, width: usize) -> impl FnMut(usize, F32x4) + '_ {
    let pair = &mut tile[row / 2 * 2 * width..(row / 2 + 1) * 2 * width];
    let pair = &mut pair[row % 2 * 4..];
    move |i, vector| {
        let into = &mut pair[i * 8..i * 8 + 4];
        // SAFETY: four f32.
        unsafe { vector.store(into.as_mut_ptr()) };
    }
}

/// Products of HEADS queries with PAIRS pairs of keys, in vectors of 4 whose lanes are added up last: the
/// same sum whatever the numbers.
#[inline(always)]
fn dot_tile<const HEADS: usize, const PAIRS: usize>(
    queries: &[f32],
    keys: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    assert!(queries.len() >= HEADS * width && keys.len() >= 2 * PAIRS * width);
    assert!(scores.len() >= (HEADS - 1) * TILE + 2 * PAIRS);
    let mut sums = [[[F32x4::splat(0.0); HEADS]; 2]; PAIRS];
    // SAFETY: i < width / 4, see the asserts.
    unsafe {
        for i in 0..width / 4 {
            let query: [F32x4; HEADS] =
                core::array::from_fn(|h| F32x4::load(queries.as_ptr().add((i * HEADS + h) * 4)));
            for (p, sums) in sums.iter_mut().enumerate() {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let key = F32x4::load(keys.as_ptr().add(p * 2 * width + i * 8 + r * 4));
                    for (sum, query) in sums.iter_mut().zip(query) {
                        *sum = sum.add(query.mul(key));
                    }
                }
            }
        }
    }
    for (p, sums) in sums.iter().enumerate() {
        for (r, sums) in sums.iter().enumerate() {
            for (h, sum) in sums.iter().enumerate() {
                scores[h * TILE + p * 2 + r] = sum.sum();
            }
        }
    }
}

/// Turns the scores of a tile into weights and adds the weighted rows to the partial results.
///
/// # Panics
/// If a length does not fit.
#[inline(always)]
fn add_tile<const HEADS: usize>(
    scores: &mut [f32],
    tile: &[f32],
    tile_width: usize,
    width: usize,
    count: usize,
    mut partials: [&mut [f32]; HEADS],
) {
    let mut factors = [F32x4::splat(0.0); HEADS];
    for (h, partial) in partials.iter_mut().enumerate() {
        assert!(partial.len() >= PARTIAL_HEAD + width);
        let weights = &mut scores[h * TILE..h * TILE + count];
        let largest = largest_of(weights).max(F32x4::splat(partial[0]));
        let factor = math::exp(F32x4::splat(partial[0]).sub(largest));
        let sum = exponentials(weights, largest);
        partial[0] = largest.to_array()[0];
        partial[1] = partial[1] * factor.to_array()[0] + sum;
        factors[h] = factor;
    }
    assert!(tile.len() >= TILE * tile_width && width <= tile_width && scores.len() >= HEADS * TILE);
    let sums = partials.map(|partial| partial[PARTIAL_HEAD..].as_mut_ptr());
    let mut vector = 0;
    // SAFETY: vector + VECTORS <= width / 4, see the asserts.
    unsafe {
        while width / 4 - vector >= 2 {
            add_rows::<HEADS, 2>(scores, tile, tile_width, count, &factors, &sums, vector);
            vector += 2;
        }
        if vector < width / 4 {
            add_rows::<HEADS, 1>(scores, tile, tile_width, count, &factors, &sums, vector);
        }
    }
}

/// sums = sums * factor + the weighted rows, for a few vectors of HEADS partial results.
///
/// # Safety
/// The tile and the sums must have VECTORS vectors from `vector` on, and there must be TILE weights a head.
#[inline(always)]
unsafe fn add_rows<const HEADS: usize, const VECTORS: usize>(
    weights: &[f32],
    tile: &[f32],
    width: usize,
    count: usize,
    factors: &[F32x4; HEADS],
    partials: &[*mut f32; HEADS],
    vector: usize,
) {
    let mut sums = [[F32x4::splat(0.0); VECTORS]; HEADS];
    for (h, sums) in sums.iter_mut().enumerate() {
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = F32x4::load(partials[h].add((vector + v) * 4)).mul(factors[h]);
        }
    }
    let add = |row: usize, weights: [F32x4; HEADS], sums: &mut [[F32x4; VECTORS]; HEADS]| {
        let pair = tile.as_ptr().add(row / 2 * 2 * width + vector * 8 + row % 2 * 4);
        for v in 0..VECTORS {
            let value = F32x4::load(pair.add(v * 8));
            for (sums, weight) in sums.iter_mut().zip(weights) {
                sums[v] = sums[v].add(value.mul(weight)).kept();
            }
        }
    };
    let weight = |h: usize, row: usize| weights.as_ptr().add(h * TILE + row);
    let mut row = 0;
    while count - row >= 4 {
        let four: [F32x4; HEADS] = core::array::from_fn(|h| F32x4::load(weight(h, row)));
        add(row, four.map(|four| four.splat_lane(0)), &mut sums);
        add(row + 1, four.map(|four| four.splat_lane(1)), &mut sums);
        add(row + 2, four.map(|four| four.splat_lane(2)), &mut sums);
        add(row + 3, four.map(|four| four.splat_lane(3)), &mut sums);
        row += 4;
    }
    while row < count {
        add(row, core::array::from_fn(|h| F32x4::load_splat(weight(h, row))), &mut sums);
        row += 1;
    }
    for (h, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            sum.store(partials[h].add((vector + v) * 4));
        }
    }
}

/// The result of a query from its partial results, [largest score, sum of weights, .., .., weighted sum],
/// in the order of their segments.
fn combine(parts: &[f32], elements: usize, result: &mut [f32]) {
    let largest = parts
        .chunks_exact(elements)
        .fold(F32x4::splat(f32::NEG_INFINITY), |most, part| most.max(F32x4::splat(part[0])));
    let mut total = 0.0;
    result.fill(0.0);
    for part in parts.chunks_exact(elements) {
        let factor = math::exp(F32x4::splat(part[0]).sub(largest)).to_array()[0];
        total += part[1] * factor;
        for (sum, value) in result.iter_mut().zip(&part[PARTIAL_HEAD..]) {
            *sum += value * factor;
        }
    }
    for sum in result {
        *sum /= total;
    }
}

/// The largest element, in every lane; NaN if there is one.
fn largest_of(x: &[f32]) -> F32x4 {
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
    a.max(b).max(c.max(d))
}

/// x = e^(x - largest), in place. Returns the sum.
fn exponentials(x: &mut [f32], largest: F32x4) -> f32 {
    let mut sum = F32x4::splat(0.0);
    let (whole, rest) = x.split_at_mut(x.len() / 4 * 4);
    for four in whole.chunks_exact_mut(4) {
        // SAFETY: `four` has four elements.
        unsafe {
            let e = math::exp(F32x4::load(four.as_ptr()).sub(largest));
            e.store(four.as_mut_ptr());
            sum = sum.add(e);
        }
    }
    rest.iter_mut().fold(sum.sum(), |sum, value| {
        *value = math::exp(F32x4::splat(*value).sub(largest)).to_array()[0];
        sum + *value
    })
}

/// Softmax in place.
pub fn softmax(x: &mut [f32]) {
    let total = exponentials(x, largest_of(x));
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
