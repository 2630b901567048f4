//! The short cut for pieces that are one token: found by one look-up, without merging.
//!
//! Merging decides whether a piece that spells a token becomes that token (it need not). It decides
//! the same every time, so what it decided once per token is kept.

use crate::slices::{Inserted, SliceTable, Slices};

/// Upper bits of an entry: what merging makes of the spelling. Ids are below 2^20.
const UNKNOWN: u32 = 0;
const WHOLE: u32 = 1 << 30;
const SPLIT: u32 = 2 << 30;
const VERDICT: u32 = 3 << 30;

/// What is known of a piece before merging.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// It becomes this one token.
    Token(u32),
    /// It spells this token; what merging makes of it is to be [`WholePieces::learn`]ed.
    Candidate(u32),
    /// It must be merged.
    Nothing,
}

/// The tokens by the bytes they spell.
pub struct WholePieces {
    spellings: Slices,
    /// The id of each spelling, with its verdict above.
    entries: Vec<u32>,
    table: SliceTable,
    longest: usize,
    ignore_merges: bool,
}

impl WholePieces {
    /// `ignore_merges`: a piece that spells a token is that token, whatever merging would say.
    pub fn with_capacity(count: usize, ignore_merges: bool) -> Self {
        Self {
            spellings: Slices::default(),
            entries: Vec::with_capacity(count),
            table: SliceTable::with_capacity(count),
            longest: 0,
            ignore_merges,
        }
    }

    /// Adds a token; false where its spelling collides with too many others.
    #[must_use]
    pub fn push(&mut self, spelling: &[u8], id: u32) -> bool {
        self.spellings.push(spelling);
        self.entries.push(id | if self.ignore_merges { WHOLE } else { UNKNOWN });
        self.longest = self.longest.max(spelling.len());
        self.table.insert(&self.spellings, self.entries.len() as u32 - 1)
            != Inserted::TooManyCollisions
    }

    /// The bytes of every token.
    pub fn spellings(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.entries.len() as u32).filter_map(|index| self.spellings.get(index))
    }

    /// What is known of a piece.
    #[inline]
    pub fn look_up(&self, piece: &[u8]) -> Known {
        if piece.len() > self.longest {
            return Known::Nothing;
        }
        let Some(index) = self.table.find(&self.spellings, piece) else { return Known::Nothing };
        let entry = self.entries[index as usize];
        match entry & VERDICT {
            WHOLE => Known::Token(entry & !VERDICT),
            UNKNOWN => Known::Candidate(index),
            _ => Known::Nothing,
        }
    }

    /// Keeps what merging made of a candidate.
    pub fn learn(&mut self, candidate: u32, merged: &[u32]) {
        let entry = &mut self.entries[candidate as usize];
        let id = *entry & !VERDICT;
        *entry = id | if merged == [id] { WHOLE } else { SPLIT };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_settled_by_what_merging_made_of_it() {
        let mut pieces = WholePieces::with_capacity(2, false);
        assert!(pieces.push(b"the", 7) && pieces.push(b"hte", 9));
        assert_eq!(pieces.look_up(b"the"), Known::Candidate(0));
        pieces.learn(0, &[7]);
        assert_eq!(pieces.look_up(b"the"), Known::Token(7));
        pieces.learn(1, &[3, 9]);
        assert_eq!(pieces.look_up(b"hte"), Known::Nothing);
        assert_eq!(pieces.look_up(b"then"), Known::Nothing);
    }

    #[test]
    fn with_ignore_merges_every_spelling_is_its_token() {
        let mut pieces = WholePieces::with_capacity(1, true);
        assert!(pieces.push(b"the", 7));
        assert_eq!(pieces.look_up(b"the"), Known::Token(7));
    }
}
