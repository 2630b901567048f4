//! Why a tokenizer.json was refused.

/// The message is a whole sentence and names the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file is broken or contradicts itself.
    Invalid(String),
    /// The file is well-formed, but asks for something that is not implemented.
    Unsupported(String),
}

impl LoadError {
    /// "Cannot read tokenizer.json: " and what is wrong with it.
    pub fn invalid(what: impl AsRef<str>) -> Self {
        Self::Invalid(format!("Cannot read tokenizer.json: {}.", what.as_ref()))
    }

    /// A field, what it is, and what it may be.
    pub fn unsupported(field: &str, is: &str, may_be: &str) -> Self {
        let is = match is.char_indices().nth(300) {
            Some((cut, _)) => format!("{}…", &is[..cut]),
            None => is.to_string(),
        };
        Self::Unsupported(format!(
            "Cannot reproduce tokenizer.json: `{field}` is {is}, supported is {may_be}."
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_in_the_message() {
        let LoadError::Unsupported(message) =
            LoadError::unsupported("normalizer", &"é".repeat(10_000), "null")
        else {
            panic!("expected Unsupported");
        };
        assert!(message.chars().count() < 400);
        assert!(message.ends_with("é…, supported is null."));
    }
}
