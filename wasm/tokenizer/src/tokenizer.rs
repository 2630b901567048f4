//! A tokenizer: text to ids and back.

use crate::added_tokens::{AddedToken, AddedTokens, Part};
use crate::bpe::{Bpe, Work};
use crate::byte_alphabet::{bytes_of, character_of};
use crate::first_symbols::{FirstSymbols, NO_ID};
use crate::load_error::LoadError;
use crate::pair_table::{PairTable, MOST_IDS, MOST_MERGES};
use crate::piece_cache::{Key, PieceCache};
use crate::pre_tokenizer::PreTokenizer;
use crate::raw_file::Merge;
use crate::slices::{Inserted, SliceTable, Slices};
use crate::template::Template;
use crate::tokenizer_file::TokenizerFile;
use crate::whole_pieces::{Known, WholePieces};

/// Longer added tokens are refused: finding one costs up to its length at every byte of a text.
const LONGEST_ADDED_TOKEN: usize = 1024;

/// What a tokenizer.json describes.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    added_tokens: AddedTokens,
    pre_tokenizer: PreTokenizer,
    piece_cache: PieceCache,
    whole_pieces: WholePieces,
    bpe: Bpe,
    template: Template,
}

/// Every token by id, the added ones behind the others.
#[derive(Default)]
struct Vocabulary {
    /// As written in the file.
    texts: Slices,
    /// The bytes that each stands for when decoding.
    bytes: Slices,
    by_text: Option<SliceTable>,
    special: Vec<bool>,
}

impl Tokenizer {
    /// Reads the text of a tokenizer.json.
    pub fn from_json(json: &str) -> Result<Self, LoadError> {
        let file = TokenizerFile::parse(json)?;
        let count = file.vocabulary.len();
        for (what, count, most) in [
            ("tokens", count + file.added_tokens.len(), MOST_IDS),
            ("merges", file.merges.len(), MOST_MERGES),
        ] {
            if count > most {
                let may_be = format!("up to {most}");
                return Err(LoadError::unsupported(
                    "model",
                    &format!("of {count} {what}"),
                    &may_be,
                ));
            }
        }
        let texts = order_by_id(file.vocabulary.iter().map(|(text, id)| (text.as_ref(), *id)))?;
        let mut vocabulary = Vocabulary::with_capacity(count + file.added_tokens.len());
        let mut whole_pieces = WholePieces::with_capacity(count, file.ignore_merges);
        let mut byte_ids = [NO_ID; 256];
        for (id, text) in texts.into_iter().enumerate() {
            let spelling = bytes_of(text);
            vocabulary.push(text, spelling.as_deref().unwrap_or(text.as_bytes()))?;
            let Some(spelling) = spelling else { continue };
            if let [byte] = spelling[..] {
                byte_ids[usize::from(byte)] = id as u32;
            }
            if !whole_pieces.push(&spelling, id as u32) {
                return Err(too_many_collisions());
            }
        }
        require_bytes(&byte_ids)?;
        let pairs = read_merges(&file.merges, &vocabulary)?;
        let mut bpe = Bpe::new(FirstSymbols::bytes(byte_ids), pairs);
        bpe.start_at_characters(whole_pieces.spellings());
        for token in &file.added_tokens {
            vocabulary.add(token)?;
        }
        let ids_of_template = file.template.prefix.iter().chain(&file.template.suffix);
        if let Some(id) = ids_of_template.into_iter().find(|id| **id as usize >= vocabulary.len()) {
            return Err(LoadError::invalid(format!(
                "its post_processor adds id {id}, which no token has"
            )));
        }
        Ok(Self {
            vocabulary,
            added_tokens: AddedTokens::new(file.added_tokens),
            pre_tokenizer: file.pre_tokenizer,
            piece_cache: PieceCache::new(),
            whole_pieces,
            bpe,
            template: file.template,
        })
    }

    /// The ids of a text, without what the template adds. Without `parse_special`, the text of
    /// special tokens is encoded as any other.
    pub fn encode(&mut self, text: &str, parse_special: bool) -> Vec<u32> {
        let Self { added_tokens, pre_tokenizer, piece_cache, whole_pieces, bpe, .. } = self;
        let mut ids = Vec::with_capacity(text.len() / 3);
        added_tokens.split(text, parse_special, &mut |part| match part {
            Part::Token(id) => ids.push(id),
            Part::Text(text) => pre_tokenizer.split(text, &mut |piece| {
                let key = Key::of(piece);
                if let Some(known) = key.and_then(|key| piece_cache.find(key)) {
                    ids.extend_from_slice(known);
                    return;
                }
                let start = ids.len();
                match whole_pieces.look_up(piece) {
                    Known::Token(id) => ids.push(id),
                    Known::Nothing => bpe.encode(piece, &mut ids),
                    Known::Candidate(candidate) => {
                        bpe.encode(piece, &mut ids);
                        whole_pieces.learn(candidate, &ids[start..]);
                    }
                }
                if let Some(key) = key {
                    piece_cache.keep(key, &ids[start..]);
                }
            }),
        });
        ids
    }

    /// The bytes that ids stand for; ids without a token stand for none.
    pub fn bytes(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(self.vocabulary.bytes.get(id).unwrap_or(&[]));
            }
        }
        bytes
    }

    /// The token of an id as written in the file.
    pub fn token(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.vocabulary.texts.get(id)?).ok()
    }

    /// The id of a token as written in the file.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.vocabulary.find(token)
    }

    /// Whether decoding may skip an id.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.special.get(id as usize) == Some(&true)
    }

    /// Number of tokens, the added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// What the file's post-processor puts around a text's ids.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// What merging has cost so far.
    pub fn work(&self) -> Work {
        self.bpe.work()
    }
}

impl Vocabulary {
    fn with_capacity(count: usize) -> Self {
        Self { by_text: Some(SliceTable::with_capacity(count)), ..Self::default() }
    }

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn find(&self, text: &str) -> Option<u32> {
        self.by_text.as_ref()?.find(&self.texts, text.as_bytes())
    }

    /// Appends a token under the next id.
    fn push(&mut self, text: &str, bytes: &[u8]) -> Result<(), LoadError> {
        let id = self.len() as u32;
        self.texts.push(text.as_bytes());
        self.bytes.push(bytes);
        self.special.push(false);
        match self.by_text.as_mut().map(|table| table.insert(&self.texts, id)) {
            Some(Inserted::Equal(other)) => Err(LoadError::invalid(format!(
                "its vocabulary lists {text:?} twice, as {other} and {id}"
            ))),
            Some(Inserted::TooManyCollisions) => Err(too_many_collisions()),
            _ => Ok(()),
        }
    }

    /// Adds an added token, which must have the id that Hugging Face `tokenizers` would give it:
    /// that of the same text in the vocabulary, else the next one.
    fn add(&mut self, token: &AddedToken) -> Result<(), LoadError> {
        let AddedToken { id, content, .. } = token;
        let wrong =
            |what: String| Err(LoadError::invalid(format!("added token {content:?} {what}")));
        if content.is_empty() || content.len() > LONGEST_ADDED_TOKEN {
            let length = content.len();
            return wrong(format!("is {length} bytes long, not 1 to {LONGEST_ADDED_TOKEN}"));
        }
        let known = self.find(content);
        let expected = known.unwrap_or(self.len() as u32);
        if *id != expected {
            return wrong(format!("has id {id}, but its place in the vocabulary is {expected}"));
        }
        if known.is_none() {
            let bytes = bytes_of(content);
            self.push(content, bytes.as_deref().unwrap_or(content.as_bytes()))?;
        }
        self.special[*id as usize] = token.special;
        Ok(())
    }
}

/// The tokens in the order of their ids, which must be 0, 1, 2 … without a gap.
fn order_by_id<'t>(
    tokens: impl ExactSizeIterator<Item = (&'t str, u32)>,
) -> Result<Vec<&'t str>, LoadError> {
    let count = tokens.len();
    let mut ordered: Vec<Option<&str>> = vec![None; count];
    for (text, id) in tokens {
        let Some(place) = ordered.get_mut(id as usize) else {
            return Err(LoadError::invalid(format!(
                "its vocabulary of {count} tokens gives {text:?} id {id}, which is out of range"
            )));
        };
        if let Some(other) = place.replace(text) {
            return Err(LoadError::invalid(format!(
                "its vocabulary gives id {id} to both {other:?} and {text:?}"
            )));
        }
    }
    Ok(ordered.into_iter().flatten().collect())
}

/// Every byte that occurs in UTF-8 needs a token: Hugging Face would silently drop the others.
fn require_bytes(byte_ids: &[u32; 256]) -> Result<(), LoadError> {
    let occurs = |byte: &u8| !matches!(byte, 0xc0 | 0xc1 | 0xf5..=0xff);
    match (0..=255u8).filter(occurs).find(|&byte| byte_ids[usize::from(byte)] == NO_ID) {
        None => Ok(()),
        Some(byte) => Err(LoadError::invalid(format!(
            "its vocabulary has no token {:?} for byte 0x{byte:02x}",
            character_of(byte).to_string()
        ))),
    }
}

fn read_merges(merges: &[Merge], vocabulary: &Vocabulary) -> Result<PairTable, LoadError> {
    let mut pairs = PairTable::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id_of = |token: &str| {
            vocabulary.find(token).ok_or_else(|| {
                LoadError::invalid(format!(
                    "merge {rank} ({left:?}, {right:?}) needs {token:?}, which is not in its vocabulary"
                ))
            })
        };
        if !pairs.push(id_of(left)?, id_of(right)?, id_of(&joined)?) {
            return Err(too_many_collisions());
        }
    }
    Ok(pairs)
}

fn too_many_collisions() -> LoadError {
    LoadError::invalid("its tokens collide so much that they must have been made to")
}
