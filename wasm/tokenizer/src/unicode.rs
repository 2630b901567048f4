//! Unicode properties as the engines inside Hugging Face `tokenizers` define them, and UTF-8 reading.

use crate::unicode_tables::{CLASSES, NUMERIC, WORD};

/// Number of code points, surrogates included.
pub const CODE_POINTS: u32 = 0x11_0000;

/// The classes that split patterns tell apart. `\s` is disjoint from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    Other = 0,
    Letter = 1,
    Mark = 2,
    Number = 3,
    Punctuation = 4,
    Symbol = 5,
    Space = 6,
}

/// The class of every code point, by two loads.
pub struct ClassTable {
    /// Which block of 256 labels serves a code point's upper bits.
    block_of: Vec<u8>,
    blocks: Vec<[u8; 256]>,
}

impl ClassTable {
    pub fn new() -> Self {
        let mut block_of = Vec::with_capacity(CODE_POINTS as usize / 256);
        let mut blocks: Vec<[u8; 256]> = Vec::new();
        let mut block = [0u8; 256];
        let mut next = 0;
        let mut label = 0;
        for code_point in 0..CODE_POINTS {
            while next < CLASSES.len() && CLASSES[next] >> 3 == code_point {
                label = (CLASSES[next] & 7) as u8;
                next += 1;
            }
            block[(code_point & 255) as usize] = label;
            if code_point & 255 == 255 {
                // Equal blocks lie close together (ideographs, Hangul, unassigned planes).
                let known = blocks.iter().rposition(|other| *other == block);
                block_of.push(known.unwrap_or(blocks.len()) as u8);
                if known.is_none() {
                    blocks.push(block);
                }
            }
        }
        debug_assert!(blocks.len() <= 256);
        Self { block_of, blocks }
    }

    /// The class of a code point below [`CODE_POINTS`].
    #[inline(always)]
    pub fn class(&self, code_point: u32) -> Class {
        let block = self.block_of[(code_point >> 8) as usize];
        match self.blocks[block as usize][(code_point & 255) as usize] {
            1 => Class::Letter,
            2 => Class::Mark,
            3 => Class::Number,
            4 => Class::Punctuation,
            5 => Class::Symbol,
            6 => Class::Space,
            _ => Class::Other,
        }
    }
}

impl Default for ClassTable {
    fn default() -> Self {
        Self::new()
    }
}

/// The ranges, both ends included, of the code points with a class.
pub fn ranges_of(class: Class) -> Vec<(u32, u32)> {
    labelled_ranges(&CLASSES, class as u32)
}

/// The ranges, both ends included, where Rust's `char::is_numeric` holds: Hugging Face's `Digits`.
pub fn numeric_ranges() -> Vec<(u32, u32)> {
    labelled_ranges(&NUMERIC, 1)
}

fn labelled_ranges(table: &[u32], label: u32) -> Vec<(u32, u32)> {
    let end_of = |index: usize| table.get(index + 1).map_or(CODE_POINTS, |next| next >> 3);
    (0..table.len())
        .filter(|&index| table[index] & 7 == label)
        .map(|index| (table[index] >> 3, end_of(index) - 1))
        .collect()
}

/// `\w` of Rust's regex crate: the word characters around which `single_word` tokens do not match.
pub fn is_word(code_point: u32) -> bool {
    let after = WORD.partition_point(|entry| entry >> 3 <= code_point);
    after > 0 && WORD[after - 1] & 7 == 1
}

/// `\s`: the property White_Space, which all three engines agree on.
#[inline]
pub fn is_space(code_point: u32) -> bool {
    match code_point {
        0..=0x7f => matches!(code_point, 0x09..=0x0d | 0x20),
        _ => matches!(
            code_point,
            0x85 | 0xa0 | 0x1680 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000
        ),
    }
}

/// The code point at a boundary of valid UTF-8, and its length in bytes.
#[inline(always)]
pub fn code_point_at(text: &[u8], at: usize) -> (u32, usize) {
    let continuation = |offset: usize| u32::from(text[at + offset] & 0x3f);
    let lead = u32::from(text[at]);
    match lead {
        0..=0x7f => (lead, 1),
        0x80..=0xdf => ((lead & 0x1f) << 6 | continuation(1), 2),
        0xe0..=0xef => ((lead & 0x0f) << 12 | continuation(1) << 6 | continuation(2), 3),
        _ => {
            let upper = (lead & 0x07) << 18 | continuation(1) << 12;
            (upper | continuation(2) << 6 | continuation(3), 4)
        }
    }
}

/// The code point that ends at a boundary `end` > 0 of valid UTF-8, and its length in bytes.
pub fn code_point_before(text: &[u8], end: usize) -> (u32, usize) {
    let mut start = end - 1;
    while text[start] & 0xc0 == 0x80 {
        start -= 1;
    }
    code_point_at(text, start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_utf8_agrees_with_the_standard_library_on_every_code_point() {
        for c in (0..CODE_POINTS).filter_map(char::from_u32) {
            let mut buffer = [0u8; 4];
            let text = c.encode_utf8(&mut buffer).as_bytes();
            assert_eq!(code_point_at(text, 0), (c as u32, c.len_utf8()));
            assert_eq!(code_point_before(text, text.len()), (c as u32, c.len_utf8()));
        }
    }

    #[test]
    fn space_is_the_white_space_property_on_every_code_point() {
        let classes = ClassTable::new();
        for c in (0..CODE_POINTS).filter_map(char::from_u32) {
            assert_eq!(is_space(c as u32), c.is_whitespace(), "{c:?}");
            assert_eq!(classes.class(c as u32) == Class::Space, c.is_whitespace(), "{c:?}");
        }
    }

    #[test]
    fn classes_of_well_known_characters() {
        let classes = ClassTable::new();
        let of = |c: char| classes.class(c as u32);
        assert_eq!(of('é'), Class::Letter);
        assert_eq!(of('中'), Class::Letter);
        assert_eq!(of('\u{301}'), Class::Mark);
        assert_eq!(of('٣'), Class::Number);
        assert_eq!(of('½'), Class::Number);
        assert_eq!(of('。'), Class::Punctuation);
        assert_eq!(of('€'), Class::Symbol);
        assert_eq!(of('\u{a0}'), Class::Space);
        assert_eq!(of('\u{200d}'), Class::Other);
        assert_eq!(of('\u{e000}'), Class::Other);
    }

    #[test]
    fn word_characters_include_marks_and_joiners() {
        for c in ['a', 'é', '中', '_', '7', '\u{301}', '\u{200d}', '\u{24b6}'] {
            assert!(is_word(c as u32), "{c:?}");
        }
        for c in [' ', '-', '½', '€', '\u{0}'] {
            assert!(!is_word(c as u32), "{c:?}");
        }
    }
}
