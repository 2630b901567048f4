//! Merging a short piece: the lowest rank is found by looking at all pairs, four at a time where the
//! machine has vectors.

use crate::bpe::Work;
use crate::pair_table::{PairTable, NO_MERGE};

/// Symbols of the longest piece that is short.
pub const LONGEST_SHORT: usize = 128;

/// As many as an index of one byte can tell apart, so that none needs a check.
const INDICES: usize = 256;

/// The memory in which short pieces are merged.
pub struct ShortMerge {
    symbols: [u32; INDICES],
    next: [u8; INDICES],
    previous: [u8; INDICES],
    /// `rank << 8 | index` of the pair that begins at each index, so that the least merges next.
    keys: [u32; INDICES],
}

/// The key of a pair that does not merge.
const NO_KEY: u32 = u32::MAX;

/// Keys are looked at in groups of this many.
const GROUP: usize = 16;

impl ShortMerge {
    pub fn new() -> Self {
        Self {
            symbols: [0; INDICES],
            next: [0; INDICES],
            previous: [0; INDICES],
            keys: [NO_KEY; INDICES],
        }
    }

    /// Merges at most [`LONGEST_SHORT`] symbols and appends what becomes of them to `ids`.
    pub fn merge(
        &mut self,
        pairs: &PairTable,
        symbols: &[u32],
        ids: &mut Vec<u32>,
        work: &mut Work,
    ) {
        let count = symbols.len();
        let scanned = count.next_multiple_of(GROUP).min(LONGEST_SHORT);
        self.fill(pairs, symbols, scanned);
        loop {
            let least = self.keys[..scanned].iter().fold(NO_KEY, |least, &key| least.min(key));
            work.queue_operations += scanned as u64;
            if least == NO_KEY {
                break;
            }
            work.merges += 1;
            self.merge_pair(pairs, usize::from(least as u8), pairs.merged(least >> 8), count);
        }
        let mut index = 0;
        while index < count {
            ids.push(self.symbols[index]);
            index = usize::from(self.next[index]);
        }
    }

    fn fill(&mut self, pairs: &PairTable, symbols: &[u32], scanned: usize) {
        self.keys[..scanned].fill(NO_KEY);
        for (index, &symbol) in symbols.iter().enumerate() {
            self.symbols[index] = symbol;
            self.next[index] = index as u8 + 1;
            self.previous[index] = (index as u8).wrapping_sub(1);
            if index > 0 {
                self.keys[index - 1] = key(pairs.rank(symbols[index - 1], symbol), index - 1);
            }
        }
    }

    fn merge_pair(&mut self, pairs: &PairTable, left: usize, merged: u32, count: usize) {
        let right = usize::from(self.next[left]);
        let after = usize::from(self.next[right]);
        self.symbols[left] = merged;
        self.next[left] = after as u8;
        self.keys[right] = NO_KEY;
        self.keys[left] = NO_KEY;
        if after < count {
            self.previous[after] = left as u8;
            self.keys[left] = key(pairs.rank(merged, self.symbols[after]), left);
        }
        if left > 0 {
            let before = usize::from(self.previous[left]);
            self.keys[before] = key(pairs.rank(self.symbols[before], merged), before);
        }
    }
}

impl Default for ShortMerge {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
fn key(rank: u32, index: usize) -> u32 {
    match rank {
        NO_MERGE => NO_KEY,
        _ => rank << 8 | index as u32,
    }
}
