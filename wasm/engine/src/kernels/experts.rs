//! `SparseExperts`: DeepSeekMoE's router and routed experts (DeepSeek-V2, arXiv 2405.04434, sections
//! 2.2.1 and 2.2.2). The op's function body in the exported graph says the same.
//!
//! Tokens are sorted by expert, so that each chosen expert's weights are read once a step. A token's
//! experts are added up by rising index, whatever the batch.

use super::attention::softmax;
#[cfg(not(target_family = "wasm"))]
use super::matrix::element;
use super::matrix::{Format, Matrix, BLOCK};
use super::multiply::{multiply_float, multiply_quantized, Strided, StridedMut};
use super::quantize::{quantize, QuantizedBlock};
use super::scratch::{bytes_of, Scratch};
use crate::math;
use crate::simd::F32x4;

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

/// Tensors of one layer.
pub struct ExpertsTensors<'a> {
    /// [T, D].
    pub x: &'a [f32],
    /// The router's matrix [E, D], packed f32.
    pub router: &'a [u8],
    /// Matrices [2F, D] of the experts held here, packed, gate and up rows in turn.
    pub gate_up: &'a [u8],
    /// Matrices [D, F] of the experts held here, packed.
    pub down: &'a [u8],
    /// [T, D].
    pub y: &'a mut [f32],
    /// [T, K]: the chosen experts by falling score.
    pub chosen: &'a mut [i32],
    /// [T, K]: their weights.
    pub weights: &'a mut [f32],
}

/// Bytes of temporary memory for `tokens` tokens.
pub fn scratch_bytes(shape: &ExpertsShape, tokens: usize) -> usize {
    let ExpertsShape { hidden, width, experts, held, k, format, .. } = *shape;
    let rows = |columns: usize| match format.is_quantized() {
        true => bytes_of::<QuantizedBlock>(tokens * columns.div_ceil(BLOCK)),
        false => 0,
    };
    bytes_of::<f32>(tokens * experts)
        + bytes_of::<u32>(held + 1)
        + bytes_of::<u32>(tokens * k)
        + bytes_of::<f32>(tokens * hidden)
        + bytes_of::<f32>(tokens * 2 * width)
        + bytes_of::<f32>(tokens * width)
        + bytes_of::<f32>(tokens * hidden)
        + rows(hidden)
        + rows(width)
}

/// Runs one layer.
///
/// # Panics
/// If a length does not fit.
pub fn sparse_experts(shape: &ExpertsShape, tensors: ExpertsTensors, scratch: &mut [u8]) {
    let ExpertsShape { hidden, width, experts, held, k, format, .. } = *shape;
    let ExpertsTensors { x, router, gate_up, down, y, chosen, weights } = tensors;
    let tokens = x.len() / hidden;
    assert!(y.len() == x.len() && chosen.len() == tokens * k && weights.len() == tokens * k);
    let mut scratch = Scratch::new(scratch);
    let scores = scratch.take::<f32>(tokens * experts);
    let starts = scratch.take::<u32>(held + 1);
    let hits = scratch.take::<u32>(tokens * k);
    let x_hit = scratch.take::<f32>(tokens * hidden);
    let both = scratch.take::<f32>(tokens * 2 * width);
    let inner = scratch.take::<f32>(tokens * width);
    let out = scratch.take::<f32>(tokens * hidden);
    let quantized = format.is_quantized();
    let blocks = |columns: usize| if quantized { tokens * columns.div_ceil(BLOCK) } else { 0 };
    let x_blocks = scratch.take::<QuantizedBlock>(blocks(hidden));
    let inner_blocks = scratch.take::<QuantizedBlock>(blocks(width));

    let logits = &mut StridedMut { values: scores, stride: experts };
    let rows = Strided { values: x, stride: hidden };
    multiply_float(&Matrix::new(Format::F32, experts, hidden, router), rows, tokens, logits);
    for token in 0..tokens {
        let place = token * k..(token + 1) * k;
        let scores = &mut scores[token * experts..(token + 1) * experts];
        choose(shape, scores, &mut chosen[place.clone()], &mut weights[place]);
    }
    sort_by_expert(shape, chosen, starts, hits);

    y.fill(0.0);
    for expert in 0..held {
        let hits = &hits[starts[expert] as usize..starts[expert + 1] as usize];
        let count = hits.len();
        for (hit, row) in hits.iter().zip(x_hit.chunks_exact_mut(hidden)) {
            let token = *hit as usize / k;
            row.copy_from_slice(&x[token * hidden..(token + 1) * hidden]);
        }
        let multiply =
            |stack, rows, columns, x: &[f32], blocks: &mut [QuantizedBlock], y: &mut [f32]| {
                let matrix = Matrix::of_stack(format, rows, columns, stack, expert);
                let mut y = StridedMut { values: y, stride: rows };
                if quantized {
                    let blocks = &mut blocks[..count * columns.div_ceil(BLOCK)];
                    quantize(&x[..count * columns], columns, blocks);
                    multiply_quantized(&matrix, blocks, count, &mut y);
                } else {
                    multiply_float(&matrix, Strided { values: x, stride: columns }, count, &mut y);
                }
            };
        multiply(gate_up, 2 * width, hidden, x_hit, x_blocks, both);
        swiglu(&both[..count * 2 * width], &mut inner[..count * width]);
        multiply(down, hidden, width, inner, inner_blocks, out);
        for (hit, row) in hits.iter().zip(out.chunks_exact(hidden)) {
            let token = *hit as usize / k;
            let weight = weights[*hit as usize];
            let sums = &mut y[token * hidden..(token + 1) * hidden];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * weight);
        }
    }
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

/// For every expert held here, the places [T*K] that chose it, by rising token: `hits[starts[e]..starts[e + 1]]`.
fn sort_by_expert(shape: &ExpertsShape, chosen: &[i32], starts: &mut [u32], hits: &mut [u32]) {
    let local = |expert: i32| {
        let index = (expert as usize).checked_sub(shape.first)?;
        (index < shape.held).then_some(index)
    };
    starts.fill(0);
    for expert in chosen.iter().filter_map(|expert| local(*expert)) {
        starts[expert + 1] += 1;
    }
    for expert in 0..shape.held {
        starts[expert + 1] += starts[expert];
    }
    // Filling moves every start to its end, which is the next one's start: shift them back after.
    for (place, expert) in chosen.iter().enumerate() {
        if let Some(expert) = local(*expert) {
            hits[starts[expert] as usize] = place as u32;
            starts[expert] += 1;
        }
    }
    for expert in (0..shape.held).rev() {
        starts[expert + 1] = starts[expert];
    }
    starts[0] = 0;
}

/// inner[f] = silu(both[2f]) * both[2f + 1].
fn swiglu(both: &[f32], inner: &mut [f32]) {
    for (pairs, inner) in both.chunks(8).zip(inner.chunks_mut(4)) {
        let mut gates = [0.0; 4];
        gates.iter_mut().zip(pairs.chunks_exact(2)).for_each(|(gate, pair)| *gate = pair[0]);
        // SAFETY: four f32.
        let gates = unsafe { F32x4::load(gates.as_ptr()) };
        let silu = gates.mul(math::sigmoid(gates)).to_array();
        for ((inner, pair), silu) in inner.iter_mut().zip(pairs.chunks_exact(2)).zip(silu) {
            *inner = silu * pair[1];
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
