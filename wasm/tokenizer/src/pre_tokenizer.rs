//! Sequential splits: each stage splits every piece of the stage before it.

use crate::splitter::Splitter;

/// The stages in order; what a stage matches and what lies between are pieces alike ("Isolated").
pub struct PreTokenizer {
    stages: Vec<Splitter>,
}

impl PreTokenizer {
    pub fn new(stages: Vec<Splitter>) -> Self {
        Self { stages }
    }

    /// Calls `emit` with each piece of `text` in order; no piece is empty.
    pub fn split(&self, text: &str, emit: &mut impl FnMut(&[u8])) {
        split(&self.stages, text.as_bytes(), emit);
    }
}

fn split(stages: &[Splitter], text: &[u8], emit: &mut impl FnMut(&[u8])) {
    let mut pass_on = |later: &[Splitter], piece: &[u8]| {
        if !later.is_empty() {
            split(later, piece, emit);
        } else if !piece.is_empty() {
            emit(piece);
        }
    };
    let Some((stage, later)) = stages.split_first() else { return pass_on(&[], text) };
    let mut from = 0;
    while let Some(found) = stage.find(text, from) {
        if found.start > from {
            pass_on(later, &text[from..found.start]);
        }
        from = found.end;
        pass_on(later, &text[found]);
    }
    if from < text.len() {
        pass_on(later, &text[from..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split_pattern::parse;

    fn pieces(patterns: &[&str], text: &str) -> Vec<String> {
        let stages = patterns.iter().map(|pattern| parse(pattern).expect(pattern)).collect();
        let mut pieces = Vec::new();
        PreTokenizer::new(stages).split(text, &mut |piece| {
            pieces.push(String::from_utf8(piece.to_vec()).expect("a split at a boundary"));
        });
        pieces
    }

    // Expected pieces are those of Hugging Face `tokenizers` 0.23.3 with the same patterns.

    #[test]
    fn a_later_stage_sees_the_pieces_of_the_earlier() {
        let stages = ["[\r\n]", r"\s?[A-Za-z]+", r"\s?[!-/:-~]+", r"\s+$", "[0-9]"];
        let text = "Hi  there, you.  \n  12 x\t";
        let expected =
            ["Hi", " ", " there", ",", " you", ".", "  ", "\n", "  ", "1", "2", " x", "\t"];
        assert_eq!(pieces(&stages, text), expected);
    }

    #[test]
    fn numbers_ideographs_and_words_are_split_in_turn() {
        let stages = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", crate::words::PATTERN];
        let text = "In 12345日本語・カナabc 7th";
        let expected = ["In", " ", "123", "45", "日本語", "・", "カナ", "abc", " ", "7", "th"];
        assert_eq!(pieces(&stages, text), expected);
    }

    #[test]
    fn no_text_has_no_pieces() {
        assert_eq!(pieces(&["[a]"], ""), [""; 0]);
        assert_eq!(pieces(&[], "ab"), ["ab"]);
    }
}
