//! Softmax attention of single queries over a paged cache: the core of both attention kernels.
//!
//! The context is cut at fixed positions, into segments that threads share and tiles that one thread works
//! on. Within a tile, between tiles and between segments everything is added up by rising position, so
//! that a query's result depends on what it sees and on nothing else: not on threads, chunk or batch.
//! (FlashAttention-2, arXiv 2307.08691; splitting the context as Flash-Decoding does.)

use core::array::from_fn;
use core::ops::Range;

use super::cache::Cache;
use super::scratch::{bytes_of, Scratch};
use super::softmax::{exponentials, largest_of};
use super::step_batch::StepBatch;
use crate::math;
use crate::simd::{opaque, F32x4};
use crate::team::{Shared, Team};

/// Positions whose rows are widened to f32 at a time: 64 rows of a few hundred elements fit a core's cache.
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
        + threads * bytes_of::<f32>(Own::elements(heads.query_stride()))
}

/// Attends for some tokens of the batch. `queries` [T, heads, query_stride]: scaled queries, zeros behind
/// `key_width`; the result takes the place of a query's first `value_width` elements.
///
/// # Panics
/// If a length does not fit.
pub fn attend(
    team: &Team,
    heads: Heads,
    batch: StepBatch,
    tokens: Range<usize>,
    block_size: usize,
    queries: Shared<f32>,
    keys: Cache,
    values: Values,
    scratch: &mut Scratch,
) {
    let segments = batch.longest_context().div_ceil(SEGMENT);
    let together = heads.tokens_at_once(segments).min(tokens.len());
    let (count, stride, partial_elements) =
        (heads.count(), heads.query_stride(), heads.partial_elements());
    assert_eq!(queries.len(), batch.slots.len() * count * stride);
    let partials = scratch.take::<f32>(together * count * segments * partial_elements);
    let mut own = Own::new(scratch.take_own(Own::elements(stride), team), stride);
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

    for first in tokens.clone().step_by(together) {
        let wave = together.min(tokens.end - first);
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
                        block_size,
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
    at: &'b dyn Fn(usize) -> Range<usize>,
}

/// What a thread has for itself, in one piece: a processor that sees rows read in turn fetches some behind
/// the last as well, which must not be where another thread writes.
struct Own<'a> {
    /// [TILE, query_stride], where keys are not read where they lie.
    keys: &'a mut [f32],
    /// The same for values that have a cache of their own.
    values: &'a mut [f32],
    /// [heads, TILE].
    scores: &'a mut [f32],
    /// One element that nobody reads: without it an engine would drop the loads ahead.
    touched: &'a mut f32,
}

/// The rows of a segment: where they lie in the cache, or widened to f32, one tile in the place of
/// another.
struct Rows {
    /// The first of every [`ROWS_AT_ONCE`] rows, as many of which may be read; behind the last ones, any.
    first: [*const f32; SEGMENT / ROWS_AT_ONCE],
    /// Elements from one row to the next.
    stride: usize,
    /// Whether they lie in the cache.
    in_place: bool,
}

/// Rows that a step of a loop takes.
const ROWS_AT_ONCE: usize = 4;

impl Rows {
    /// # Safety
    /// As for [`Own::attend`].
    unsafe fn new(
        cache: Cache,
        group: usize,
        positions: Range<usize>,
        block_size: usize,
        slot: impl Fn(usize) -> usize,
        widened: &[f32],
        stride: usize,
    ) -> Self {
        let in_place = cache.lies_in_vectors() && block_size % ROWS_AT_ONCE == 0;
        let at = |i: usize| match in_place {
            true => cache
                .rows(slot(positions.start + i * ROWS_AT_ONCE), group, ROWS_AT_ONCE)
                .as_ptr() as *const f32,
            false => widened.as_ptr().add(i % (TILE / ROWS_AT_ONCE) * ROWS_AT_ONCE * stride),
        };
        let mut first = [at(0); SEGMENT / ROWS_AT_ONCE];
        for i in 1..positions.len().div_ceil(ROWS_AT_ONCE) {
            first[i] = at(i);
        }
        let stride = if in_place { cache.heads * cache.width } else { stride };
        Self { first, stride, in_place }
    }

    /// The rows of tile `i`.
    fn tile(&self, i: usize) -> &[*const f32] {
        &self.first[i * (TILE / ROWS_AT_ONCE)..]
    }
}

impl<'a> Own<'a> {
    /// How many elements it needs.
    fn elements(stride: usize) -> usize {
        2 * TILE * stride + HEADS_AT_ONCE * TILE + 1
    }

    fn new(elements: &'a mut [f32], stride: usize) -> Self {
        let (keys, rest) = elements.split_at_mut(TILE * stride);
        let (scores, rest) = rest.split_at_mut(HEADS_AT_ONCE * TILE);
        let (values, rest) = rest.split_at_mut(TILE * stride);
        Self { keys, values, scores, touched: &mut rest[0] }
    }

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
        positions: Range<usize>,
        block_size: usize,
        slot: impl Fn(usize) -> usize,
        partials: &mut Partials,
    ) {
        let stride = heads.query_stride();
        let count = queries.len() / stride;
        let mut sums = [core::ptr::null_mut(); HEADS_AT_ONCE];
        for (h, sums) in sums[..count].iter_mut().enumerate() {
            let partial = partials.all.write((partials.at)(h));
            partial.fill(0.0);
            partial[0] = f32::NEG_INFINITY;
            *sums = partial.as_mut_ptr();
        }
        let sums = &sums[..count];
        let rows = |cache: Cache, widened: &[f32]| {
            Rows::new(cache, group, positions.clone(), block_size, &slot, widened, stride)
        };
        let key_rows = rows(keys, self.keys);
        let value_rows = match values {
            Values::OfKeys => None,
            Values::Cache(values) => Some((values, rows(values, self.values))),
        };
        for (i, begin) in positions.clone().step_by(TILE).enumerate() {
            let part = begin..positions.end.min(begin + TILE);
            let widen = |cache: Cache, rows: Range<usize>, tile: &mut [f32]| {
                for (row, into) in rows.clone().zip(tile[rows.start * stride..].chunks_mut(stride))
                {
                    let bytes = cache.rows(slot(begin + row), group, 1);
                    cache.format.widen(bytes, cache.width, into);
                }
            };
            let key_width = heads.key_width.next_multiple_of(4);
            let (tile, widened) = (key_rows.tile(i), &mut *self.keys);
            let prepare = |first: usize| {
                if !key_rows.in_place {
                    widen(keys, first..part.len().min(first + ROWS_AT_ONCE), widened);
                }
            };
            let own = (&mut *self.scores, &mut *self.touched);
            score(own, queries, stride, key_width, tile, key_rows.stride, part.len(), prepare);
            let value_rows = match &value_rows {
                None => &key_rows,
                Some((values, rows)) => {
                    if !rows.in_place {
                        widen(*values, 0..part.len(), self.values);
                    }
                    rows
                }
            };
            let width = heads.value_width.next_multiple_of(4);
            add_tile(self.scores, value_rows.tile(i), value_rows.stride, part.len(), width, sums);
        }
    }
}

/// scores[h, row] = query h times key row; behind the last row are some that nobody looks at. `prepare` is
/// called with the first of the next rows before they are read.
///
/// # Safety
/// The tile must have `count` rows of `width` elements.
#[allow(clippy::too_many_arguments)]
unsafe fn score(
    (scores, touched): (&mut [f32], &mut f32),
    queries: &[f32],
    stride: usize,
    width: usize,
    tile: &[*const f32],
    tile_stride: usize,
    count: usize,
    mut prepare: impl FnMut(usize),
) {
    let heads = queries.len() / stride;
    let fours = heads / 4 * 4;
    let groups = count.div_ceil(ROWS_AT_ONCE);
    // Two groups of rows each time: the queries, more than a first-level cache holds, come half as often.
    for first in (0..groups).step_by(2) {
        let pair = first..groups.min(first + 2);
        pair.clone().for_each(|i| prepare(i * ROWS_AT_ONCE));
        for h in (0..fours).step_by(4) {
            for i in pair.clone() {
                let [a, b, c, d] = from_fn(|r| tile[i].add(r * tile_stride));
                let ahead =
                    tile[(i + 2).min(tile.len() - 1)].add(h / 4 % ROWS_AT_ONCE * tile_stride);
                let queries = &queries[h * stride..];
                let scores = &mut scores[h * TILE + i * ROWS_AT_ONCE..];
                let read = dot_tile::<4, 2>(queries, stride, [a, b], width, scores, Some(ahead));
                *touched = f32::from_bits(read);
                dot_tile::<4, 2>(queries, stride, [c, d], width, &mut scores[2..], None);
            }
        }
        for h in fours..heads {
            for i in pair.clone() {
                let rows = from_fn(|r| tile[i].add(r * tile_stride));
                let scores = &mut scores[h * TILE + i * ROWS_AT_ONCE..];
                dot_tile::<1, 4>(&queries[h * stride..], stride, rows, width, scores, None);
            }
        }
    }
}

/// Vectors of a row that a step of a loop takes: an engine computes the bound of a load once for every
/// offset, and here all rows use the same ones.
const STEP: usize = 4;

/// Products of HEADS queries with ROWS keys, in vectors of 4 whose lanes are added up last: the same sum
/// whatever the numbers. Meanwhile the row `ahead` is brought into the processor's caches, which by
/// themselves do not look far enough ahead; returns something made of what was read there.
///
/// # Safety
/// The keys and the row ahead must have `width` elements.
#[inline(always)]
unsafe fn dot_tile<const HEADS: usize, const ROWS: usize>(
    queries: &[f32],
    stride: usize,
    mut keys: [*const f32; ROWS],
    width: usize,
    scores: &mut [f32],
    mut ahead: Option<*const f32>,
) -> u32 {
    let mut touched = 0;
    assert!(queries.len() >= (HEADS - 1) * stride + width);
    assert!(scores.len() >= (HEADS - 1) * TILE + ROWS);
    let mut sums = [[F32x4::splat(0.0); HEADS]; ROWS];
    let mut queries: [*const f32; HEADS] = from_fn(|h| queries.as_ptr().add(h * stride));
    let mut left = width / 4;
    while left >= STEP {
        queries.iter_mut().for_each(|query| *query = opaque(*query));
        keys.iter_mut().for_each(|key| *key = opaque(*key));
        if let Some(ahead) = &mut ahead {
            touched |= (opaque(*ahead) as *const u32).read_unaligned();
            *ahead = ahead.add(STEP * 4);
        }
        for i in 0..STEP {
            add_products(&mut sums, &queries, &keys, i * 4);
        }
        queries.iter_mut().for_each(|query| *query = query.add(STEP * 4));
        keys.iter_mut().for_each(|key| *key = key.add(STEP * 4));
        left -= STEP;
    }
    for i in 0..left {
        add_products(&mut sums, &queries, &keys, i * 4);
    }
    for (r, sums) in sums.iter().enumerate() {
        for (h, sum) in sums.iter().enumerate() {
            scores[h * TILE + r] = sum.sum();
        }
    }
    touched
}

#[inline(always)]
unsafe fn add_products<const HEADS: usize, const ROWS: usize>(
    sums: &mut [[F32x4; HEADS]; ROWS],
    queries: &[*const f32; HEADS],
    keys: &[*const f32; ROWS],
    at: usize,
) {
    let keys = keys.map(|key| F32x4::load(key.add(at)));
    for (h, query) in queries.iter().enumerate() {
        let query = F32x4::load(query.add(at));
        for (sums, key) in sums.iter_mut().zip(keys) {
            sums[h] = sums[h].add(query.mul(key)).kept();
        }
    }
}

/// Turns the scores of a tile into weights and adds the weighted rows to the partial results.
///
/// # Safety
/// The tile must have `count` rows of `width` elements, the scores TILE for each of the partial results,
/// and those PARTIAL_HEAD + width elements.
unsafe fn add_tile(
    scores: &mut [f32],
    tile: &[*const f32],
    stride: usize,
    count: usize,
    width: usize,
    partials: &[*mut f32],
) {
    let mut factors = [0.0; HEADS_AT_ONCE];
    for (h, partial) in partials.iter().enumerate() {
        let partial = core::slice::from_raw_parts_mut(*partial, PARTIAL_HEAD);
        let weights = &mut scores[h * TILE..h * TILE + count];
        let largest = largest_of(weights).max(F32x4::splat(partial[0]));
        let factor = math::exp_of_negative(F32x4::splat(partial[0]).sub(largest));
        let sum = exponentials(weights, largest);
        partial[0] = largest.to_array()[0];
        factors[h] = factor.to_array()[0];
        partial[1] = partial[1] * factors[h] + sum;
    }
    let rows = (tile.as_ptr(), stride, count);
    let (pairs, rest) = partials.split_at(partials.len() / 2 * 2);
    let scores = scores.as_ptr();
    for at in (0..width / 16 * 16).step_by(16) {
        let from = PARTIAL_HEAD + at;
        for (i, pair) in pairs.chunks_exact(2).enumerate() {
            let pair = [pair[0].add(from), pair[1].add(from)];
            let factors = [factors[i * 2], factors[i * 2 + 1]];
            add_rows::<2, 4>(scores.add(i * 2 * TILE), rows, at, factors, pair);
        }
        for (i, one) in rest.iter().enumerate() {
            let h = pairs.len() + i;
            add_rows::<1, 4>(scores.add(h * TILE), rows, at, [factors[h]], [one.add(from)]);
        }
    }
    for at in (width / 16 * 16..width).step_by(4) {
        for (h, one) in partials.iter().enumerate() {
            let one = [one.add(PARTIAL_HEAD + at)];
            add_rows::<1, 1>(scores.add(h * TILE), rows, at, [factors[h]], one);
        }
    }
}

/// sums = sums * factor + the weighted rows, for a few vectors of HEADS partial results.
///
/// # Safety
/// The rows and the sums must have VECTORS vectors, and there must be TILE weights a head.
#[inline(never)]
unsafe fn add_rows<const HEADS: usize, const VECTORS: usize>(
    mut weights: *const f32,
    (mut tile, stride, count): (*const *const f32, usize, usize),
    at: usize,
    factors: [f32; HEADS],
    partials: [*mut f32; HEADS],
) {
    let mut sums = [[F32x4::splat(0.0); VECTORS]; HEADS];
    for (h, sums) in sums.iter_mut().enumerate() {
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = F32x4::load(partials[h].add(v * 4)).mul(F32x4::splat(factors[h]));
        }
    }
    let add = |sums: &mut [[F32x4; VECTORS]; HEADS], row: *const f32, weights: [F32x4; HEADS]| {
        let row = opaque(row);
        for v in 0..VECTORS {
            let value = F32x4::load(row.add(v * 4));
            for (sums, weight) in sums.iter_mut().zip(weights) {
                sums[v] = sums[v].add(value.mul(weight)).kept();
            }
        }
        row.add(stride)
    };
    let mut left = count;
    while left >= 4 {
        weights = opaque(weights);
        let four: [F32x4; HEADS] = from_fn(|h| F32x4::load(weights.add(h * TILE)));
        let row = (*tile).add(at);
        let row = add(&mut sums, row, four.map(|four| four.splat_lane(0)));
        let row = add(&mut sums, row, four.map(|four| four.splat_lane(1)));
        let row = add(&mut sums, row, four.map(|four| four.splat_lane(2)));
        add(&mut sums, row, four.map(|four| four.splat_lane(3)));
        weights = weights.add(4);
        tile = tile.add(1);
        left -= 4;
    }
    if left > 0 {
        let mut row = (*tile).add(at);
        for i in 0..left {
            row = add(&mut sums, row, from_fn(|h| F32x4::load_splat(weights.add(h * TILE + i))));
        }
    }
    for (partial, sums) in partials.iter().zip(&sums) {
        for (v, sum) in sums.iter().enumerate() {
            sum.store(partial.add(v * 4));
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
        let factor = math::exp_of_negative(F32x4::splat(part[0]).sub(largest)).to_array()[0];
        total += part[1] * factor;
        for (sum, value) in result.iter_mut().zip(&part[PARTIAL_HEAD..]) {
            *sum += value * factor;
        }
    }
    for sum in result {
        *sum /= total;
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
