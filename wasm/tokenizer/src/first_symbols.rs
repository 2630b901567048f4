//! Where merging starts: at whole characters where that gives the same result as starting at bytes.
//!
//! A character's bytes merge with each other as if nothing stood beside it, unless some token has a
//! part of a character next to a part of another. So its outcome can be looked up, which leaves a
//! third of the symbols in Chinese text. The argument: if every merge comes after those that make
//! its two halves, merging by lowest rank is the same as carrying out the merges rank by rank.
//! Merges inside a character involve nothing outside it, and a merge of whole characters has a
//! higher rank than all merges that completed them, so it finds them complete in either order.

use crate::unicode::code_point_at;

/// Marks a byte or character without a token.
pub const NO_ID: u32 = u32::MAX;

/// The table reaches to the last character of three bytes.
const CHARACTERS: usize = 0x1_0000;

/// The symbols that a piece's merging starts from.
pub struct FirstSymbols {
    /// The id of each byte's token; bytes that never occur in UTF-8 may have none.
    byte_ids: [u32; 256],
    /// The id of each character that becomes one token by itself, else [`NO_ID`]; may be empty.
    character_ids: Vec<u32>,
    /// Bit `before * 256 + after`: a token has these bytes around a boundary of two characters, one
    /// of which it has a part of only.
    torn: Vec<u64>,
}

impl FirstSymbols {
    /// Starts at bytes always.
    pub fn bytes(byte_ids: [u32; 256]) -> Self {
        Self { byte_ids, character_ids: Vec::new(), torn: vec![0; 1024] }
    }

    /// Notes that merging may join the parts of characters that this token joins.
    pub fn note_token(&mut self, spelling: &[u8]) {
        let mut parts = Parts { spelling, at: 0 };
        let Some(mut before) = parts.next() else { return };
        for after in parts {
            if !(is_whole(before) && is_whole(after)) {
                let bit = boundary(before[before.len() - 1], after[0]);
                self.torn[bit / 64] |= 1 << (bit % 64);
            }
            before = after;
        }
    }

    /// Notes what merging makes of a character by itself.
    pub fn note_character(&mut self, character: &[u8], id: u32) {
        self.character_ids.resize(CHARACTERS, NO_ID);
        let (code_point, _) = code_point_at(character, 0);
        if let Some(entry) = self.character_ids.get_mut(code_point as usize) {
            *entry = id;
        }
    }

    /// Appends the symbols of a piece, bytes of valid UTF-8.
    pub fn append(&self, piece: &[u8], symbols: &mut Vec<u32>) {
        if self.character_ids.is_empty() || piece.is_ascii() {
            symbols.extend(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
            return;
        }
        let mut at = 0;
        let mut torn_before = false;
        while at < piece.len() {
            let (code_point, width) = code_point_at(piece, at);
            let after = at + width;
            let torn_after = after < piece.len() && self.is_torn(piece[after - 1], piece[after]);
            let id = self.character_ids.get(code_point as usize).copied().unwrap_or(NO_ID);
            if width > 1 && id != NO_ID && !torn_before && !torn_after {
                symbols.push(id);
            } else {
                symbols.extend(piece[at..after].iter().map(|&b| self.byte_ids[usize::from(b)]));
            }
            torn_before = torn_after;
            at = after;
        }
    }

    #[inline]
    fn is_torn(&self, before: u8, after: u8) -> bool {
        let bit = boundary(before, after);
        self.torn[bit / 64] >> (bit % 64) & 1 == 1
    }
}

fn boundary(before: u8, after: u8) -> usize {
    usize::from(before) << 8 | usize::from(after)
}

/// How many bytes a character with this first byte has; 0 for a continuation byte.
fn width_of(lead: u8) -> usize {
    match lead {
        0..=0x7f => 1,
        0x80..=0xbf => 0,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    }
}

/// Whether a part of a token is a whole character.
fn is_whole(part: &[u8]) -> bool {
    width_of(part[0]) == part.len()
}

/// The parts of a token's bytes: characters, and pieces of characters at its ends.
struct Parts<'a> {
    spelling: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let lead = *self.spelling.get(start)?;
        let most = match width_of(lead) {
            0 => usize::MAX,
            width => width,
        };
        let rest = self.spelling[start + 1..].iter();
        let continuations = rest.take_while(|&&byte| width_of(byte) == 0).count();
        self.at = start + 1 + continuations.min(most - 1);
        Some(&self.spelling[start..self.at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(spelling: &[u8]) -> Vec<&[u8]> {
        Parts { spelling, at: 0 }.collect()
    }

    #[test]
    fn a_token_falls_into_characters_and_pieces_of_characters() {
        assert_eq!(parts("a中é".as_bytes()), ["a".as_bytes(), "中".as_bytes(), "é".as_bytes()]);
        assert_eq!(parts(b"\xb8\xad\xe4\xb8"), [&b"\xb8\xad"[..], &b"\xe4\xb8"[..]]);
        assert_eq!(parts(b"\xc3\xa9\xa9"), [&b"\xc3\xa9"[..], &b"\xa9"[..]]);
        assert!(parts(b"").is_empty());
    }

    #[test]
    fn characters_beside_a_torn_boundary_start_as_bytes() {
        let mut first = FirstSymbols::bytes(std::array::from_fn(|byte| byte as u32));
        first.note_character("中".as_bytes(), 500);
        // 中 is e4 b8 ad. This token has a whole 中 and the first byte of the next character.
        first.note_token(b"\xe4\xb8\xad\xe5");
        let symbols = |text: &str| {
            let mut symbols = Vec::new();
            first.append(text.as_bytes(), &mut symbols);
            symbols
        };
        assert_eq!(symbols("中中a"), [500, 500, 97]);
        assert_eq!(symbols("中中国"), [500, 0xe4, 0xb8, 0xad, 0xe5, 0x9b, 0xbd]);
        assert_eq!(symbols("文中"), [0xe6, 0x96, 0x87, 500]);
    }
}
