//! The short cut for pieces that are one token: found by one look-up, without merging.
//!
//! Merging decides whether a piece that spells a token becomes that token (it need not). It decides
//! the same every time, so what it decided once per token is kept.

use crate::slices::{Inserted, SliceTable, Slices};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unknown,
    /// The piece becomes the token that it spells.
    Whole,
    /// Merging stops short of the token or goes another way.
    Split,
}

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
    /// The id of each spelling.
    ids: Vec<u32>,
    table: SliceTable,
    verdicts: Vec<Verdict>,
    longest: usize,
    ignore_merges: bool,
}

impl WholePieces {
    /// `ignore_merges`: a piece that spells a token is that token, whatever merging would say.
    pub fn with_capacity(count: usize, ignore_merges: bool) -> Self {
        Self {
            spellings: Slices::default(),
            ids: Vec::with_capacity(count),
            table: SliceTable::with_capacity(count),
            verdicts: Vec::with_capacity(count),
            longest: 0,
            ignore_merges,
        }
    }

    /// Adds a token; false where its spelling collides with too many others.
    #[must_use]
    pub fn push(&mut self, spelling: &[u8], id: u32) -> bool {
        self.spellings.push(spelling);
        self.ids.push(id);
        self.verdicts.push(if self.ignore_merges { Verdict::Whole } else { Verdict::Unknown });
        self.longest = self.longest.max(spelling.len());
        self.table.insert(&self.spellings, self.ids.len() as u32 - 1) != Inserted::TooManyCollisions
    }

    /// What is known of a piece.
    #[inline]
    pub fn look_up(&self, piece: &[u8]) -> Known {
        if piece.len() > self.longest {
            return Known::Nothing;
        }
        let Some(index) = self.table.find(&self.spellings, piece) else { return Known::Nothing };
        match self.verdicts[index as usize] {
            Verdict::Whole => Known::Token(self.ids[index as usize]),
            Verdict::Unknown => Known::Candidate(index),
            Verdict::Split => Known::Nothing,
        }
    }

    /// Keeps what merging made of a candidate.
    pub fn learn(&mut self, candidate: u32, merged: &[u32]) {
        let whole = merged == [self.ids[candidate as usize]];
        self.verdicts[candidate as usize] = if whole { Verdict::Whole } else { Verdict::Split };
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
