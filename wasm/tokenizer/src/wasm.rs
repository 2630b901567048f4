//! What JavaScript calls: one call per text, ids and bytes as typed arrays.

use wasm_bindgen::prelude::wasm_bindgen;

use crate::load_error::LoadError;
use crate::tokenizer::Tokenizer;

/// A tokenizer in the module's memory.
#[wasm_bindgen]
pub struct NativeTokenizer(Tokenizer);

/// Why a tokenizer.json was refused.
#[wasm_bindgen]
pub struct Refusal {
    /// Whether the file is well-formed but asks for something that is not implemented.
    #[wasm_bindgen(readonly)]
    pub unsupported: bool,
    message: String,
}

#[wasm_bindgen]
impl Refusal {
    /// A whole sentence.
    #[wasm_bindgen(getter)]
    pub fn message(&self) -> String {
        self.message.clone()
    }
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Invalid(message) => Self { unsupported: false, message },
            LoadError::Unsupported(message) => Self { unsupported: true, message },
        }
    }
}

#[wasm_bindgen]
impl NativeTokenizer {
    /// Reads the UTF-8 text of a tokenizer.json; throws a `Refusal`.
    #[wasm_bindgen(constructor)]
    pub fn new(json: &[u8]) -> Result<NativeTokenizer, Refusal> {
        Ok(Self(Tokenizer::from_json(&String::from_utf8_lossy(json))?))
    }

    /// `text` is UTF-8.
    pub fn encode(&mut self, text: &[u8], parse_special: bool) -> Vec<u32> {
        self.0.encode(&String::from_utf8_lossy(text), parse_special)
    }

    pub fn bytes(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        self.0.bytes(ids, skip_special)
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.0.token(id).map(str::to_string)
    }

    #[wasm_bindgen(js_name = idOf)]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.0.id_of(token)
    }

    #[wasm_bindgen(js_name = isSpecial)]
    pub fn is_special(&self, id: u32) -> bool {
        self.0.is_special(id)
    }

    #[wasm_bindgen(getter, js_name = vocabularySize)]
    pub fn vocabulary_size(&self) -> u32 {
        self.0.vocabulary_size() as u32
    }

    /// Ids that the file's post-processor puts before a text's.
    #[wasm_bindgen(getter)]
    pub fn prefix(&self) -> Vec<u32> {
        self.0.template().prefix.clone()
    }

    /// Ids that the file's post-processor puts after a text's.
    #[wasm_bindgen(getter)]
    pub fn suffix(&self) -> Vec<u32> {
        self.0.template().suffix.clone()
    }

    /// Pairs merged so far; see `bpe::Work`.
    #[wasm_bindgen(getter)]
    pub fn merges(&self) -> f64 {
        self.0.work().merges as f64
    }

    /// Ranks looked at so far; see `bpe::Work`.
    #[wasm_bindgen(getter, js_name = queueOperations)]
    pub fn queue_operations(&self) -> f64 {
        self.0.work().queue_operations as f64
    }
}
