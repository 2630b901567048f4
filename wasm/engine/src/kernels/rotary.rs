//! Rotary position embedding (arXiv 2104.09864): pairs of elements are rotated by an angle that grows
//! with the position. `cos` and `sin` hold one value per pair.

/// Which elements make a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Neighbours: (0, 1), (2, 3), ... (DeepSeek-V2).
    Interleaved,
    /// The two halves: (0, n/2), (1, n/2 + 1), ... (Llama, DeepSeek LLM, DeepSeekMoE).
    Halves,
}

/// Rotates one head: `x` and `y` have `2 * cos.len()` elements.
///
/// # Panics
/// If a length does not fit.
pub fn rotate(x: &[f32], cos: &[f32], sin: &[f32], pairs: Pairs, y: &mut [f32]) {
    let half = cos.len();
    assert!(sin.len() == half && x.len() == 2 * half && y.len() == 2 * half);
    for i in 0..half {
        let (first, second) = match pairs {
            Pairs::Interleaved => (2 * i, 2 * i + 1),
            Pairs::Halves => (i, i + half),
        };
        y[first] = x[first] * cos[i] - x[second] * sin[i];
        y[second] = x[second] * cos[i] + x[first] * sin[i];
    }
}
