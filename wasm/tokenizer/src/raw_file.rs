//! tokenizer.json as JSON: the types that serde fills, large lists without a copy.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::added_tokens::AddedToken;

/// The fields that are looked at; small ones as values, checked by `tokenizer_file`.
#[derive(Deserialize)]
pub struct RawFile<'a> {
    #[serde(default)]
    pub truncation: Value,
    #[serde(default)]
    pub padding: Value,
    #[serde(default)]
    pub added_tokens: Vec<RawAddedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    #[serde(default)]
    pub decoder: Value,
    #[serde(borrow)]
    pub model: RawModel<'a>,
}

/// `model`.
#[derive(Deserialize)]
pub struct RawModel<'a> {
    #[serde(default)]
    pub r#type: Value,
    #[serde(default)]
    pub dropout: Value,
    #[serde(default)]
    pub byte_fallback: Value,
    #[serde(default)]
    pub continuing_subword_prefix: Value,
    #[serde(default)]
    pub end_of_word_suffix: Value,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(borrow)]
    pub vocab: RawVocabulary<'a>,
    #[serde(borrow)]
    pub merges: Vec<RawMerge<'a>>,
}

/// An entry of `added_tokens`; all fields must be there.
#[derive(Deserialize)]
pub struct RawAddedToken {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl From<RawAddedToken> for AddedToken {
    fn from(raw: RawAddedToken) -> Self {
        let RawAddedToken { id, content, single_word, lstrip, rstrip, normalized, special } = raw;
        Self { id, content, single_word, lstrip, rstrip, normalized, special }
    }
}

/// The vocabulary in the file's order; repeated tokens are kept, for the reader to refuse.
pub struct RawVocabulary<'a>(pub Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawVocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(Cow<'de, str>, u32)>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of tokens and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(token), id)) = map.next_entry::<Text, u32>()? {
                    entries.push((token, id));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(Self)
    }
}

/// The texts of two tokens that merge.
pub type Merge<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A merge in either spelling: `"a b"` or `["a", "b"]`.
pub struct RawMerge<'a>(pub Merge<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for RawMerge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a merge, \"a b\" or [\"a\", \"b\"]")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                let (left, right) = halves(text)?;
                Ok((Cow::Borrowed(left), Cow::Borrowed(right)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let (left, right) = halves(text)?;
                Ok((Cow::Owned(left.to_string()), Cow::Owned(right.to_string())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut half = |index| {
                    let half = list.next_element::<Text>()?;
                    half.map(|Text(text)| text)
                        .ok_or_else(|| A::Error::invalid_length(index, &self))
                };
                let pair = (half(0)?, half(1)?);
                match list.next_element::<IgnoredAny>()? {
                    None => Ok(pair),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(Pair).map(Self)
    }
}

fn halves<E: Error>(text: &str) -> Result<(&str, &str), E> {
    let halves = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
    halves.ok_or_else(|| {
        E::custom(format_args!("merge {text:?} is not two tokens with a space between"))
    })
}

/// Text that borrows from the file unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Cow<'de, str>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_string()))
            }
        }
        deserializer.deserialize_str(Borrow).map(Self)
    }
}
