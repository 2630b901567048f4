//! Byte-pair merging: of all adjacent pairs, the one of lowest rank merges first, the leftmost of
//! equals; until no pair merges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::first_symbols::FirstSymbols;
use crate::pair_table::{PairTable, NO_MERGE};

/// Up to this many symbols the lowest rank is found by looking at all; beyond, by a heap.
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
    first_symbols: FirstSymbols,
    pairs: PairTable,
    /// The piece at hand before merging.
    symbols: Vec<u32>,
    chain: Vec<Link>,
    queue: BinaryHeap<Reverse<Entry>>,
    work: Work,
}

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
    pub fn new(first_symbols: FirstSymbols, pairs: PairTable) -> Self {
        Self {
            first_symbols,
            pairs,
            symbols: Vec::new(),
            chain: Vec::new(),
            queue: BinaryHeap::new(),
            work: Work::default(),
        }
    }

    /// Lets merging start at whole characters where that can not change results, given the texts'
    /// bytes of all tokens that merging may make. See [`crate::first_symbols`].
    pub fn start_at_characters<'t>(&mut self, spellings: impl Iterator<Item = &'t [u8]>) {
        if !self.pairs.halves_come_first() {
            return;
        }
        let mut characters = Vec::new();
        for spelling in spellings {
            self.first_symbols.note_token(spelling);
            if is_one_character(spelling) {
                let mut ids = Vec::new();
                self.encode(spelling, &mut ids);
                if let [id] = ids[..] {
                    characters.push((spelling, id));
                }
            }
        }
        for (character, id) in characters {
            self.first_symbols.note_character(character, id);
        }
    }

    /// What merging has cost since this was made.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Appends the ids of one piece, bytes of valid UTF-8, to `ids`.
    pub fn encode(&mut self, piece: &[u8], ids: &mut Vec<u32>) {
        self.symbols.clear();
        self.first_symbols.append(piece, &mut self.symbols);
        if self.symbols.len() <= MOST_SCANNED {
            self.merge_by_scanning(ids);
        } else {
            self.merge_by_heap(ids);
        }
    }

    fn merge_by_scanning(&mut self, ids: &mut Vec<u32>) {
        let count = self.symbols.len();
        let mut symbols = [0u32; MOST_SCANNED];
        symbols[..count].copy_from_slice(&self.symbols);
        let mut next = [0u8; MOST_SCANNED];
        let mut previous = [0u8; MOST_SCANNED];
        // `rank << 8 | index` of the pair that begins at each index, so that the least is the next.
        let mut keys = [NO_KEY; MOST_SCANNED];
        for index in 0..count {
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

    fn merge_by_heap(&mut self, ids: &mut Vec<u32>) {
        self.fill_chain();
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

    /// One link per symbol, and every pair that merges in the heap.
    fn fill_chain(&mut self) {
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        queue.clear();
        self.chain.clear();
        for (index, &id) in self.symbols.iter().enumerate() {
            let at = index as u32;
            let next = self.symbols.get(index + 1);
            let rank = next.map_or(NO_MERGE, |&next| self.pairs.rank(id, next));
            if rank != NO_MERGE {
                queue.push(Reverse(entry(rank, at)));
            }
            let previous = at.wrapping_sub(1);
            self.chain.push(Link { id, rank, previous, next: next.map_or(END, |_| at + 1) });
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

fn is_one_character(spelling: &[u8]) -> bool {
    std::str::from_utf8(spelling).is_ok_and(|text| text.chars().count() == 1)
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
        Bpe::new(FirstSymbols::bytes(std::array::from_fn(|byte| byte as u32)), pairs)
    }

    #[test]
    fn scanning_and_heap_both_agree_with_the_definition() {
        let mut seed = 0x1234_5678_9abc_def1;
        for round in 0..60 {
            let merges = random_merges(&mut seed, 1 + round % 40);
            let mut bpe = bpe(&merges);
            for length in [0, 1, 2, 3, 5, 17, 63, 64, 65, 127, 128, 129] {
                let letters = 1 + next_random(&mut seed) % 5;
                let piece: Vec<u8> =
                    (0..length).map(|_| 97 + (next_random(&mut seed) % letters) as u8).collect();
                let expected = encode_naively(&merges, &piece);
                bpe.symbols = piece.iter().map(|&byte| u32::from(byte)).collect();
                if piece.len() <= MOST_SCANNED {
                    let mut scanned = Vec::new();
                    bpe.merge_by_scanning(&mut scanned);
                    assert_eq!(scanned, expected, "{merges:?} {piece:?}");
                }
                if !piece.is_empty() {
                    let mut heaped = Vec::new();
                    bpe.merge_by_heap(&mut heaped);
                    assert_eq!(heaped, expected, "{merges:?} {piece:?}");
                }
            }
        }
    }

    #[test]
    fn starting_at_characters_agrees_with_the_definition() {
        let mut seed = 0x0fed_cba9_8765_4321;
        let characters = ["a", "é", "ò", "中", "丸", "😀"];
        let bytes: Vec<u32> = "aéò中丸😀".bytes().map(u32::from).collect();
        let mut started_at_a_character = 0;
        for round in 0..400 {
            // Halves are known symbols, most often recent ones, so that tokens grow long.
            let mut spellings: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
            let mut merges: Vec<(u32, u32, u32)> = Vec::new();
            for _ in 0..1 + round % 30 {
                let mut pick = || match next_random(&mut seed) % 3 {
                    0 if !merges.is_empty() => {
                        256 + next_random(&mut seed) as u32 % merges.len() as u32
                    }
                    _ => bytes[next_random(&mut seed) as usize % bytes.len()],
                };
                let (left, right) = (pick(), pick());
                if !merges.iter().any(|merge| (merge.0, merge.1) == (left, right)) {
                    merges.push((left, right, spellings.len() as u32));
                    let joined =
                        [&spellings[left as usize][..], &spellings[right as usize]].concat();
                    spellings.push(joined);
                }
            }
            let mut bpe = bpe(&merges);
            bpe.start_at_characters(spellings.iter().map(Vec::as_slice));
            for _ in 0..20 {
                let length = 1 + next_random(&mut seed) as usize % 30;
                let piece: String = (0..length)
                    .map(|_| characters[next_random(&mut seed) as usize % characters.len()])
                    .collect();
                let mut ids = Vec::new();
                bpe.encode(piece.as_bytes(), &mut ids);
                started_at_a_character += usize::from(bpe.symbols.iter().any(|&id| id > 255));
                assert_eq!(ids, encode_naively(&merges, piece.as_bytes()), "{merges:?} {piece}");
            }
        }
        assert!(started_at_a_character > 500, "{started_at_a_character}");
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
