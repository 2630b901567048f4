//! Byte-level BPE with hand-written DeepSeek splitters.
//!
//! A text becomes ids in three steps, each a module: [`added_tokens`] cuts out the tokens that are
//! matched as text, [`pre_tokenizer`] splits what lies between into pieces, [`bpe`] merges the bytes
//! of each piece. The result is that of Hugging Face `tokenizers` for every tokenizer.json that
//! [`tokenizer_file`] accepts; what it cannot reproduce it refuses by name.

pub mod added_tokens;
pub mod bpe;
pub mod byte_alphabet;
pub mod code_point_set;
pub mod first_symbols;
pub mod load_error;
pub mod long_merge;
pub mod pair_table;
pub mod piece_cache;
pub mod pre_tokenizer;
pub mod raw_file;
pub mod short_merge;
pub mod skip;
pub mod slices;
pub mod split_pattern;
pub mod splitter;
pub mod template;
pub mod tokenizer;
pub mod tokenizer_file;
pub mod unicode;
mod unicode_tables;
pub mod wasm;
pub mod whole_pieces;
pub mod words;
