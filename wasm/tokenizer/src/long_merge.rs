//! Merging a long piece: a linked list of symbols, and a heap of the pairs that merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::bpe::Work;
use crate::pair_table::{PairTable, NO_MERGE};

/// The memory in which long pieces are merged.
#[derive(Default)]
pub struct LongMerge {
    chain: Vec<Link>,
    queue: BinaryHeap<Reverse<Entry>>,
}

/// A symbol; its index is that of its first symbol before merging.
#[derive(Clone, Copy)]
struct Link {
    id: u32,
    /// At which rank it merges with the next symbol.
    rank: u32,
    previous: u32,
    next: u32,
}

/// A pair in the heap: `rank << 32 | index of its left symbol`, so that it sorts by rank, then left.
type Entry = u64;

/// No link.
const END: u32 = u32::MAX;

impl LongMerge {
    /// Merges one symbol or more and appends what becomes of them to `ids`.
    pub fn merge(
        &mut self,
        pairs: &PairTable,
        symbols: &[u32],
        ids: &mut Vec<u32>,
        work: &mut Work,
    ) {
        self.fill(pairs, symbols);
        work.queue_operations += self.queue.len() as u64;
        while let Some(Reverse(entry)) = self.queue.pop() {
            work.queue_operations += 1;
            let (rank, left) = ((entry >> 32) as u32, entry as u32);
            // A pair that has changed since it was queued has another rank now, or none.
            if self.chain[left as usize].rank == rank {
                work.merges += 1;
                work.queue_operations += self.merge_pair(pairs, left, pairs.merged(rank));
            }
        }
        let mut index = 0;
        while index != END {
            let link = self.chain[index as usize];
            ids.push(link.id);
            index = link.next;
        }
    }

    /// One link per symbol, and every pair that merges in the heap.
    fn fill(&mut self, pairs: &PairTable, symbols: &[u32]) {
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        queue.clear();
        self.chain.clear();
        for (index, &id) in symbols.iter().enumerate() {
            let at = index as u32;
            let next = symbols.get(index + 1);
            let rank = next.map_or(NO_MERGE, |&next| pairs.rank(id, next));
            if rank != NO_MERGE {
                queue.push(Reverse(entry(rank, at)));
            }
            let previous = at.wrapping_sub(1);
            self.chain.push(Link { id, rank, previous, next: next.map_or(END, |_| at + 1) });
        }
        self.queue = BinaryHeap::from(queue);
    }

    /// Merges the symbol at `left` with the next one; returns how many pairs it queued.
    fn merge_pair(&mut self, pairs: &PairTable, left: u32, merged: u32) -> u64 {
        let right = self.chain[left as usize].next;
        let after = self.chain[right as usize].next;
        self.chain[right as usize].rank = NO_MERGE;
        self.chain[left as usize].id = merged;
        self.chain[left as usize].next = after;
        if after != END {
            self.chain[after as usize].previous = left;
        }
        let previous = self.chain[left as usize].previous;
        let mut queued = self.update_rank(pairs, left, after);
        if previous != END {
            queued += self.update_rank(pairs, previous, left);
        }
        queued
    }

    /// Looks up the pair of two adjacent symbols and queues it if it merges; `right` may be [`END`].
    fn update_rank(&mut self, pairs: &PairTable, left: u32, right: u32) -> u64 {
        let rank = match right {
            END => NO_MERGE,
            _ => pairs.rank(self.chain[left as usize].id, self.chain[right as usize].id),
        };
        self.chain[left as usize].rank = rank;
        if rank == NO_MERGE {
            return 0;
        }
        self.queue.push(Reverse(entry(rank, left)));
        1
    }
}

fn entry(rank: u32, left: u32) -> Entry {
    u64::from(rank) << 32 | u64::from(left)
}
