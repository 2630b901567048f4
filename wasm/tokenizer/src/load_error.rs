//! Why a tokenizer.json was refused.

/// The message is a whole sentence and names the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file is broken or contradicts itself.
    Invalid(String),
    /// The file is well-formed, but asks for something that is not implemented.
    Unsupported(String),
}

/// Characters at either end of a long text that a message shows.
const SHOWN: usize = 150;

impl LoadError {
    /// "Cannot read tokenizer.json: " and what is wrong with it.
    pub fn invalid(what: impl AsRef<str>) -> Self {
        Self::Invalid(format!("Cannot read tokenizer.json: {}.", shown(what.as_ref())))
    }

    /// A field, what it is, and what it may be.
    pub fn unsupported(field: &str, is: &str, may_be: &str) -> Self {
        let is = shown(is);
        Self::Unsupported(format!(
            "Cannot reproduce tokenizer.json: `{field}` is {is}, supported is {may_be}."
        ))
    }
}

/// Both ends of a text that may quote any amount of the file.
fn shown(text: &str) -> String {
    let head = text.char_indices().nth(SHOWN).map(|(at, _)| at);
    let tail = text.char_indices().nth_back(SHOWN - 1).map(|(at, _)| at);
    match (head, tail) {
        (Some(head), Some(tail)) if head < tail => format!("{}…{}", &text[..head], &text[tail..]),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_in_the_middle() {
        let long = format!("<{}>", "é".repeat(10_000));
        for error in [LoadError::invalid(&long), LoadError::unsupported("field", &long, "null")] {
            let (LoadError::Invalid(message) | LoadError::Unsupported(message)) = error;
            assert!(message.chars().count() < 400, "{message}");
            assert!(message.contains("<é") && message.contains("é…é") && message.contains("é>"));
        }
        assert_eq!(shown("é"), "é");
        assert_eq!(shown(&"é".repeat(300)), "é".repeat(300));
    }
}
