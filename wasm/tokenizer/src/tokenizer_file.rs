//! tokenizer.json: its fields, and the refusal of everything that would change results unnoticed.
//!
//! Unknown fields are ignored, as Hugging Face `tokenizers` ignores them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::added_tokens::AddedToken;
use crate::code_point_set::CodePointSet;
use crate::load_error::LoadError;
use crate::pre_tokenizer::PreTokenizer;
use crate::split_pattern;
use crate::splitter::Splitter;
use crate::template::Template;
use crate::unicode::numeric_ranges;

/// What a tokenizer.json says, checked field by field but not yet against its own vocabulary.
pub struct TokenizerFile<'a> {
    pub added_tokens: Vec<AddedToken>,
    pub pre_tokenizer: PreTokenizer,
    pub template: Template,
    pub vocabulary: Vec<(Cow<'a, str>, u32)>,
    pub merges: Vec<Merge<'a>>,
    pub ignore_merges: bool,
}

/// The texts of two tokens that merge.
pub type Merge<'a> = (Cow<'a, str>, Cow<'a, str>);

impl<'a> TokenizerFile<'a> {
    /// Reads the text of a tokenizer.json.
    pub fn parse(json: &'a str) -> Result<Self, LoadError> {
        let raw: RawFile =
            serde_json::from_str(json).map_err(|error| LoadError::invalid(format!("{error}")))?;
        for (field, value) in [("truncation", &raw.truncation), ("padding", &raw.padding)] {
            require(value.is_null(), field, value, "null")?;
        }
        check_normalizer(&raw.normalizer)?;
        check_decoder(&raw.decoder)?;
        check_model(&raw.model)?;
        Ok(Self {
            added_tokens: raw.added_tokens.into_iter().map(AddedToken::from).collect(),
            pre_tokenizer: PreTokenizer::new(read_pre_tokenizer(&raw.pre_tokenizer)?),
            template: read_post_processor("post_processor", &raw.post_processor)?,
            vocabulary: raw.model.vocab.0,
            merges: raw.model.merges.into_iter().map(|merge| merge.0).collect(),
            ignore_merges: raw.model.ignore_merges,
        })
    }
}

fn require(holds: bool, field: &str, value: &Value, may_be: &str) -> Result<(), LoadError> {
    match holds {
        true => Ok(()),
        false => Err(LoadError::unsupported(field, &value.to_string(), may_be)),
    }
}

fn check_normalizer(normalizer: &Value) -> Result<(), LoadError> {
    let empty_sequence = normalizer["type"] == "Sequence"
        && normalizer["normalizers"].as_array().is_some_and(Vec::is_empty);
    let may_be = "null or an empty Sequence";
    require(normalizer.is_null() || empty_sequence, "normalizer", normalizer, may_be)
}

fn check_decoder(decoder: &Value) -> Result<(), LoadError> {
    require(decoder["type"] == "ByteLevel", "decoder", decoder, "ByteLevel")
}

/// `unk_token` and `fuse_unk` are not looked at: no byte is unknown, see `Tokenizer::from_json`.
fn check_model(model: &RawModel) -> Result<(), LoadError> {
    require(model.r#type == "BPE", "model.type", &model.r#type, "\"BPE\"")?;
    let off = model.dropout.is_null() || model.dropout.as_f64() == Some(0.0);
    require(off, "model.dropout", &model.dropout, "null")?;
    let off = model.byte_fallback.is_null() || model.byte_fallback == false;
    require(off, "model.byte_fallback", &model.byte_fallback, "false")?;
    for (field, affix) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        require(affix.is_null() || affix == "", field, affix, "null")?;
    }
    Ok(())
}

/// The splits before the closing ByteLevel.
fn read_pre_tokenizer(value: &Value) -> Result<Vec<Splitter>, LoadError> {
    const FIELD: &str = "pre_tokenizer";
    let (splits, last, last_field) = match value["pretokenizers"].as_array() {
        Some(stages) if value["type"] == "Sequence" => match stages.split_last() {
            Some((last, splits)) => {
                (splits, last, format!("{FIELD}.pretokenizers[{}]", splits.len()))
            }
            None => return Err(LoadError::unsupported(FIELD, "an empty Sequence", BYTE_LEVEL)),
        },
        _ => (&[][..], value, FIELD.to_string()),
    };
    let plain = last["add_prefix_space"] == false && last["use_regex"] == false;
    require(last["type"] == "ByteLevel" && plain, &last_field, last, BYTE_LEVEL)?;
    let fields = (0..).map(|index| format!("{FIELD}.pretokenizers[{index}]"));
    splits.iter().zip(fields).map(|(split, field)| read_split(&field, split)).collect()
}

const BYTE_LEVEL: &str = "a ByteLevel last, with add_prefix_space and use_regex false";

fn read_split(field: &str, value: &Value) -> Result<Splitter, LoadError> {
    if value["type"] == "Digits" {
        require(value["individual_digits"] == true, field, value, "Digits with individual_digits")?;
        return Ok(Splitter::Run { set: CodePointSet::new(&numeric_ranges()), most: 1 });
    }
    require(value["type"] == "Split", field, value, "Split or Digits before a ByteLevel")?;
    let plain = value["behavior"] == "Isolated" && value["invert"] == false;
    require(plain, field, value, "Split with behavior Isolated and invert false")?;
    let pattern = &value["pattern"]["Regex"];
    let may_be = "one of the patterns of the DeepSeek generations, see split_pattern.rs";
    let field = format!("{field}.pattern.Regex");
    let Some(text) = pattern.as_str() else {
        return Err(LoadError::unsupported(&field, &value["pattern"].to_string(), may_be));
    };
    split_pattern::parse(text).ok_or_else(|| LoadError::unsupported(&field, text, may_be))
}

fn read_post_processor(field: &str, value: &Value) -> Result<Template, LoadError> {
    if value.is_null() || value["type"] == "ByteLevel" {
        return Ok(Template::default());
    }
    if value["type"] == "TemplateProcessing" {
        return read_template(field, value);
    }
    let processors = value["processors"].as_array().filter(|_| value["type"] == "Sequence");
    let Some(processors) = processors else {
        let may_be = "null, ByteLevel, TemplateProcessing or a Sequence of these";
        return Err(LoadError::unsupported(field, &value.to_string(), may_be));
    };
    processors.iter().enumerate().try_fold(Template::default(), |inner, (index, processor)| {
        let outer = read_post_processor(&format!("{field}.processors[{index}]"), processor)?;
        Ok(inner.inside(outer))
    })
}

/// The `single` template: special tokens around `$A`, which stands once. `pair` is never used.
fn read_template(field: &str, value: &Value) -> Result<Template, LoadError> {
    let field = format!("{field}.single");
    let single = &value["single"];
    let pieces = single.as_array();
    let pieces = pieces.ok_or_else(|| LoadError::invalid(format!("`{field}` is no list")))?;
    let mut template = Template::default();
    let mut text_seen = false;
    for piece in pieces {
        if piece["Sequence"]["id"] == "A" && !text_seen {
            text_seen = true;
            continue;
        }
        let Some(name) = piece["SpecialToken"]["id"].as_str() else {
            return Err(LoadError::unsupported(
                &field,
                &single.to_string(),
                "$A once, with tokens around",
            ));
        };
        let ids = value["special_tokens"][name]["ids"].as_array().and_then(|ids| {
            ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect::<Option<Vec<u32>>>()
        });
        let ids = ids.ok_or_else(|| {
            LoadError::invalid(format!(
                "`{field}` has {name:?}, for which special_tokens has no ids"
            ))
        })?;
        if text_seen { &mut template.suffix } else { &mut template.prefix }.extend(ids);
    }
    match text_seen {
        true => Ok(template),
        false => {
            Err(LoadError::unsupported(&field, &single.to_string(), "$A once, with tokens around"))
        }
    }
}

#[derive(Deserialize)]
struct RawFile<'a> {
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    added_tokens: Vec<RawAddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: RawModel<'a>,
}

#[derive(Deserialize)]
struct RawModel<'a> {
    #[serde(default)]
    r#type: Value,
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: RawVocabulary<'a>,
    #[serde(borrow)]
    merges: Vec<RawMerge<'a>>,
}

#[derive(Deserialize)]
struct RawAddedToken {
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
struct RawVocabulary<'a>(Vec<(Cow<'a, str>, u32)>);

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

/// A merge in either spelling: `"a b"` or `["a", "b"]`.
struct RawMerge<'a>(Merge<'a>);

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
