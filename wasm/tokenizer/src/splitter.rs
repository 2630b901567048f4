//! One split pattern, matched by hand in time linear in the text.

use std::ops::Range;

use crate::code_point_set::CodePointSet;
use crate::unicode::{code_point_at, is_space};
use crate::words::Words;

/// A pattern whose matches are isolated. `\s` is White_Space.
pub enum Splitter {
    /// `[set]{1,most}`; `[set]` is `most` = 1 and `[set]+` has no limit.
    Run { set: CodePointSet, most: usize },
    /// `\s?[set]+`
    SpaceThenRun { set: CodePointSet },
    /// `\s+$`, where `$` is also before a newline, as in Oniguruma.
    SpaceBeforeLineEnd,
    /// The GPT-4-like alternation of [`crate::words::PATTERN`].
    Words(Words),
}

impl Splitter {
    /// The first match at or after `from`, a boundary of `text`, which is valid UTF-8.
    pub fn find(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        match self {
            Self::Run { set, most } => find_run(set, *most, text, from),
            Self::SpaceThenRun { set } => find_space_then_run(set, text, from),
            Self::SpaceBeforeLineEnd => find_space_before_line_end(text, from),
            Self::Words(words) => words.find(text, from),
        }
    }
}

/// Where the code points that satisfy a test end, starting at `at` and taking at most `most`.
#[inline(always)]
pub fn end_of_run(text: &[u8], mut at: usize, most: usize, test: impl Fn(u32) -> bool) -> usize {
    let mut taken = 0;
    while at < text.len() && taken < most {
        let (c, width) = code_point_at(text, at);
        if !test(c) {
            break;
        }
        at += width;
        taken += 1;
    }
    at
}

fn find_run(set: &CodePointSet, most: usize, text: &[u8], from: usize) -> Option<Range<usize>> {
    let start = end_of_run(text, set.skip(text, from), usize::MAX, |c| !set.contains(c));
    let end = end_of_run(text, start, most, |c| set.contains(c));
    (end > start).then_some(start..end)
}

fn find_space_then_run(set: &CodePointSet, text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut at = from;
    while at < text.len() {
        let (c, width) = code_point_at(text, at);
        let after = at + width;
        let run = |start| end_of_run(text, start, usize::MAX, |c| set.contains(c));
        if is_space(c) {
            let end = run(after);
            if end > after {
                return Some(at..end);
            }
        }
        if set.contains(c) {
            return Some(at..run(after));
        }
        at = after;
    }
    None
}

fn find_space_before_line_end(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut at = from;
    while at < text.len() {
        let start = end_of_run(text, at, usize::MAX, |c| !is_space(c));
        let end = end_of_run(text, start, usize::MAX, is_space);
        if end == text.len() {
            return (end > start).then_some(start..end);
        }
        // Greedy: the last newline of the run that leaves at least one space before it.
        let newline = text[start..end].iter().rposition(|&byte| byte == b'\n');
        if let Some(length @ 1..) = newline {
            return Some(start..start + length);
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(range) = splitter.find(text.as_bytes(), from) {
            from = range.end;
            found.push(&text[range]);
        }
        found
    }

    fn set(text: &str) -> CodePointSet {
        let ranges: Vec<_> = text.chars().map(|c| (c as u32, c as u32)).collect();
        CodePointSet::new(&ranges)
    }

    #[test]
    fn a_run_stops_at_its_limit() {
        let ones = Splitter::Run { set: set("ab中"), most: 1 };
        assert_eq!(matches(&ones, "xab中中y"), ["a", "b", "中", "中"]);
        let threes = Splitter::Run { set: set("0123"), most: 3 };
        assert_eq!(matches(&threes, "01230 x12"), ["012", "30", "12"]);
        let all = Splitter::Run { set: set("中文"), most: usize::MAX };
        assert_eq!(matches(&all, "a中文中b文"), ["中文中", "文"]);
    }

    #[test]
    fn one_space_of_any_kind_joins_the_run_that_follows() {
        let splitter = Splitter::SpaceThenRun { set: set("ab") };
        assert_eq!(matches(&splitter, "  ab\u{3000}a-b \n"), [" ab", "\u{3000}a", "b"]);
    }

    #[test]
    fn a_set_that_has_spaces_itself_still_takes_one_before() {
        // The ideographic space lies inside the punctuation range of the DeepSeek pattern.
        let splitter = Splitter::SpaceThenRun { set: set("\u{3000}。") };
        assert_eq!(matches(&splitter, " \u{3000}。"), [" \u{3000}。"]);
        assert_eq!(matches(&splitter, "\u{3000}x\u{3000}"), ["\u{3000}", "\u{3000}"]);
    }

    #[test]
    fn spaces_are_taken_before_the_end_and_before_newlines() {
        let splitter = Splitter::SpaceBeforeLineEnd;
        assert_eq!(matches(&splitter, "a b  "), ["  "]);
        assert_eq!(matches(&splitter, " \n a"), [" "]);
        assert_eq!(matches(&splitter, "a \n \nb\n"), [" \n ", "\n"]);
        assert_eq!(matches(&splitter, "a\nb"), [""; 0]);
    }
}
