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
    /// A token's blocks and how many positions it sees.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn of_token(&self, token: usize) -> (&'a [i32], usize) {
        let sequences = self.context_lengths.len();
        let width = self.block_tables.len() / sequences;
        // The last sequence that begins at or before the token: those before it with no tokens begin there too.
        let after = self.query_starts.partition_point(|start| *start as usize <= token);
        let b = after - 1;
        let (begin, end) = (self.query_starts[b] as usize, self.query_starts[b + 1] as usize);
        let past = self.context_lengths[b] as usize - (end - begin);
        (&self.block_tables[b * width..(b + 1) * width], past + token - begin + 1)
    }

    /// The longest context.
    pub fn longest_context(&self) -> usize {
        self.context_lengths.iter().copied().max().unwrap_or(0) as usize
    }
}
