//! A set of code points, asked by two loads.

use crate::unicode::CODE_POINTS;

const BLOCK: u32 = 256;

/// Any set of code points, built once from ranges.
pub struct CodePointSet {
    ascii: [bool; 128],
    /// The first and the last ASCII character in the set; the other way round if there is none.
    ascii_range: (u8, u8),
    /// Which block serves a code point's upper bits.
    block_of: Vec<u16>,
    /// Bits of 256 code points; equal blocks are stored once.
    blocks: Vec<[u64; 4]>,
}

impl CodePointSet {
    /// The union of ranges with both ends included; they may overlap and come in any order.
    pub fn new(ranges: &[(u32, u32)]) -> Self {
        let mut bits = vec![[0u64; 4]; (CODE_POINTS / BLOCK) as usize];
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable();
        // Sorted, so that no code point is visited twice however often the ranges overlap.
        let mut next = 0;
        for (first, last) in ranges {
            for c in first.max(next)..(last + 1).min(CODE_POINTS) {
                bits[(c / BLOCK) as usize][(c % BLOCK / 64) as usize] |= 1 << (c % 64);
                next = c + 1;
            }
        }
        let mut blocks: Vec<[u64; 4]> = vec![[0; 4], [u64::MAX; 4]];
        let mut block_of = Vec::with_capacity(bits.len());
        for block in bits {
            let known = blocks.iter().position(|other| *other == block);
            block_of.push(known.unwrap_or(blocks.len()) as u16);
            if known.is_none() {
                blocks.push(block);
            }
        }
        let mut set = Self { ascii: [false; 128], ascii_range: (127, 0), block_of, blocks };
        set.ascii = std::array::from_fn(|c| set.in_blocks(c as u32));
        for c in (0..128).filter(|&c| set.ascii[usize::from(c)]) {
            set.ascii_range = (set.ascii_range.0.min(c), c);
        }
        set
    }

    /// Whether the set has a code point below 0x110000.
    #[inline(always)]
    pub fn contains(&self, code_point: u32) -> bool {
        match self.ascii.get(code_point as usize) {
            Some(&contained) => contained,
            None => self.in_blocks(code_point),
        }
    }

    /// Where the first code point of the set may be, at or after `at`: passes over vectors of bytes
    /// that are ASCII and not in the set.
    #[inline]
    pub fn skip(&self, text: &[u8], at: usize) -> usize {
        let (first, last) = self.ascii_range;
        let may_be = |&byte: &u8| (byte >= 0x80) | ((byte >= first) & (byte <= last));
        let vectors = text[at..].chunks_exact(16);
        let skipped =
            vectors.take_while(|bytes| !bytes.iter().fold(false, |any, b| any | may_be(b)));
        at + 16 * skipped.count()
    }

    #[inline]
    fn in_blocks(&self, c: u32) -> bool {
        let block = &self.blocks[self.block_of[(c / BLOCK) as usize] as usize];
        block[(c % BLOCK / 64) as usize] >> (c % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_exactly_the_code_points_of_its_ranges() {
        let ranges =
            [(0x41, 0x5a), (0x50, 0x7f), (0xff, 0x100), (0x4e00, 0x9fa5), (0x10ffff, 0x10ffff)];
        let set = CodePointSet::new(&ranges);
        for c in 0..CODE_POINTS {
            let expected = ranges.iter().any(|&(first, last)| (first..=last).contains(&c));
            assert_eq!(set.contains(c), expected, "{c:#x}");
        }
    }

    #[test]
    fn skipping_passes_over_nothing_that_the_set_has() {
        let text: String = (0..0x300).filter_map(char::from_u32).collect::<String>().repeat(2);
        for ranges in
            [&[(0x30, 0x39), (0xb2, 0xb3)][..], &[(0x41, 0x41), (0x7a, 0x7a)], &[(0xff, 0x100)]]
        {
            let set = CodePointSet::new(ranges);
            for (at, _) in text.char_indices() {
                let skipped = &text[at..set.skip(text.as_bytes(), at)];
                assert!(skipped.is_ascii() && !skipped.chars().any(|c| set.contains(c as u32)));
            }
        }
        let digits = CodePointSet::new(&[(0x30, 0x39)]);
        assert_eq!(digits.skip(&[b'a'; 40], 3), 35);
    }
}
