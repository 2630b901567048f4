//! The GPT-4-like pattern of the DeepSeek-V3 generation.

use std::ops::Range;

use crate::splitter::end_of_run;
use crate::unicode::{code_point_at, Class, ClassTable};

/// The pattern, recognised by exactly this text.
pub const PATTERN: &str = concat!(
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+",
    "| ?[\\p{P}\\p{S}]+[\r\n]*",
    "|\\s*[\r\n]+",
    "|\\s+(?!\\S)",
    "|\\s+",
);

/// Finds what [`PATTERN`] matches.
pub struct Words {
    classes: ClassTable,
}

impl Words {
    pub fn new(classes: ClassTable) -> Self {
        Self { classes }
    }

    /// The first match at or after `from`, a boundary of `text`, which is valid UTF-8.
    pub fn find(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        let mut at = from;
        while at < text.len() {
            let (c, width) = code_point_at(text, at);
            if let Some(end) = self.end_of_match(text, at, c, at + width) {
                return Some(at..end);
            }
            at += width;
        }
        None
    }

    /// Where the match that begins with `c` at `at` ends, alternative by alternative, or `None`.
    /// `after` is where the next code point begins.
    #[inline]
    fn end_of_match(&self, text: &[u8], at: usize, c: u32, after: usize) -> Option<usize> {
        let next_class =
            || (after < text.len()).then(|| self.classes.class(code_point_at(text, after).0));
        match self.classes.class(c) {
            Class::Letter | Class::Mark => Some(self.end_of_letters(text, after)),
            Class::Punctuation | Class::Symbol => {
                if c < 0x80 && text.get(after).is_some_and(u8::is_ascii_alphabetic) {
                    return Some(end_of_ascii_letters(text, after));
                }
                Some(self.end_of_signs(text, after))
            }
            Class::Space => {
                let next = next_class();
                if is_letter(next) && !is_newline(c) {
                    return Some(self.end_of_letters(text, after));
                }
                if is_sign(next) && c == 0x20 {
                    return Some(self.end_of_signs(text, after));
                }
                Some(self.end_of_spaces(text, at, after))
            }
            Class::Number | Class::Other => {
                is_letter(next_class()).then(|| self.end_of_letters(text, after))
            }
        }
    }

    /// `[\p{L}\p{M}]*`
    #[inline]
    fn end_of_letters(&self, text: &[u8], at: usize) -> usize {
        // Most letters are ASCII, which has no marks: those need no table.
        let at = end_of_ascii_letters(text, at);
        match text.get(at) {
            Some(0x80..) => {
                end_of_run(text, at, usize::MAX, |c| is_letter(Some(self.classes.class(c))))
            }
            _ => at,
        }
    }

    /// `[\p{P}\p{S}]*[\r\n]*`
    fn end_of_signs(&self, text: &[u8], at: usize) -> usize {
        let end = end_of_run(text, at, usize::MAX, |c| is_sign(Some(self.classes.class(c))));
        end_of_run(text, end, usize::MAX, is_newline)
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+` from the space at `at`: up to the run's last newline; else all of
    /// a run that ends the text; else all but the last space, which belongs to what follows.
    fn end_of_spaces(&self, text: &[u8], at: usize, after: usize) -> usize {
        let mut end = after;
        let mut last = at;
        while end < text.len() {
            let (c, width) = code_point_at(text, end);
            if self.classes.class(c) != Class::Space {
                break;
            }
            last = end;
            end += width;
        }
        let newline = text[at..end].iter().rposition(|&byte| is_newline(u32::from(byte)));
        match newline {
            Some(position) => at + position + 1,
            None if end == text.len() || last == at => end,
            None => last,
        }
    }
}

/// `[A-Za-z]*`, by eight bytes at once: the lengths of words are hard to foretell for a processor
/// that looks at one byte after the other.
#[inline]
fn end_of_ascii_letters(text: &[u8], mut at: usize) -> usize {
    while let Some(eight) = text[at..].first_chunk::<8>() {
        let letters = ascii_letters(u64::from_le_bytes(*eight));
        if letters < 8 {
            return at + letters;
        }
        at += 8;
    }
    at + text[at..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count()
}

/// How many of the first bytes of a little-endian word are ASCII letters.
#[inline]
fn ascii_letters(word: u64) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // The upper bit of each byte says yes: below it there is room to add without a carry.
    let lower_case = (word | 0x20 * ONES) & !HIGH;
    let from_a = lower_case + (0x80 - u64::from(b'a')) * ONES;
    let beyond_z = lower_case + (0x7f - u64::from(b'z')) * ONES;
    let others = (!from_a | beyond_z | word) & HIGH;
    others.trailing_zeros() as usize / 8
}

fn is_letter(class: Option<Class>) -> bool {
    matches!(class, Some(Class::Letter | Class::Mark))
}

fn is_sign(class: Option<Class>) -> bool {
    matches!(class, Some(Class::Punctuation | Class::Symbol))
}

fn is_newline(c: u32) -> bool {
    c == 0x0a || c == 0x0d
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matches, as `tokenizers.pre_tokenizers.Split(Regex(PATTERN), "removed")` leaves them out.
    fn matches(text: &str) -> Vec<&str> {
        let words = Words::new(ClassTable::new());
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(range) = words.find(text.as_bytes(), from) {
            from = range.end;
            found.push(&text[range]);
        }
        found
    }

    #[test]
    fn ascii_letters_are_counted_to_the_first_other_byte() {
        for byte in 0..=255u8 {
            for at in 0..20 {
                let mut text = [b'x'; 20];
                text[at] = byte;
                let expected = if byte.is_ascii_alphabetic() { 20 } else { at };
                assert_eq!(end_of_ascii_letters(&text, 0), expected, "{byte} {at}");
            }
        }
    }

    #[test]
    fn a_sign_takes_the_ascii_letters_after_it() {
        assert_eq!(matches("'s (foo) ((bar"), ["'s", " (", "foo", ")", " ((", "bar"]);
        assert_eq!(matches("(é€uro"), ["(", "é", "€", "uro"]);
    }

    #[test]
    fn letters_take_one_preceding_character_that_is_no_letter_sign_or_newline() {
        assert_eq!(matches(" a\tb\nc\u{200d}d"), [" a", "\tb", "\n", "c", "\u{200d}d"]);
        assert_eq!(matches("12a3"), ["2a"]);
        assert_eq!(matches("\u{301}\u{301}x"), ["\u{301}\u{301}x"]);
    }

    #[test]
    fn signs_take_the_newlines_after_them() {
        assert_eq!(matches("!?\r\n\n x"), ["!?\r\n\n", " x"]);
        assert_eq!(matches("  。\n"), [" ", " 。\n"]);
    }

    #[test]
    fn spaces_end_at_their_last_newline_or_leave_one_for_the_next_word() {
        assert_eq!(matches("  \n \n  x"), ["  \n \n", " ", " x"]);
        assert_eq!(matches("x   "), ["x", "   "]);
        assert_eq!(matches("   1"), ["  ", " "]);
        assert_eq!(matches(" \u{3000}。"), [" ", "\u{3000}", "。"]);
    }

    #[test]
    fn numbers_and_controls_alone_do_not_match() {
        assert_eq!(matches("12 \u{0}\u{1} 3"), [" ", " "]);
    }
}
