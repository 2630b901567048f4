//! `SparseExperts`: DeepSeekMoE's router and routed experts (DeepSeek-V2, arXiv 2405.04434, sections
//! 2.2.1 and 2.2.2). The op's function body in the exported graph says the same.
//!
//! Tokens are sorted by expert, so that each chosen expert's weights are read once a step. A token's
//! experts are added up by rising index, whatever the batch and whatever order they were computed in.

use core::slice::from_raw_parts;
use core::sync::atomic::{AtomicU64, Ordering};

use super::expert_hits::{ExpertHits, NOT_HELD};
use super::expert_rows::ExpertRows;
#[cfg(not(target_family = "wasm"))]
use super::matrix::element;
use super::matrix::{Format, Matrix};
use super::multiply::{share_float, Strided, StridedMut};
use super::scratch::{bytes_of, Scratch};
use super::softmax::softmax;
use super::supply::Supply;
use crate::math;
use crate::simd::F32x4;
use crate::team::{Shared, Team};

/// Columns of a token's result that are one item of work.
const COLUMNS_AT_ONCE: usize = 512;

/// Sizes and attributes of one layer.
#[derive(Clone, Copy)]
pub struct ExpertsShape {
    /// D.
    pub hidden: usize,
    /// F.
    pub width: usize,
    /// E, all experts that the router knows.
    pub experts: usize,
    /// The first expert held here.
    pub first: usize,
    /// How many are held here.
    pub held: usize,
    /// Experts of a token.
    pub k: usize,
    /// Groups of equally many experts.
    pub groups: usize,
    /// How many groups a token may use.
    pub top_groups: usize,
    /// Divide the chosen scores by their sum.
    pub normalize: bool,
    /// Factor of the weights.
    pub scaling: f32,
    /// How the experts' weights are stored.
    pub format: Format,
}

impl ExpertsShape {
    /// A shape of which only the experts' own sizes matter.
    pub fn of_experts(format: Format, hidden: usize, width: usize) -> Self {
        let (experts, first, held, k, groups, top_groups) = (1, 0, 1, 1, 1, 1);
        let (normalize, scaling) = (false, 1.0);
        Self {
            hidden,
            width,
            experts,
            first,
            held,
            k,
            groups,
            top_groups,
            normalize,
            scaling,
            format,
        }
    }
}

/// Tensors of one layer.
pub struct ExpertsTensors<'a> {
    /// [T, D].
    pub x: &'a [f32],
    /// The router's matrix [E, D], packed f32.
    pub router: &'a [u8],
    /// Where the experts held here are.
    pub places: &'a [ExpertPlace],
    /// Fetches those that are not in memory; `None`: all are.
    pub supply: Option<Supply<'a>>,
    /// [T, D].
    pub y: Shared<'a, f32>,
    /// [T, K]: the chosen experts by falling score.
    pub chosen: Shared<'a, i32>,
    /// [T, K]: their weights.
    pub weights: Shared<'a, f32>,
}

/// Where an expert's packed weights are in memory: a row of a table that the caller wrote.
#[repr(C)]
pub struct ExpertPlace {
    /// Address of the matrix [2F, D], gate and up rows in turn; 0: the expert is not in memory.
    pub gate_up: AtomicU64,
    /// Address of the matrix [D, F].
    pub down: AtomicU64,
    /// The supply's clock when it was last used.
    pub used: AtomicU64,
}

impl ExpertPlace {
    /// # Safety
    /// The addresses must be those of packed matrices that live for 'a.
    pub unsafe fn matrix<'a>(
        address: &AtomicU64,
        format: Format,
        (rows, columns): (usize, usize),
    ) -> Matrix<'a> {
        let start = address.load(Ordering::Relaxed) as usize as *const u8;
        let bytes = format.packed_bytes(rows, columns);
        Matrix::new(format, rows, columns, from_raw_parts(start, bytes))
    }

    /// Experts that lie one after the other in two stacks.
    #[cfg(not(target_family = "wasm"))]
    pub fn of_stacks(gate_up: &[u8], down: &[u8], held: usize) -> Vec<Self> {
        let address = |stack: &[u8], i: usize| {
            AtomicU64::new(stack[stack.len() / held * i..].as_ptr() as u64)
        };
        let place = |i| Self {
            gate_up: address(gate_up, i),
            down: address(down, i),
            used: AtomicU64::new(0),
        };
        (0..held).map(place).collect()
    }
}

/// Bytes of temporary memory for `tokens` tokens and `threads` threads.
pub fn scratch_bytes(shape: &ExpertsShape, tokens: usize, threads: usize) -> usize {
    let ExpertsShape { hidden, width, experts, held, k, .. } = *shape;
    let hits = tokens * k;
    bytes_of::<f32>(tokens * experts)
        + threads * ExpertHits::own_bytes(held, hits)
        + ExpertRows::bytes(shape.format, tokens, hidden)
        + ExpertRows::bytes(shape.format, hits, hidden)
        + bytes_of::<f32>(hits * 2 * width)
        + threads * bytes_of::<f32>(4 * width)
        + ExpertRows::bytes(shape.format, hits, width)
        + bytes_of::<f32>(hits * hidden)
}

/// Runs one layer.
///
/// # Panics
/// If a length does not fit.
pub fn sparse_experts(
    team: &Team,
    shape: &ExpertsShape,
    tensors: ExpertsTensors,
    scratch: Shared<u8>,
) {
    let ExpertsShape { hidden, width, experts, held, k, .. } = *shape;
    let ExpertsTensors { x, router, places, supply, y, chosen, weights } = tensors;
    let tokens = x.len() / hidden;
    assert!(y.len() == x.len() && chosen.len() == tokens * k && weights.len() == tokens * k);
    assert_eq!(places.len(), held);
    let mut scratch = Scratch::new(scratch);
    let scores = scratch.take::<f32>(tokens * experts);
    let mut hits = ExpertHits::take(&mut scratch, team, held, tokens * k);
    let x_rows = ExpertRows::take(shape.format, &mut scratch, tokens, hidden);
    let hit_rows = ExpertRows::take(shape.format, &mut scratch, tokens * k, hidden);
    let both = scratch.take::<f32>(tokens * k * 2 * width);
    let inner = scratch.take_own::<f32>(4 * width, team);
    let inner_rows = ExpertRows::take(shape.format, &mut scratch, tokens * k, width);
    let out = scratch.take::<f32>(tokens * k * hidden);

    let router = Matrix::new(Format::F32, experts, hidden, router);
    let logits = StridedMut { values: scores, stride: experts };
    share_float(team, &router, Strided { values: x, stride: hidden }, tokens, logits);
    team.share(tokens, 1, |items| {
        for token in items {
            let place = token * k..(token + 1) * k;
            // SAFETY: each token's parts are one item's.
            unsafe {
                let scores = scores.write(token * experts..(token + 1) * experts);
                choose(shape, scores, chosen.write(place.clone()), weights.write(place));
                x_rows.put(token..token + 1, &x[token * hidden..(token + 1) * hidden]);
            }
        }
    });
    // SAFETY: written before the barrier, and no more in this step.
    let (chosen, weights) = unsafe { (chosen.read_all(), weights.read_all()) };
    let mut ready = hits.sort(shape.first, chosen, places);
    let used_count = hits.used_count;

    team.share(hits.starts[used_count] as usize, 4, |items| {
        for run in items.filter_map(|hit| hits.run_at(hit)) {
            let token = |i: usize| hits.places[run.start + i] as usize / k;
            // SAFETY: each run is one item's.
            unsafe { hit_rows.copy(run.clone(), &x_rows, token) };
        }
    });
    if let Some(supply) = &supply {
        supply.begin(team, places, &hits.used[..used_count], ready);
    }
    assert!(supply.is_some() || ready == used_count, "an expert is in no place");
    let mut done = 0;
    while done < used_count {
        if let Some(supply) = &supply {
            // What is missing is read while what is there computes.
            supply.ask(team, &hits.used[ready..used_count]);
        }
        let gate_ups = |expert: usize| &places[expert].gate_up;
        hits.multiply(
            team,
            shape.format,
            done..ready,
            gate_ups,
            (2 * width, hidden),
            &hit_rows,
            both,
        );
        let first = hits.starts[done] as usize;
        team.share(hits.starts[ready] as usize - first, 1, |items| {
            for run in items.filter_map(|hit| hits.run_at(first + hit)) {
                let inner = &mut inner[..run.len() * width];
                // SAFETY: `both` was written before the barrier; each run is one item's.
                unsafe {
                    swiglu(both.read(run.start * 2 * width..run.end * 2 * width), inner);
                    inner_rows.put(run, inner);
                }
            }
        });
        let downs = |expert: usize| &places[expert].down;
        hits.multiply(team, shape.format, done..ready, downs, (hidden, width), &inner_rows, out);
        done = ready;
        if let (Some(supply), true) = (&supply, done < used_count) {
            ready += supply.receive(team, shape, places, &hits.used[done..used_count]);
        }
    }
    let chunks = hidden.div_ceil(COLUMNS_AT_ONCE);
    team.share(tokens * chunks, 1, |items| {
        for item in items {
            let (token, begin) = (item / chunks, item % chunks * COLUMNS_AT_ONCE);
            let columns = begin..hidden.min(begin + COLUMNS_AT_ONCE);
            // SAFETY: each part of y is one item's; `out` was written before the barrier.
            unsafe {
                let sums = y.write(token * hidden + columns.start..token * hidden + columns.end);
                sums.fill(0.0);
                let of_token = token * k..(token + 1) * k;
                let held = of_token.filter(|place| hits.rank[*place] != NOT_HELD);
                let mut next = held.clone().min_by_key(|place| chosen[*place]);
                while let Some(place) = next {
                    let row = hits.rank[place] as usize * hidden;
                    let row = out.read(row + columns.start..row + columns.end);
                    let weight = weights[place];
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * weight);
                    let after = held.clone().filter(|other| chosen[*other] > chosen[place]);
                    next = after.min_by_key(|place| chosen[*place]);
                }
            }
        }
    });
}

/// From logits [E] of one token to its experts and their weights. Overwrites the logits.
fn choose(shape: &ExpertsShape, scores: &mut [f32], chosen: &mut [i32], weights: &mut [f32]) {
    softmax(scores);
    if shape.top_groups < shape.groups {
        drop_groups(shape, scores);
    }
    for (place, weight) in chosen.iter_mut().zip(weights.iter_mut()) {
        let best = first_largest(scores);
        *place = best as i32;
        *weight = scores[best];
        scores[best] = TAKEN;
    }
    let divisor = if shape.normalize { weights.iter().sum() } else { 1.0 };
    weights.iter_mut().for_each(|weight| *weight = *weight / divisor * shape.scaling);
}

/// Below every score, since those lie in [0, 1], and below those of dropped groups.
const TAKEN: f32 = -2.0;
/// Below every score of a kept group.
const DROPPED: f32 = -1.0;

/// Keeps the `top_groups` groups with the best single expert.
fn drop_groups(shape: &ExpertsShape, scores: &mut [f32]) {
    let size = shape.experts / shape.groups;
    let best_of = |scores: &[f32], group: usize| {
        let scores = &scores[group * size..(group + 1) * size];
        scores[first_largest(scores)]
    };
    // A group is kept if fewer than `top_groups` others come before it.
    let kept = |scores: &[f32], group: usize| {
        let own = best_of(scores, group);
        let before = |other: &usize| {
            let best = best_of(scores, *other);
            best > own || (best == own && *other < group)
        };
        (0..shape.groups).filter(before).count() < shape.top_groups
    };
    let mut kept_groups = [0u64; 4];
    assert!(shape.groups <= 256);
    for group in 0..shape.groups {
        kept_groups[group / 64] |= u64::from(kept(scores, group)) << (group % 64);
    }
    for (group, scores) in scores.chunks_exact_mut(size).enumerate() {
        if kept_groups[group / 64] >> (group % 64) & 1 == 0 {
            scores.fill(DROPPED);
        }
    }
}

/// Index of the largest value, the first of several.
fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// inner[f] = silu(both[2f]) * both[2f + 1].
fn swiglu(both: &[f32], inner: &mut [f32]) {
    for (pairs, inner) in both.chunks(8).zip(inner.chunks_mut(4)) {
        let mut padded = [0.0; 8];
        let pairs = if pairs.len() == 8 {
            pairs
        } else {
            padded[..pairs.len()].copy_from_slice(pairs);
            &padded
        };
        // SAFETY: eight f32.
        let [low, high] =
            unsafe { [F32x4::load(pairs.as_ptr()), F32x4::load(pairs.as_ptr().add(4))] };
        let [gates, ups] = F32x4::unzip(low, high);
        let products = gates.mul(math::sigmoid(gates)).mul(ups);
        if inner.len() == 4 {
            // SAFETY: four f32.
            unsafe { products.store(inner.as_mut_ptr()) };
        } else {
            inner.copy_from_slice(&products.to_array()[..inner.len()]);
        }
    }
}

/// The scalar reference: one token's chosen experts, their weights and its output, in f64.
#[cfg(not(target_family = "wasm"))]
pub fn reference(
    shape: &ExpertsShape,
    x: &[f32],
    router: &[u8],
    gate_up: &[u8],
    down: &[u8],
) -> (Vec<usize>, Vec<f64>, Vec<f64>) {
    let ExpertsShape { hidden, width, experts, first, held, k, format, .. } = *shape;
    let dot = |matrix: &Matrix, row: usize, x: &[f64]| -> f64 {
        let product = |(i, x): (usize, &f64)| element(matrix, row, i) as f64 * x;
        x.iter().enumerate().map(product).sum()
    };
    let x: Vec<f64> = x.iter().map(|x| *x as f64).collect();
    let router = Matrix::new(Format::F32, experts, hidden, router);
    let logits: Vec<f64> = (0..experts).map(|e| dot(&router, e, &x)).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let scores: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp() / total).collect();

    let size = experts / shape.groups;
    let best = |group: usize| scores[group * size..][..size].iter().copied().fold(0.0, f64::max);
    let mut groups: Vec<usize> = (0..shape.groups).collect();
    groups.sort_by(|a, b| best(*b).total_cmp(&best(*a))); // stable: ties by rising index
    groups.truncate(shape.top_groups);
    let mut chosen: Vec<usize> = (0..experts).filter(|e| groups.contains(&(e / size))).collect();
    chosen.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    chosen.truncate(k);
    let sum: f64 = chosen.iter().map(|e| scores[*e]).sum();
    let divisor = if shape.normalize { sum } else { 1.0 };
    let weight = |e: &usize| scores[*e] / divisor * shape.scaling as f64;
    let weights: Vec<f64> = chosen.iter().map(weight).collect();

    let mut y = vec![0.0; hidden];
    for (expert, weight) in chosen.iter().zip(&weights) {
        let Some(local) = expert.checked_sub(first).filter(|local| *local < held) else { continue };
        let gate_up = Matrix::of_stack(format, 2 * width, hidden, gate_up, local);
        let down = Matrix::of_stack(format, hidden, width, down, local);
        let inner = |f: usize| {
            let gate = dot(&gate_up, 2 * f, &x);
            gate / (1.0 + (-gate).exp()) * dot(&gate_up, 2 * f + 1, &x)
        };
        let inner: Vec<f64> = (0..width).map(inner).collect();
        for (d, y) in y.iter_mut().enumerate() {
            *y += weight * dot(&down, d, &inner);
        }
    }
    (chosen, weights, y)
}
