//! A set of code points, asked by one load.

use crate::skip::skip;
use crate::unicode::CODE_POINTS;

/// Any set of code points, built once from ranges.
pub struct CodePointSet {
    /// A bit for each code point.
    bits: Vec<u64>,
    /// The first and the last ASCII character in the set; the other way round if there is none.
    ascii_range: (u8, u8),
}

impl CodePointSet {
    /// The union of ranges with both ends included; they may overlap and come in any order.
    pub fn new(ranges: &[(u32, u32)]) -> Self {
        let mut bits = vec![0; (CODE_POINTS / 64) as usize];
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable();
        // Sorted, so that no code point is visited twice however often the ranges overlap.
        let mut next = 0;
        for (first, last) in ranges {
            for c in first.max(next)..(last + 1).min(CODE_POINTS) {
                bits[(c / 64) as usize] |= 1 << (c % 64);
                next = c + 1;
            }
        }
        let set = Self { bits, ascii_range: (127, 0) };
        let mut ascii = (0..128).filter(|&c| set.contains(u32::from(c)));
        let first = ascii.next();
        let ascii_range = first.map_or((127, 0), |first| (first, ascii.last().unwrap_or(first)));
        Self { ascii_range, ..set }
    }

    /// Whether the set has a code point below 0x110000.
    #[inline(always)]
    pub fn contains(&self, code_point: u32) -> bool {
        self.bits[(code_point / 64) as usize] >> (code_point % 64) & 1 == 1
    }

    /// Where the first code point of the set may be, at or after `at`: passes over vectors of bytes
    /// that are ASCII and not in the set.
    #[inline]
    pub fn skip(&self, text: &[u8], at: usize) -> usize {
        let (first, last) = self.ascii_range;
        skip(text, at, |byte| (byte >= 0x80) | ((byte >= first) & (byte <= last)))
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
