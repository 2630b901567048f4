//! The ragged batch of a step: B sequences with T new tokens in all, over paged caches.

/// The step's ragged batch.
#[derive(Clone, Copy)]
pub struct StepBatch<'a> {
    /// [T]: block * P + offset.
    pub slots: &'a [i32],
    /// [B + 1].
    pub query_starts: &'a [i32],
    /// [B], this step included.
    pub context_lengths: &'a [i32],
    /// [B, M].
    pub block_tables: &'a [i32],
}

impl<'a> StepBatch<'a> {
    /// Calls `f(token, blocks, visible)` for every token: its sequence's blocks and how many positions
    /// it sees.
    pub fn for_each_token(&self, mut f: impl FnMut(usize, &'a [i32], usize)) {
        let sequences = self.context_lengths.len();
        let width = self.block_tables.len() / sequences;
        for b in 0..sequences {
            let tokens = self.query_starts[b] as usize..self.query_starts[b + 1] as usize;
            let past = self.context_lengths[b] as usize - tokens.len();
            let blocks = &self.block_tables[b * width..(b + 1) * width];
            for (i, token) in tokens.enumerate() {
                f(token, blocks, past + i + 1);
            }
        }
    }

    /// The longest context.
    pub fn longest_context(&self) -> usize {
        self.context_lengths.iter().copied().max().unwrap_or(0) as usize
    }
}
