//! Texts and pairs of texts as encoders read them: BERT and its kin.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Encoding, Tokenizer, TruncationParams, truncate_encodings};

use super::tokenizer::{check_vocabulary, parse, side_file, token_text};
use crate::error::{Error, Result};
use crate::loaders::write_whole;

/// A text, or a pair of texts in one row, as an encoder reads it: special tokens around each text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedText {
    /// The ids.
    pub ids: Vec<u32>,
    /// Which text each token belongs to: for BERT 0 for the first with its special tokens, 1 for the second. RoBERTa's
    /// tokenizers have 0 everywhere.
    pub token_types: Vec<u32>,
    /// Whether the text was longer than [`EncoderTokenizer::max_tokens`], and its end was cut off.
    pub cut: bool,
}

/// The tokenizer of an encoder: it puts the checkpoint's special tokens around each text, lays a pair out as one row, and
/// cuts what is longer than the model reads. Cheap to clone, and threads may share one.
///
/// A pair that is too long loses tokens from the end of its longer text, as transformers' `longest_first`.
#[derive(Clone)]
pub struct EncoderTokenizer {
    inner: Arc<Tokenizer>,
    /// `tokenizer.json`, as it was read.
    json: Arc<[u8]>,
    /// `tokenizer_config.json`; null where there is none.
    config: Value,
    origin: String,
    max_tokens: usize,
    /// The special tokens around a text.
    boundary: Vec<u32>,
    vocab_size: usize,
}

impl fmt::Debug for EncoderTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncoderTokenizer")
            .field("origin", &self.origin)
            .field("max_tokens", &self.max_tokens)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

impl EncoderTokenizer {
    /// The fewest tokens that texts may be cut to: a pair with its special tokens has to fit.
    const FEWEST: usize = 8;

    /// Reads the tokenizer of a Hugging Face model folder: `tokenizer.json`, or where there is none the `vocab.txt` of a
    /// BERT with the settings of `tokenizer_config.json` (those of `BertTokenizer` where they are missing). Texts are cut
    /// at that file's `model_max_length` if it has one; what `tokenizer.json` says of cutting and padding is left aside.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Tokenizer`] for a file that cannot be read or puts no special token around a text,
    /// [`Error::SideFile`] for broken JSON, [`Error::UnknownToken`] for a special token outside `vocab.txt`.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let config = side_file(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let path = folder.join("tokenizer.json");
        let (inner, json) = match std::fs::read(&path) {
            Ok(json) => (parse(&json, &path.display().to_string())?, json),
            Err(error) if error.kind() == ErrorKind::NotFound && folder.join("vocab.txt").exists() => {
                let inner = word_piece(&folder.join("vocab.txt"), &config)?;
                let json = inner.to_string(true);
                (
                    inner,
                    json.map_err(|source| Error::Tokenizer {
                        tokenizer: path.display().to_string(),
                        source,
                    })?
                    .into(),
                )
            }
            Err(source) => return Err(Error::Open { path, source }),
        };
        Self::new(inner, json, config, folder.display().to_string())
    }

    pub(super) fn new(mut inner: Tokenizer, json: Vec<u8>, config: Value, origin: String) -> Result<Self> {
        let failed = |source: tokenizers::Error| Error::Tokenizer { tokenizer: origin.clone(), source };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let boundary = inner.encode_fast("", true).map_err(failed)?.get_ids().to_vec();
        if boundary.is_empty() {
            let problem = "it puts no special token around a text, as an encoder's does ([CLS], [SEP])";
            return Err(failed(problem.into()));
        }
        let vocab_size = inner.get_vocab(true).into_values().max().unwrap_or(0) as usize + 1;
        // transformers writes 1e30 where there is no limit.
        let longest = config.get("model_max_length").and_then(Value::as_u64).map(|longest| longest as usize);
        let (inner, json) = (Arc::new(inner), json.into());
        let tokenizer = Self { inner, json, config, origin, max_tokens: usize::MAX, boundary, vocab_size };
        tokenizer.with_max_tokens(longest.unwrap_or(usize::MAX))
    }

    /// The same tokenizer, with texts and pairs cut to so many tokens, special ones included: at most what the model has
    /// positions for.
    ///
    /// # Errors
    /// [`Error::EncodeOptions`] for fewer than 8.
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Result<Self> {
        if max_tokens < Self::FEWEST {
            let fewest = Self::FEWEST;
            let problem = format!("texts cut to {max_tokens} tokens; the fewest are {fewest}");
            return Err(Error::EncodeOptions { problem });
        }
        self.max_tokens = max_tokens;
        Ok(self)
    }

    /// Longer texts and pairs are cut to so many tokens, special ones included.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The largest id and one: the least number of rows that a model's embedding must have.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether a token is one of those that stand around a text (`[CLS]` and `[SEP]`, or `<s>` and `</s>`).
    #[must_use]
    pub fn is_boundary(&self, id: u32) -> bool {
        self.boundary.contains(&id)
    }

    /// Whether a word after white space has other tokens than at the beginning of a text, as in GPT-2 and RoBERTa.
    #[must_use]
    pub fn marks_spaces(&self) -> bool {
        match self.inner.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::ByteLevel(byte_level)) => !byte_level.add_prefix_space,
            _ => false,
        }
    }

    /// One text in a row. An empty one is its special tokens alone.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer breaks down on the text.
    pub fn encode(&self, text: &str) -> Result<EncodedText> {
        self.row(text, None)
    }

    /// Two texts in one row.
    ///
    /// # Errors
    /// As [`EncoderTokenizer::encode`].
    pub fn encode_pair(&self, (first, second): (&str, &str)) -> Result<EncodedText> {
        self.row(first, Some(second))
    }

    /// Many texts, on rayon's threads.
    ///
    /// # Errors
    /// As [`EncoderTokenizer::encode`].
    pub fn encode_all<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<EncodedText>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// Many pairs, on rayon's threads.
    ///
    /// # Errors
    /// As [`EncoderTokenizer::encode`].
    pub fn encode_pairs(&self, pairs: &[(&str, &str)]) -> Result<Vec<EncodedText>> {
        pairs.par_iter().map(|&pair| self.encode_pair(pair)).collect()
    }

    /// Whether a model can embed every id: `rows` is the first dimension of its token embedding, which may be larger.
    ///
    /// # Errors
    /// [`Error::VocabularyMismatch`] when it cannot.
    pub fn check_vocabulary(&self, rows: usize) -> Result<()> {
        check_vocabulary(self.vocab_size, rows)
    }

    /// SHA-256 of `tokenizer.json`, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:x}", Sha256::digest(&self.json))
    }

    /// Writes `tokenizer.json` as it was read, and `tokenizer_config.json` with [`max_tokens`](Self::max_tokens) as its
    /// `model_max_length`. The folder is made where it is missing; each file is replaced as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let mut config = if self.config.is_object() { self.config.clone() } else { json!({}) };
        if self.max_tokens < usize::MAX {
            config["model_max_length"] = json!(self.max_tokens);
        }
        write_whole(&folder.join("tokenizer.json"), |out| out.write_all(&self.json))?;
        write_whole(&folder.join("tokenizer_config.json"), |out| writeln!(out, "{config:#}"))
    }

    fn row(&self, first: &str, second: Option<&str>) -> Result<EncodedText> {
        let failed = |source| Error::Tokenizer { tokenizer: self.origin.clone(), source };
        let whole = match second {
            None => self.inner.encode_fast(first, true),
            Some(second) => self.inner.encode_fast((first, second), true),
        };
        let whole = whole.map_err(failed)?;
        let added = whole.get_special_tokens_mask().iter().filter(|&&special| special == 1).count();
        let Some(room) = self.max_tokens.checked_sub(added).filter(|_| whole.len() > self.max_tokens) else {
            return Ok(encoded(&whole, false));
        };
        // The library's own cutting shortens each text by itself first, and then no longer knows which one was longer.
        let part = |part: &str| self.inner.encode_fast(part, false).map_err(failed);
        let second = second.map(part).transpose()?.map(|mut second| {
            second.set_type_ids(vec![1; second.len()]);
            second
        });
        let room = TruncationParams { max_length: room, ..TruncationParams::default() };
        let (first, second) = truncate_encodings(part(first)?, second, &room).map_err(failed)?;
        Ok(encoded(&self.inner.post_process(first, second, true).map_err(failed)?, true))
    }
}

fn encoded(encoding: &Encoding, cut: bool) -> EncodedText {
    EncodedText { ids: encoding.get_ids().to_vec(), token_types: encoding.get_type_ids().to_vec(), cut }
}

/// BERT's tokenizer of a `vocab.txt`, one token a line.
fn word_piece(vocab: &Path, config: &Value) -> Result<Tokenizer> {
    let origin = vocab.display().to_string();
    let failed = |source: tokenizers::Error| Error::Tokenizer { tokenizer: origin.clone(), source };
    let bytes = std::fs::read(vocab).map_err(|source| Error::Open { path: vocab.to_owned(), source })?;
    let vocab = WordPiece::read_bytes(&bytes).map_err(failed)?;
    let special = |role: &'static str, usual: &str| {
        let token = token_text(config.get(format!("{role}_token"))).unwrap_or_else(|| usual.to_owned());
        match vocab.get(&token) {
            Some(&id) => Ok((token, id)),
            None => Err(Error::UnknownToken { tokenizer: origin.clone(), role, token }),
        }
    };
    let (unk, cls, sep) = (special("unk", "[UNK]")?, special("cls", "[CLS]")?, special("sep", "[SEP]")?);
    let others = [special("pad", "[PAD]")?, special("mask", "[MASK]")?];
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    let normalizer = BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars").unwrap_or(true),
        flag("strip_accents"),
        flag("do_lower_case").unwrap_or(true),
    );
    let special = [&unk, &cls, &sep].into_iter().chain(&others);
    let special: Vec<AddedToken> = special.map(|(token, _)| AddedToken::from(token.as_str(), true)).collect();
    let model = WordPiece::builder().vocab(vocab.clone()).unk_token(unk.0.clone()).build().map_err(failed)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(BertProcessing::new(sep, cls)));
    tokenizer.add_special_tokens(special).map_err(failed)?;
    Ok(tokenizer)
}
