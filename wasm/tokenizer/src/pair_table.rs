//! The merges: which two adjacent symbols become which one, and how early.

use crate::slices::MOST_PROBES;

/// The rank of a pair that does not merge.
pub const NO_MERGE: u32 = u32::MAX;

/// Ids are below this, so that two of them and a rank fit 64 bits.
pub const MOST_IDS: usize = (1 << ID_BITS) - 1;

/// Ranks are below this.
pub const MOST_MERGES: usize = (1 << RANK_BITS) - 1;

const ID_BITS: u32 = 20;
const RANK_BITS: u32 = 24;
const EMPTY: u64 = u64::MAX;

/// Ranks of pairs of ids, by open addressing, half full at most. Most pairs that are asked for do
/// not merge: a filter small enough for the cache answers nine of ten of those.
pub struct PairTable {
    /// `left << 44 | right << 24 | rank`, or `EMPTY`.
    slots: Vec<u64>,
    slot_shift: u32,
    /// A bit for each pair, eight for each merge; where it is 0 the pair does not merge.
    filter: Vec<u64>,
    filter_shift: u32,
    /// The id that the pair of each rank becomes.
    merged: Vec<u32>,
    /// Which ids are halves of a merge so far.
    used_as_half: Vec<bool>,
    /// Whether every merge comes after all that make its halves.
    halves_come_first: bool,
    /// Whether those ids are consecutive, as training leaves them; saves a load per merge.
    consecutive: bool,
}

impl PairTable {
    /// For up to `count` merges, at most [`MOST_MERGES`].
    pub fn with_capacity(count: usize) -> Self {
        let slots = (count * 2).next_power_of_two().max(64);
        let filter_bits = slots * 4;
        Self {
            slots: vec![EMPTY; slots],
            slot_shift: 64 - slots.trailing_zeros(),
            filter: vec![0; filter_bits / 64],
            filter_shift: 64 - filter_bits.trailing_zeros(),
            merged: Vec::with_capacity(count),
            used_as_half: Vec::new(),
            halves_come_first: true,
            consecutive: true,
        }
    }

    /// Adds the merge of the next rank; a pair that is listed again takes the later rank, as in
    /// Hugging Face `tokenizers`. Returns false where the pairs collide so much that they must
    /// have been chosen for it.
    #[must_use]
    pub fn push(&mut self, left: u32, right: u32, merged: u32) -> bool {
        let rank = self.merged.len() as u64;
        self.merged.push(merged);
        self.consecutive &= u64::from(merged - self.merged[0].min(merged)) == rank;
        self.note_order(left, right, merged);
        let pair = pair(left, right);
        let hash = hash(pair);
        let bit = hash >> self.filter_shift;
        self.filter[(bit / 64) as usize] |= 1 << (bit % 64);
        let mut slot = (hash >> self.slot_shift) as usize;
        for _ in 0..MOST_PROBES {
            if self.slots[slot] == EMPTY || self.slots[slot] >> RANK_BITS == pair {
                self.slots[slot] = pair << RANK_BITS | rank;
                return true;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        false
    }

    /// A half made by this merge or a later one breaks the order.
    fn note_order(&mut self, left: u32, right: u32, merged: u32) {
        let highest = left.max(right).max(merged) as usize;
        if self.used_as_half.len() <= highest {
            self.used_as_half.resize(highest + 1, false);
        }
        self.used_as_half[left as usize] = true;
        self.used_as_half[right as usize] = true;
        self.halves_come_first &= !self.used_as_half[merged as usize];
    }

    /// Whether every merge comes after all that make its halves, as training leaves them.
    pub fn halves_come_first(&self) -> bool {
        self.halves_come_first
    }

    /// The rank at which two ids merge, lower first, or [`NO_MERGE`].
    #[inline]
    pub fn rank(&self, left: u32, right: u32) -> u32 {
        let pair = pair(left, right);
        let hash = hash(pair);
        let bit = hash >> self.filter_shift;
        if self.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 0 {
            return NO_MERGE;
        }
        let mut slot = (hash >> self.slot_shift) as usize;
        loop {
            let found = self.slots[slot];
            if found >> RANK_BITS == pair {
                return found as u32 & ((1 << RANK_BITS) - 1);
            }
            if found == EMPTY {
                return NO_MERGE;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// The id that the pair of a rank becomes.
    #[inline]
    pub fn merged(&self, rank: u32) -> u32 {
        match self.consecutive {
            true => self.merged[0] + rank,
            false => self.merged[rank as usize],
        }
    }
}

#[inline]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

#[inline]
fn hash(pair: u64) -> u64 {
    let mixed = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
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
    fn a_half_that_is_made_later_is_noticed() {
        let mut table = PairTable::with_capacity(3);
        assert!(table.push(1, 2, 3) && table.push(3, 1, 4));
        assert!(table.halves_come_first());
        assert!(table.push(2, 2, 1));
        assert!(!table.halves_come_first());
    }

    #[test]
    fn a_pair_listed_twice_takes_the_later_rank() {
        let mut table = PairTable::with_capacity(2);
        assert!(table.push(1, 2, 3));
        assert!(table.push(1, 2, 3));
        assert_eq!(table.rank(1, 2), 1);
    }
}
