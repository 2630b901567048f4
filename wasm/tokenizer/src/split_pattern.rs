//! Reads the regular expression of a `Split` pre-tokenizer into the splitter that matches it.
//!
//! Accepted: `[class]`, `[class]+`, `[class]{1,n}`, `\p{..}` or `\s` in the place of a class,
//! `\s?[class]+`, `\s+$` and [`words::PATTERN`]. Classes hold characters, ranges, `\p{L}`, `\p{M}`,
//! `\p{N}`, `\p{P}`, `\p{S}`, `\s` and escapes. Anything else is refused.

use crate::code_point_set::CodePointSet;
use crate::splitter::Splitter;
use crate::unicode::{ranges_of, Class, ClassTable};
use crate::words::{self, Words};

/// The splitter for a pattern, or `None` where the pattern is not one of the accepted.
pub fn parse(pattern: &str) -> Option<Splitter> {
    if pattern == words::PATTERN {
        return Some(Splitter::Words(Words::new(ClassTable::new())));
    }
    if pattern == r"\s+$" {
        return Some(Splitter::SpaceBeforeLineEnd);
    }
    let (spaced, rest) = match pattern.strip_prefix(r"\s?") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (ranges, quantifier) = parse_class(rest)?;
    let set = CodePointSet::new(&ranges);
    match (spaced, parse_quantifier(quantifier)?) {
        (false, most) => Some(Splitter::Run { set, most }),
        (true, usize::MAX) => Some(Splitter::SpaceThenRun { set }),
        (true, _) => None,
    }
}

type Ranges = Vec<(u32, u32)>;

/// How many code points a quantifier takes at most; it takes at least one.
fn parse_quantifier(text: &str) -> Option<usize> {
    match text {
        "" => Some(1),
        "+" => Some(usize::MAX),
        _ => {
            let most = text.strip_prefix("{1,")?.strip_suffix('}')?;
            if most.len() > 4 || !most.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            most.parse().ok().filter(|&most| most > 0)
        }
    }
}

/// `[...]` or `\p{..}`: its ranges and the text after it.
fn parse_class(text: &str) -> Option<(Ranges, &str)> {
    let Some(mut rest) = text.strip_prefix('[') else {
        return match parse_item(text)? {
            (Item::Property(ranges), rest) => Some((ranges, rest)),
            (Item::Character(_), _) => None,
        };
    };
    let mut all = Vec::new();
    loop {
        if let Some(rest) = rest.strip_prefix(']') {
            return (!all.is_empty()).then_some((all, rest));
        }
        let (item, after) = parse_item(rest)?;
        rest = after;
        let first = match item {
            Item::Property(ranges) => {
                all.extend(ranges);
                continue;
            }
            Item::Character(c) => c,
        };
        let Some(range_end) = rest.strip_prefix('-') else {
            all.push((first, first));
            continue;
        };
        let (Item::Character(last), after) = parse_item(range_end)? else { return None };
        if last < first {
            return None;
        }
        all.push((first, last));
        rest = after;
    }
}

enum Item {
    Character(u32),
    Property(Ranges),
}

/// One character, escape or property inside a class, and the text after it.
fn parse_item(text: &str) -> Option<(Item, &str)> {
    let mut characters = text.chars();
    let c = characters.next()?;
    let rest = characters.as_str();
    if c != '\\' {
        // Unescaped, these mean something else in some place of a class: refuse them.
        let plain = !matches!(c, '[' | ']' | '^' | '-' | '&');
        return plain.then_some((Item::Character(c as u32), rest));
    }
    let escaped = characters.next()?;
    let rest = characters.as_str();
    let character = match escaped {
        'r' => '\r',
        'n' => '\n',
        't' => '\t',
        's' => return Some((Item::Property(ranges_of(Class::Space)), rest)),
        'p' => {
            let (name, rest) = rest.strip_prefix('{')?.split_once('}')?;
            let class = match name {
                "L" => Class::Letter,
                "M" => Class::Mark,
                "N" => Class::Number,
                "P" => Class::Punctuation,
                "S" => Class::Symbol,
                _ => return None,
            };
            return Some((Item::Property(ranges_of(class)), rest));
        }
        sign if sign.is_ascii_punctuation() => sign,
        _ => return None,
    };
    Some((Item::Character(character as u32), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches<'t>(pattern: &str, text: &'t str) -> Vec<&'t str> {
        let splitter = parse(pattern).expect(pattern);
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(range) = splitter.find(text.as_bytes(), from) {
            from = range.end;
            found.push(&text[range]);
        }
        found
    }

    #[test]
    fn reads_classes_from_the_pattern() {
        assert_eq!(matches("[\r\n]", "a\r\nb"), ["\r", "\n"]);
        assert_eq!(matches(r"[\r\n]", "a\r\nb"), ["\r", "\n"]);
        assert_eq!(matches("[a-cé]+", "xabécd"), ["abéc"]);
        assert_eq!(matches(r"[\]\-\\\^a]+", r"b]-\^ab"), [r"]-\^a"]);
        assert_eq!(matches(r"[\s_]+", "a _\u{3000}b"), [" _\u{3000}"]);
        assert_eq!(matches(r"\p{N}{1,3}", "1234½٣"), ["123", "4½٣"]);
        assert_eq!(matches(r"[\p{L}\p{M}]{1,2}", "abc"), ["ab", "c"]);
        assert_eq!(matches(r"\s?[!-/]+", "a (- "), [" (-"]);
        assert_eq!(matches(r"\s+$", "a  "), ["  "]);
        assert_eq!(matches(words::PATTERN, "a b"), ["a", " b"]);
    }

    #[test]
    fn refuses_everything_else() {
        let refused = [
            "",
            "a",
            "a+",
            "[",
            "[]",
            "[a",
            "[^a]",
            "[a-]",
            "[-a]",
            "[b-a]",
            "[a]*",
            "[a]?",
            "[a]{2}",
            "[a]{1,}",
            "[a]{1,0}",
            "[a]{0,3}",
            "[a]{1,+3}",
            "[a]{1,3}+",
            "[a]+?",
            "[a]++",
            "[a]+$",
            "[a&&b]",
            "[[:alpha:]]",
            "[[a]]",
            r"\p{Lu}",
            r"\p{L",
            r"\pL",
            r"\P{L}",
            r"[\w]",
            r"\d+",
            r"[a-\s]",
            r"[\s-a]",
            r"\s?[a]",
            r"\s?[a]{1,3}",
            r"\s*$",
            r" ?[a]+",
            "[a]+|[b]+",
            "(?i)[a]+",
            r"[\",
            r"[\u0041]",
            "[a-b-c]",
        ];
        for pattern in refused {
            assert!(parse(pattern).is_none(), "{pattern}");
        }
    }
}
