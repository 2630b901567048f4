//! Byte-pair merging: of all adjacent pairs, the one of lowest rank merges first, the leftmost of
//! equals; until no pair merges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::pair_table::{PairTable, NO_MERGE};

/// Up to this many bytes the lowest rank is found by looking at all; beyond, by a heap.
const MOST_SCANNED: usize = 128;

/// How much work merging has been; both grow at most linearly with the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Pairs that became one symbol.
    pub merges: u64,
    /// Ranks looked at to find the lowest: entries scanned, or pushed to and popped from the heap.
    pub queue_operations: u64,
}

/// The merges of a vocabulary, and the memory they work in.
pub struct Bpe {
    /// The id of each byte's token; bytes that never occur in UTF-8 may have none ([`NO_ID`]).
    byte_ids: [u32; 256],
    pairs: PairTable,
    chain: Vec<Link>,
    queue: BinaryHeap<Reverse<Entry>>,
    work: Work,
}

/// Marks a byte without a token.
pub const NO_ID: u32 = u32::MAX;

/// A symbol of a long piece; its index is where it begins.
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

const END: u32 = u32::MAX;

impl Bpe {
    pub fn new(byte_ids: [u32; 256], pairs: PairTable) -> Self {
        let queue = BinaryHeap::new();
        Self { byte_ids, pairs, chain: Vec::new(), queue, work: Work::default() }
    }

    /// What merging has cost since this was made.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Appends the ids of one piece, bytes of valid UTF-8, to `ids`.
    pub fn encode(&mut self, piece: &[u8], ids: &mut Vec<u32>) {
        if piece.len() <= MOST_SCANNED {
            self.encode_by_scanning(piece, ids);
        } else {
            self.encode_by_heap(piece, ids);
        }
    }

    fn encode_by_scanning(&mut self, piece: &[u8], ids: &mut Vec<u32>) {
        let count = piece.len();
        let mut symbols = [0u32; MOST_SCANNED];
        let mut next = [0u8; MOST_SCANNED];
        let mut previous = [0u8; MOST_SCANNED];
        // `rank << 8 | index` of the pair that begins at each index, so that the least is the next.
        let mut keys = [NO_KEY; MOST_SCANNED];
        for (index, &byte) in piece.iter().enumerate() {
            symbols[index] = self.byte_ids[usize::from(byte)];
            next[index] = index as u8 + 1;
            previous[index] = (index as u8).wrapping_sub(1);
        }
        for left in 1..count {
            keys[left - 1] = key(self.pairs.rank(symbols[left - 1], symbols[left]), left - 1);
        }
        let scanned = count.next_multiple_of(16).min(MOST_SCANNED);
        loop {
            let least = keys[..scanned].iter().fold(NO_KEY, |least, &key| least.min(key));
            self.work.queue_operations += scanned as u64;
            if least == NO_KEY {
                break;
            }
            self.work.merges += 1;
            let left = usize::from(least as u8);
            let right = usize::from(next[left]);
            let after = usize::from(next[right]);
            symbols[left] = self.pairs.merged(least >> 8);
            next[left] = after as u8;
            keys[right] = NO_KEY;
            keys[left] = NO_KEY;
            if after < count {
                previous[after] = left as u8;
                keys[left] = key(self.pairs.rank(symbols[left], symbols[after]), left);
            }
            if left > 0 {
                let before = usize::from(previous[left]);
                keys[before] = key(self.pairs.rank(symbols[before], symbols[left]), before);
            }
        }
        let mut index = 0;
        while index < count {
            ids.push(symbols[index]);
            index = usize::from(next[index]);
        }
    }

    fn encode_by_heap(&mut self, piece: &[u8], ids: &mut Vec<u32>) {
        self.fill_chain(piece);
        while let Some(Reverse(entry)) = self.queue.pop() {
            self.work.queue_operations += 1;
            let (rank, left) = ((entry >> 32) as u32, entry as u32);
            // A pair that has changed since it was queued has another rank now, or none.
            if self.chain[left as usize].rank == rank {
                self.merge(left, rank);
            }
        }
        let mut index = 0;
        while index != END {
            let link = self.chain[index as usize];
            ids.push(link.id);
            index = link.next;
        }
    }

    /// One symbol per byte, and every pair that merges in the heap.
    fn fill_chain(&mut self, piece: &[u8]) {
        let id_of = |byte: u8| self.byte_ids[usize::from(byte)];
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        queue.clear();
        self.chain.clear();
        for (index, &byte) in piece.iter().enumerate() {
            let at = index as u32;
            let next = piece.get(index + 1);
            let rank = next.map_or(NO_MERGE, |&next| self.pairs.rank(id_of(byte), id_of(next)));
            if rank != NO_MERGE {
                queue.push(Reverse(entry(rank, at)));
            }
            self.chain.push(Link {
                id: id_of(byte),
                rank,
                previous: at.wrapping_sub(1),
                next: if next.is_some() { at + 1 } else { END },
            });
        }
        self.work.queue_operations += queue.len() as u64;
        self.queue = BinaryHeap::from(queue);
    }

    /// Merges the symbol at `left` with the next one.
    fn merge(&mut self, left: u32, rank: u32) {
        self.work.merges += 1;
        let right = self.chain[left as usize].next;
        let after = self.chain[right as usize].next;
        self.chain[right as usize].rank = NO_MERGE;
        self.chain[left as usize].id = self.pairs.merged(rank);
        self.chain[left as usize].next = after;
        if after != END {
            self.chain[after as usize].previous = left;
        }
        self.update_rank(left, after);
        let previous = self.chain[left as usize].previous;
        if previous != END {
            self.update_rank(previous, left);
        }
    }

    /// Looks up and queues the pair of two adjacent symbols; `right` may be [`END`].
    fn update_rank(&mut self, left: u32, right: u32) {
        let rank = match right {
            END => NO_MERGE,
            _ => self.pairs.rank(self.chain[left as usize].id, self.chain[right as usize].id),
        };
        self.chain[left as usize].rank = rank;
        if rank != NO_MERGE {
            self.work.queue_operations += 1;
            self.queue.push(Reverse(entry(rank, left)));
        }
    }
}

/// The key of a pair that does not merge.
const NO_KEY: u32 = u32::MAX;

fn key(rank: u32, index: usize) -> u32 {
    match rank {
        NO_MERGE => NO_KEY,
        _ => rank << 8 | index as u32,
    }
}

fn entry(rank: u32, left: u32) -> Entry {
    u64::from(rank) << 32 | u64::from(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges of random pairs of known symbols, each giving a new one, over the bytes a..=e.
    fn random_merges(seed: &mut u64, count: u32) -> Vec<(u32, u32, u32)> {
        let mut merges: Vec<(u32, u32, u32)> = Vec::new();
        for merged in 256..256 + count {
            let known = 5 + merges.len() as u64;
            let mut pick = || match next_random(seed) % known {
                byte @ 0..=4 => 97 + byte as u32,
                later => 256 + later as u32 - 5,
            };
            let pair = (pick(), pick());
            if !merges.iter().any(|&(left, right, _)| (left, right) == pair) {
                merges.push((pair.0, pair.1, merged - (merged - 256 - merges.len() as u32)));
            }
        }
        merges
    }

    fn next_random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed >> 8
    }

    /// The definition, word for word: quadratic.
    fn encode_naively(merges: &[(u32, u32, u32)], piece: &[u8]) -> Vec<u32> {
        let mut symbols: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
        loop {
            let pairs = symbols.windows(2).enumerate().filter_map(|(at, pair)| {
                let rank = merges.iter().position(|merge| (merge.0, merge.1) == (pair[0], pair[1]));
                rank.map(|rank| (rank, at))
            });
            let Some((rank, at)) = pairs.min() else { return symbols };
            symbols.splice(at..at + 2, [merges[rank].2]);
        }
    }

    fn bpe(merges: &[(u32, u32, u32)]) -> Bpe {
        let mut pairs = PairTable::with_capacity(merges.len());
        for &(left, right, merged) in merges {
            assert!(pairs.push(left, right, merged));
        }
        Bpe::new(std::array::from_fn(|byte| byte as u32), pairs)
    }

    #[test]
    fn scanning_and_heap_both_agree_with_the_definition() {
        let mut seed = 0x1234_5678_9abc_def1;
        for round in 0..60 {
            let merges = random_merges(&mut seed, 1 + round % 40);
            let mut bpe = bpe(&merges);
            for length in [0, 1, 2, 3, 5, 17, 63, 64, 65, 130] {
                let letters = 1 + next_random(&mut seed) % 5;
                let piece: Vec<u8> =
                    (0..length).map(|_| 97 + (next_random(&mut seed) % letters) as u8).collect();
                let expected = encode_naively(&merges, &piece);
                if piece.len() <= MOST_SCANNED {
                    let mut scanned = Vec::new();
                    bpe.encode_by_scanning(&piece, &mut scanned);
                    assert_eq!(scanned, expected, "{merges:?} {piece:?}");
                }
                if !piece.is_empty() {
                    let mut heaped = Vec::new();
                    bpe.encode_by_heap(&piece, &mut heaped);
                    assert_eq!(heaped, expected, "{merges:?} {piece:?}");
                }
            }
        }
    }

    #[test]
    fn the_leftmost_of_equal_pairs_merges_first() {
        let mut bpe = bpe(&[(97, 97, 256)]);
        let mut ids = Vec::new();
        bpe.encode(b"aaaaa", &mut ids);
        assert_eq!(ids, [256, 256, 97]);
    }

    #[test]
    fn work_grows_linearly_with_one_long_piece() {
        let merges = [(97, 97, 256), (256, 256, 257), (257, 257, 258), (257, 97, 259)];
        let cost = |length: usize| {
            let mut bpe = bpe(&merges);
            bpe.encode(&vec![97; length], &mut Vec::new());
            bpe.work()
        };
        let (short, long) = (cost(10_000), cost(1_000_000));
        assert!(long.merges <= 101 * short.merges, "{long:?} {short:?}");
        assert!(long.queue_operations <= 101 * short.queue_operations, "{long:?} {short:?}");
    }
}
