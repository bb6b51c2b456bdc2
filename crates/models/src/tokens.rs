//! Texts to token ids.

use crate::error::ModelError;
use std::path::{Path, PathBuf};
use tokenizers::{PostProcessor, Tokenizer, TruncationParams};

/// The name of the tokenizer in a model's folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// A model's tokenizer. The padding and truncation that `tokenizer.json` prescribes are settings of whoever
/// saved it, and are not used.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    tokenizer: Tokenizer,
    vocabulary: usize,
}

impl Tokens {
    /// Reads `tokenizer.json` of a model's folder. `vocabulary` is the model's number of ids.
    ///
    /// # Errors
    /// When the file is missing or malformed.
    pub fn from_dir(folder: impl AsRef<Path>, vocabulary: usize) -> Result<Self, ModelError> {
        let file = folder.as_ref().join(TOKENIZER_FILE);
        let text = std::fs::read(&file).map_err(|source| ModelError::Io { file: file.clone(), source })?;
        let refuse = |reason: String| ModelError::Tokenizer { file: file.clone(), reason };
        let mut tokenizer = Tokenizer::from_bytes(text).map_err(|e| refuse(e.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| refuse(e.to_string()))?;
        Ok(Self { file, tokenizer, vocabulary })
    }

    /// The ids of every text with the tokens that mark its ends, cut to `max_tokens` with those.
    ///
    /// # Errors
    /// When a text cannot be encoded, an id is not below the model's vocabulary, or `max_tokens` leaves no room
    /// for a token of the text.
    pub fn encode_each(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>, ModelError> {
        let marks = self.tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if max_tokens <= marks {
            return Err(self.refuse(format!("{max_tokens} tokens have no room beside {marks} of its own")));
        }
        let mut tokenizer = self.tokenizer.clone();
        let cut = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(|e| self.refuse(e.to_string()))?;
        self.batch(&tokenizer, texts.iter().map(String::as_str).collect(), true)
    }

    /// The ids of one running text: every line, its end included, by itself, then joined.
    ///
    /// # Errors
    /// When a line cannot be encoded or an id is not below the model's vocabulary.
    pub fn encode_lines(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let lines = text.split_inclusive('\n').collect();
        Ok(self.batch(&self.tokenizer, lines, false)?.concat())
    }

    fn batch(
        &self,
        tokenizer: &Tokenizer,
        texts: Vec<&str>,
        marks: bool,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let encoded = tokenizer.encode_batch_fast(texts, marks).map_err(|e| self.refuse(e.to_string()))?;
        let ids: Vec<Vec<u32>> = encoded.iter().map(|e| e.get_ids().to_vec()).collect();
        match ids.iter().flatten().find(|id| **id as usize >= self.vocabulary) {
            Some(id) => {
                let n = self.vocabulary;
                Err(self.refuse(format!("it makes token {id}, the model has {n} tokens: not this model's")))
            }
            None => Ok(ids),
        }
    }

    fn refuse(&self, reason: String) -> ModelError {
        ModelError::Tokenizer { file: self.file.clone(), reason }
    }
}
