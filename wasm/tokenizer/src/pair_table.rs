//! The merges: which two adjacent symbols become which one, and how early.

use crate::slices::MOST_PROBES;

/// The rank of a pair that does not merge.
pub const NO_MERGE: u32 = u32::MAX;

const EMPTY: u64 = u64::MAX;

/// Ranks of pairs of ids, by open addressing, half full at most.
pub struct PairTable {
    /// `left << 32 | right`, or `EMPTY`.
    keys: Vec<u64>,
    ranks: Vec<u32>,
    /// The id that the pair of each rank becomes.
    merged: Vec<u32>,
    shift: u32,
}

impl PairTable {
    pub fn with_capacity(count: usize) -> Self {
        let slots = (count * 2).next_power_of_two().max(2);
        Self {
            keys: vec![EMPTY; slots],
            ranks: vec![NO_MERGE; slots],
            merged: Vec::with_capacity(count),
            shift: 64 - slots.trailing_zeros(),
        }
    }

    /// Adds the merge of the next rank; a pair that is listed again takes the later rank, as in
    /// Hugging Face `tokenizers`. Returns false where the pairs collide so much that they must
    /// have been chosen for it.
    #[must_use]
    pub fn push(&mut self, left: u32, right: u32, merged: u32) -> bool {
        let rank = self.merged.len() as u32;
        self.merged.push(merged);
        let key = key(left, right);
        let mut slot = self.home(key);
        for _ in 0..MOST_PROBES {
            if self.keys[slot] == EMPTY || self.keys[slot] == key {
                self.keys[slot] = key;
                self.ranks[slot] = rank;
                return true;
            }
            slot = (slot + 1) & (self.keys.len() - 1);
        }
        false
    }

    /// The rank at which two ids merge, lower first, or [`NO_MERGE`].
    #[inline]
    pub fn rank(&self, left: u32, right: u32) -> u32 {
        let key = key(left, right);
        let mut slot = self.home(key);
        loop {
            let found = self.keys[slot];
            if found == key {
                return self.ranks[slot];
            }
            if found == EMPTY {
                return NO_MERGE;
            }
            slot = (slot + 1) & (self.keys.len() - 1);
        }
    }

    /// The id that the pair of a rank becomes.
    #[inline]
    pub fn merged(&self, rank: u32) -> u32 {
        self.merged[rank as usize]
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

#[inline]
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_pair_and_nothing_else() {
        let mut table = PairTable::with_capacity(3000);
        for rank in 0..3000 {
            assert!(table.push(rank % 60, rank / 60, 100 + rank));
        }
        for left in 0..60 {
            for right in 0..50 {
                let rank = table.rank(left, right);
                assert_eq!(rank, left + 60 * right);
                assert_eq!(table.merged(rank), 100 + rank);
            }
            assert_eq!(table.rank(left, 50), NO_MERGE);
        }
    }

    #[test]
    fn a_pair_listed_twice_takes_the_later_rank() {
        let mut table = PairTable::with_capacity(2);
        assert!(table.push(1, 2, 3));
        assert!(table.push(1, 2, 3));
        assert_eq!(table.rank(1, 2), 1);
    }
}
