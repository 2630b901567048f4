//! Numbered byte slices in one allocation, and a hash table that finds a slice's number.

/// Byte slices, numbered from 0 in the order they were pushed.
#[derive(Default)]
pub struct Slices {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Slices {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn push(&mut self, slice: &[u8]) {
        self.bytes.extend_from_slice(slice);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Slice number `index`, or `None` past the last.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&[u8]> {
        let end = *self.ends.get(index as usize)?;
        let start = if index == 0 { 0 } else { self.ends[index as usize - 1] };
        self.bytes.get(start as usize..end as usize)
    }
}

/// The slots an insertion may look at. Tables are at most half full, so honest keys need a few
/// dozen; more means keys made to collide, and a reader that would take quadratic time.
pub const MOST_PROBES: usize = 512;

const EMPTY: u64 = u64::MAX;

/// Open addressing over the numbers of slices, half full at most.
pub struct SliceTable {
    /// Upper half of the slice's hash, then its number; or `EMPTY`. Numbers are below `u32::MAX`.
    slots: Vec<u64>,
}

/// What [`SliceTable::insert`] met.
#[derive(Debug, PartialEq, Eq)]
pub enum Inserted {
    New,
    /// An equal slice is there already, under this number.
    Equal(u32),
    /// The keys collide so much that they must have been chosen for it.
    TooManyCollisions,
}

impl SliceTable {
    pub fn with_capacity(count: usize) -> Self {
        Self { slots: vec![EMPTY; (count * 2).next_power_of_two().max(2)] }
    }

    /// Adds slice number `index` of `slices`.
    pub fn insert(&mut self, slices: &Slices, index: u32) -> Inserted {
        let Some(key) = slices.get(index) else { return Inserted::New };
        let mask = self.slots.len() - 1;
        let hash = hash(key);
        let mut slot = hash as usize & mask;
        for _ in 0..MOST_PROBES {
            let found = self.slots[slot];
            if found == EMPTY {
                self.slots[slot] = tagged(hash, index);
                return Inserted::New;
            }
            let other = found as u32;
            if found == tagged(hash, other)
                && slices.get(other).is_some_and(|other| equal(other, key))
            {
                return Inserted::Equal(other);
            }
            slot = (slot + 1) & mask;
        }
        Inserted::TooManyCollisions
    }

    /// The number of the slice equal to `key`.
    #[inline]
    pub fn find(&self, slices: &Slices, key: &[u8]) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let hash = hash(key);
        let mut slot = hash as usize & mask;
        loop {
            let found = self.slots[slot];
            if found == EMPTY {
                return None;
            }
            let index = found as u32;
            if found == tagged(hash, index)
                && slices.get(index).is_some_and(|other| equal(other, key))
            {
                return Some(index);
            }
            slot = (slot + 1) & mask;
        }
    }
}

#[inline]
fn tagged(hash: u64, index: u32) -> u64 {
    hash >> 32 << 32 | u64::from(index)
}

/// Multiply-and-fold over 8-byte words, of which the last may overlap the one before; the length is
/// mixed in, as shorter keys are read into one word.
#[inline]
fn hash(key: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = key.len() as u64;
    if key.len() > 8 {
        for word in key.chunks_exact(8) {
            state = (state ^ word_of(word)).wrapping_mul(FACTOR);
            state ^= state >> 29;
        }
        state ^= word_of(&key[key.len() - 8..]);
    } else {
        state ^= word_of(key).rotate_left(8);
    }
    state = state.wrapping_mul(FACTOR);
    state ^= state >> 32;
    state = state.wrapping_mul(0xd6e8_feb8_6659_fd93);
    state ^ state >> 32
}

/// Whether two slices are equal; for short ones faster than the memcmp that WebAssembly gets.
#[inline]
fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.len() <= 8 {
        return word_of(a) == word_of(b);
    }
    let mut words = a.chunks_exact(8).zip(b.chunks_exact(8));
    words.all(|(a, b)| word_of(a) == word_of(b))
        && word_of(&a[a.len() - 8..]) == word_of(&b[b.len() - 8..])
}

/// All bytes of a slice of at most 8, in one word; slices of one length are equal if their words are.
#[inline]
pub fn word_of(slice: &[u8]) -> u64 {
    let half = |at: usize| {
        u64::from(u32::from_le_bytes([slice[at], slice[at + 1], slice[at + 2], slice[at + 3]]))
    };
    match slice.len() {
        0 => 0,
        length @ 1..=3 => {
            let byte = |at: usize| u64::from(slice[at]);
            byte(0) | byte(length / 2) << 8 | byte(length - 1) << 16
        }
        length => half(0) | half(length - 4) << 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_looks_at_every_byte() {
        for length in 0..40 {
            let key: Vec<u8> = (0..length).collect();
            assert!(equal(&key, &key.clone()));
            for at in 0..key.len() {
                let mut other = key.clone();
                other[at] ^= 0x80;
                assert!(!equal(&key, &other), "{length} {at}");
                assert_ne!(hash(&key), hash(&other), "{length} {at}");
            }
            assert!(!equal(&key, &[&key[..], &[0]].concat()));
        }
    }

    #[test]
    fn finds_each_slice_and_nothing_else() {
        let mut slices = Slices::default();
        for number in 0..5000u32 {
            slices.push(number.to_string().as_bytes());
        }
        let mut table = SliceTable::with_capacity(slices.len());
        for index in 0..5000 {
            assert_eq!(table.insert(&slices, index), Inserted::New);
        }
        for number in 0..5000 {
            assert_eq!(table.find(&slices, number.to_string().as_bytes()), Some(number));
        }
        for absent in ["", "5000", "00", "0\0", "12345678901"] {
            assert_eq!(table.find(&slices, absent.as_bytes()), None);
        }
        slices.push(b"77");
        assert_eq!(table.insert(&slices, 5000), Inserted::Equal(77));
    }
}
