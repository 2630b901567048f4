//! Tokens that are matched as text before anything else, as Hugging Face's `AddedVocabulary` does:
//! leftmost, then longest; first those matched against the raw text, then, in what is left, those
//! matched against the normalized text (which is the same text here, for want of a normalizer).

use std::ops::Range;

use crate::skip::skip;
use crate::unicode::{code_point_at, code_point_before, is_space, is_word};

/// One entry of `added_tokens`.
#[derive(Clone, Debug, Default)]
pub struct AddedToken {
    pub id: u32,
    pub content: String,
    /// Only where no word character touches it.
    pub single_word: bool,
    /// Takes the whitespace before it.
    pub lstrip: bool,
    /// Takes the whitespace after it.
    pub rstrip: bool,
    /// Matched in the second pass.
    pub normalized: bool,
    pub special: bool,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// The added tokens, ready to be found.
pub struct AddedTokens {
    raw: Matcher,
    normalized: Matcher,
}

impl AddedTokens {
    /// `tokens`: contents are distinct and not empty.
    pub fn new(tokens: Vec<AddedToken>) -> Self {
        let (normalized, raw) = tokens.into_iter().partition(|token| token.normalized);
        Self { raw: Matcher::new(raw), normalized: Matcher::new(normalized) }
    }

    /// Calls `emit` with the parts of `text` in order. Without `parse_special`, the text of special
    /// tokens stays text.
    pub fn split<'t>(&self, text: &'t str, parse_special: bool, emit: &mut dyn FnMut(Part<'t>)) {
        self.raw.split(text, parse_special, &mut |part| match part {
            Part::Text(text) => self.normalized.split(text, parse_special, emit),
            token => emit(token),
        });
    }
}

/// The tokens of one pass.
struct Matcher {
    /// Sorted by content.
    tokens: Vec<AddedToken>,
    /// Which of them begin with each byte.
    starting_with: Vec<Range<usize>>,
    /// Whether any of them does.
    may_start: [bool; 256],
    /// Those bytes, some more than once, where they are few.
    few_starts: Option<[u8; 4]>,
}

impl Matcher {
    fn new(mut tokens: Vec<AddedToken>) -> Self {
        tokens.sort_by(|a, b| a.content.cmp(&b.content));
        let first = |token: &AddedToken| token.content.as_bytes().first().copied();
        let starting_with: Vec<Range<usize>> = (0..=255u8)
            .map(|byte| {
                tokens.partition_point(|token| first(token) < Some(byte))
                    ..tokens.partition_point(|token| first(token) <= Some(byte))
            })
            .collect();
        let may_start = std::array::from_fn(|byte| !starting_with[byte].is_empty());
        let starts: Vec<u8> = (0..=255u8).filter(|&byte| may_start[usize::from(byte)]).collect();
        let few_starts = (1..=4)
            .contains(&starts.len())
            .then(|| std::array::from_fn(|index| starts[index.min(starts.len() - 1)]));
        Self { tokens, starting_with, may_start, few_starts }
    }

    /// Where the first byte that a token begins with is, at or after `at`.
    fn next_start(&self, text: &[u8], mut at: usize) -> Option<usize> {
        if let Some([a, b, c, d]) = self.few_starts {
            at = skip(text, at, |byte| (byte == a) | (byte == b) | (byte == c) | (byte == d));
        }
        let found = text[at..].iter().position(|&byte| self.may_start[usize::from(byte)]);
        found.map(|length| at + length)
    }

    fn split<'t>(&self, text: &'t str, parse_special: bool, emit: &mut dyn FnMut(Part<'t>)) {
        let bytes = text.as_bytes();
        let mut emitted = 0;
        let mut at = 0;
        while let Some(start) = self.next_start(bytes, at) {
            at = start;
            let Some(token) = self.longest_at(bytes, at) else {
                at += 1;
                continue;
            };
            let found = at..at + token.content.len();
            // A match that is turned down below still hides shorter and later ones inside it.
            at = found.end;
            if (token.special && !parse_special)
                || (token.single_word && touches_word(bytes, &found))
            {
                continue;
            }
            let start = match token.lstrip {
                true => start_of_space(bytes, emitted, found.start),
                false => found.start,
            };
            if start > emitted {
                emit(Part::Text(&text[emitted..start]));
            }
            emit(Part::Token(token.id));
            // A match inside the whitespace that an earlier one took gives back what follows it.
            emitted = match token.rstrip {
                true => end_of_space(bytes, found.end.max(emitted)),
                false => found.end,
            };
        }
        if emitted < bytes.len() {
            emit(Part::Text(&text[emitted..]));
        }
    }

    /// The longest token whose text begins at `at`, narrowing the sorted tokens byte by byte.
    fn longest_at(&self, text: &[u8], at: usize) -> Option<&AddedToken> {
        let mut range = self.starting_with[usize::from(text[at])].clone();
        let mut longest = None;
        let mut length = 1;
        while !range.is_empty() {
            let shortest = &self.tokens[range.start];
            if shortest.content.len() == length {
                longest = Some(shortest);
                range.start += 1;
            }
            let Some(&byte) = text.get(at + length) else { break };
            let candidates = &self.tokens[range.clone()];
            let byte_of = |token: &AddedToken| token.content.as_bytes()[length];
            let before = candidates.partition_point(|token| byte_of(token) < byte);
            let through = candidates.partition_point(|token| byte_of(token) <= byte);
            range = range.start + before..range.start + through;
            length += 1;
        }
        longest
    }
}

fn touches_word(text: &[u8], found: &Range<usize>) -> bool {
    (found.start > 0 && is_word(code_point_before(text, found.start).0))
        || (found.end < text.len() && is_word(code_point_at(text, found.end).0))
}

fn start_of_space(text: &[u8], from: usize, mut start: usize) -> usize {
    while start > from {
        let (c, width) = code_point_before(text, start);
        if !is_space(c) {
            break;
        }
        start -= width;
    }
    start
}

fn end_of_space(text: &[u8], mut end: usize) -> usize {
    while end < text.len() {
        let (c, width) = code_point_at(text, end);
        if !is_space(c) {
            break;
        }
        end += width;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str) -> AddedToken {
        AddedToken { id, content: content.to_string(), ..AddedToken::default() }
    }

    fn split(tokens: Vec<AddedToken>, text: &str, parse_special: bool) -> Vec<String> {
        let mut parts = Vec::new();
        AddedTokens::new(tokens).split(text, parse_special, &mut |part| {
            parts.push(match part {
                Part::Text(text) => text.to_string(),
                Part::Token(id) => format!("#{id}"),
            });
        });
        parts
    }

    #[test]
    fn the_leftmost_then_the_longest_match_wins() {
        let tokens = || vec![token(1, "<a>"), token(2, "<a>b"), token(3, "a>bc"), token(4, "é")];
        assert_eq!(split(tokens(), "x<a>bc", true), ["x", "#2", "c"]);
        assert_eq!(split(tokens(), "<a>x<ab>é", true), ["#1", "x<ab>", "#4"]);
        assert_eq!(split(tokens(), "", true), [""; 0]);
    }

    #[test]
    fn normalized_tokens_are_found_in_what_the_others_leave() {
        let normalized = AddedToken { normalized: true, ..token(2, "<a><") };
        assert_eq!(split(vec![token(1, "<a>"), normalized.clone()], "<a><a>", true), ["#1", "#1"]);
        assert_eq!(split(vec![normalized], "<a><a>", true), ["#2", "a>"]);
    }

    #[test]
    fn special_text_stays_text_when_asked_to_and_hides_what_it_contains() {
        let special = AddedToken { special: true, ..token(1, "<eos>") };
        let tokens = || vec![special.clone(), token(2, "eos"), token(3, "os")];
        assert_eq!(split(tokens(), "<eos>eos", true), ["#1", "#2"]);
        assert_eq!(split(tokens(), "<eos>eos", false), ["<eos>", "#2"]);
    }

    #[test]
    fn a_single_word_token_matches_only_apart_from_word_characters() {
        let tokens = || vec![AddedToken { single_word: true, ..token(1, "cat") }];
        assert_eq!(split(tokens(), "cat cats acat cat", true), ["#1", " cats acat ", "#1"]);
        assert_eq!(split(tokens(), "-cat\u{301}", true), ["-cat\u{301}"]);
    }

    #[test]
    fn strips_take_the_whitespace_beside_a_token() {
        let left = AddedToken { lstrip: true, ..token(1, "L") };
        let right = AddedToken { rstrip: true, ..token(2, "R") };
        let tokens = || vec![left.clone(), right.clone()];
        assert_eq!(split(tokens(), "a \u{3000}L b", true), ["a", "#1", " b"]);
        assert_eq!(split(tokens(), "a R\n b", true), ["a ", "#2", "b"]);
        assert_eq!(split(tokens(), "R  L", true), ["#2", "#1"]);
    }
}
