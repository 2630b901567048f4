//! What pieces that came before became. Text repeats its words: most pieces are answered from here,
//! by one load from a table small enough for the processor's cache.

use crate::slices::word_of;

/// Bytes of the longest piece that is kept.
const LONGEST: usize = 16;

/// Ids of a piece that is kept; with three an entry takes half a line of the processor's cache.
const MOST_IDS: usize = 3;

/// Entries, each at the place that the piece's hash says; the latest stays.
const ENTRY_BITS: u32 = 14;

/// A piece of at most [`LONGEST`] bytes: its length, its first and its last bytes, all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    first: u64,
    last: u64,
    length: u16,
}

impl Key {
    /// `None` for a piece that is longer.
    #[inline]
    pub fn of(piece: &[u8]) -> Option<Self> {
        let length = piece.len() as u16;
        match piece.len() {
            0..=8 => Some(Self { first: word_of(piece), last: 0, length }),
            9..=LONGEST => {
                let (first, last) = (&piece[..8], &piece[piece.len() - 8..]);
                Some(Self { first: word_of(first), last: word_of(last), length })
            }
            _ => None,
        }
    }

    #[inline]
    fn place(self) -> usize {
        let mixed = self.first ^ self.last.rotate_left(29) ^ u64::from(self.length);
        let hash = (mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> (64 - ENTRY_BITS)) as usize
    }
}

/// A piece and its ids. No piece is empty, hence the entry of the empty key is free.
#[derive(Clone, Copy, Default)]
struct Entry {
    key: Key,
    count: u16,
    ids: [u32; MOST_IDS],
}

/// The latest short pieces and their ids.
pub struct PieceCache {
    entries: Vec<Entry>,
}

impl PieceCache {
    pub fn new() -> Self {
        Self { entries: vec![Entry::default(); 1 << ENTRY_BITS] }
    }

    /// The ids of a piece that is kept.
    #[inline]
    pub fn find(&self, key: Key) -> Option<&[u32]> {
        let entry = &self.entries[key.place()];
        (entry.key == key).then(|| &entry.ids[..usize::from(entry.count)])
    }

    /// Keeps a piece, unless it became too many ids.
    pub fn keep(&mut self, key: Key, ids: &[u32]) {
        if ids.len() <= MOST_IDS {
            let mut entry = Entry { key, count: ids.len() as u16, ids: [0; MOST_IDS] };
            entry.ids[..ids.len()].copy_from_slice(ids);
            self.entries[key.place()] = entry;
        }
    }
}

impl Default for PieceCache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_ids_of_exactly_the_piece_that_was_kept() {
        for length in 1..=LONGEST {
            let piece: Vec<u8> = (0..length as u8).collect();
            let key = Key::of(&piece).expect("a short piece");
            let mut cache = PieceCache::new();
            cache.keep(key, &[7, 8]);
            assert_eq!(cache.find(key), Some(&[7, 8][..]));
            for at in 0..length {
                let mut other = piece.clone();
                other[at] ^= 0x80;
                assert_ne!(Key::of(&other), Some(key), "{length} {at}");
            }
            let longer = [&piece[..], &[0]].concat();
            assert_ne!(Key::of(&longer), Some(key), "{length}");
        }
        assert_eq!(Key::of(&[0; LONGEST + 1]), None);
    }

    #[test]
    fn a_later_piece_takes_the_place_and_the_earlier_is_forgotten() {
        let keys: Vec<Key> = (0..100_000u32)
            .map(|number| Key::of(number.to_string().as_bytes()).expect("a short piece"))
            .collect();
        let other =
            keys[1..].iter().find(|key| key.place() == keys[0].place()).expect("one of many");
        let mut cache = PieceCache::new();
        cache.keep(keys[0], &[1]);
        cache.keep(*other, &[2]);
        assert_eq!((cache.find(keys[0]), cache.find(*other)), (None, Some(&[2][..])));
    }

    #[test]
    fn a_piece_of_many_ids_is_not_kept() {
        let key = Key::of(b"abcd").expect("a short piece");
        let mut cache = PieceCache::new();
        cache.keep(key, &[1, 2, 3, 4]);
        assert_eq!(cache.find(key), None);
    }
}
