//! tokenizer.json: its fields, and the refusal of everything that would change results unnoticed.
//!
//! Unknown fields are ignored, as Hugging Face `tokenizers` ignores them.

use std::borrow::Cow;

use serde_json::Value;

use crate::added_tokens::AddedToken;
use crate::code_point_set::CodePointSet;
use crate::load_error::LoadError;
use crate::pre_tokenizer::PreTokenizer;
use crate::raw_file::{RawFile, RawModel};
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
    pub merges: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub ignore_merges: bool,
}

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
    if splits.len() > MOST_STAGES {
        let is = format!("a Sequence of {}", splits.len() + 1);
        return Err(LoadError::unsupported(FIELD, &is, &format!("up to {MOST_STAGES} splits")));
    }
    let fields = (0..).map(|index| format!("{FIELD}.pretokenizers[{index}]"));
    splits.iter().zip(fields).map(|(split, field)| read_split(&field, split)).collect()
}

/// Longest sequence of splits or post-processors: each split nests a call.
const MOST_STAGES: usize = 64;

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
    if processors.len() > MOST_STAGES {
        let is = format!("a Sequence of {}", processors.len());
        return Err(LoadError::unsupported(field, &is, &format!("up to {MOST_STAGES}")));
    }
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
