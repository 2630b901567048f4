//! Byte-pair merging: of all adjacent pairs, the one of lowest rank merges first, the leftmost of
//! equals; until no pair merges.

use crate::first_symbols::FirstSymbols;
use crate::long_merge::LongMerge;
use crate::pair_table::PairTable;
use crate::short_merge::{ShortMerge, LONGEST_SHORT};

/// How much work merging has been; both grow at most linearly with the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Pairs that became one symbol.
    pub merges: u64,
    /// Pairs looked at to find the lowest rank: scanned, or pushed to and popped from the heap.
    pub queue_operations: u64,
}

/// The merges of a vocabulary, and the memory they work in.
pub struct Bpe {
    first_symbols: FirstSymbols,
    pairs: PairTable,
    /// The piece at hand before merging.
    symbols: Vec<u32>,
    short_merge: ShortMerge,
    long_merge: LongMerge,
    work: Work,
}

impl Bpe {
    pub fn new(first_symbols: FirstSymbols, pairs: PairTable) -> Self {
        Self {
            first_symbols,
            pairs,
            symbols: Vec::new(),
            short_merge: ShortMerge::new(),
            long_merge: LongMerge::default(),
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
        let Self { first_symbols, pairs, symbols, short_merge, long_merge, work } = self;
        symbols.clear();
        first_symbols.append(piece, symbols);
        if symbols.len() <= LONGEST_SHORT {
            short_merge.merge(pairs, symbols, ids, work);
        } else {
            long_merge.merge(pairs, symbols, ids, work);
        }
    }
}

fn is_one_character(spelling: &[u8]) -> bool {
    std::str::from_utf8(spelling).is_ok_and(|text| text.chars().count() == 1)
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
    fn short_and_long_merging_agree_with_the_definition() {
        let mut seed = 0x1234_5678_9abc_def1;
        for round in 0..60 {
            let merges = random_merges(&mut seed, 1 + round % 40);
            let mut bpe = bpe(&merges);
            for length in [0, 1, 2, 3, 5, 17, 63, 64, 65, 127, 128, 129] {
                let letters = 1 + next_random(&mut seed) % 5;
                let piece: Vec<u8> =
                    (0..length).map(|_| 97 + (next_random(&mut seed) % letters) as u8).collect();
                let expected = encode_naively(&merges, &piece);
                let symbols: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
                let Bpe { pairs, short_merge, long_merge, work, .. } = &mut bpe;
                if symbols.len() <= LONGEST_SHORT {
                    let mut ids = Vec::new();
                    short_merge.merge(pairs, &symbols, &mut ids, work);
                    assert_eq!(ids, expected, "{merges:?} {piece:?}");
                }
                if !symbols.is_empty() {
                    let mut ids = Vec::new();
                    long_merge.merge(pairs, &symbols, &mut ids, work);
                    assert_eq!(ids, expected, "{merges:?} {piece:?}");
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
