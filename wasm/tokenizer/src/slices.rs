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
            if found == tagged(hash, other) && slices.get(other) == Some(key) {
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
            if found == tagged(hash, index) && slices.get(index) == Some(key) {
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

/// Multiply-and-fold over 8-byte words; the length is mixed in, so that zero bytes count.
#[inline]
fn hash(key: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = key.len() as u64;
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes([
            word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
        ]);
        state = (state ^ word).wrapping_mul(FACTOR);
        state ^= state >> 29;
    }
    let tail = words.remainder().iter().rev().fold(0, |tail, &byte| tail << 8 | u64::from(byte));
    state = (state ^ tail).wrapping_mul(FACTOR);
    state ^ state >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

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
