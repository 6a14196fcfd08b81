//! A tokenizer and its special tokens.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokenizers::{AddedToken, Tokenizer};

use super::lines;
use crate::error::{Error, Result};
use crate::loaders::write_whole;

/// The tokens with a role of their own, where the caller names them; what is left `None` is looked up in the files beside
/// the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecialTokens {
    /// Ends a text. There must be one.
    pub eos: Option<String>,
    /// Begins a text, in models that want it.
    pub bos: Option<String>,
    /// Fills up short rows; EOS where there is none.
    pub pad: Option<String>,
}

/// A tokenizer in the format of the Hugging Face tokenizers library (`tokenizer.json`), with the ids of its special
/// tokens. Cheap to clone, and threads may share one.
///
/// Padding and truncation that the file asks for are switched off: batches pad, and [`crate::ExampleEncoder`] cuts.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Arc<Tokenizer>,
    /// The file's bytes, as they were read.
    json: Arc<[u8]>,
    origin: String,
    eos: u32,
    bos: Option<u32>,
    pad: u32,
    vocab_size: usize,
    /// See [`lines::splits_at_lines`].
    splits_at_lines: bool,
    /// Every special token with its id, by id.
    special: Arc<[(u32, String)]>,
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTokenizer")
            .field("origin", &self.origin)
            .field("vocab_size", &self.vocab_size)
            .field("eos", &self.eos)
            .field("bos", &self.bos)
            .field("pad", &self.pad)
            .finish_non_exhaustive()
    }
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`. It does not say which token ends a text, so `tokens` must name that one.
    ///
    /// # Errors
    /// [`Error::Open`] and [`Error::Tokenizer`] for a file that cannot be read, [`Error::NoEos`] without an EOS token,
    /// [`Error::UnknownToken`] for a special token outside the vocabulary.
    pub fn from_file(path: impl AsRef<Path>, tokens: &SpecialTokens) -> Result<Self> {
        let path = path.as_ref();
        let json = std::fs::read(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Self::from_json(json, &path.display().to_string(), tokens)
    }

    /// Reads the tokenizer of a Hugging Face model folder: `tokenizer.json`, and the special tokens that `tokens` does not
    /// name from the first of `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and
    /// `config.json` that has them (the first id where one of the last two lists several).
    ///
    /// # Errors
    /// As [`TextTokenizer::from_file`], and [`Error::SideFile`] when one of the other files is broken JSON.
    pub fn from_folder(folder: impl AsRef<Path>, tokens: &SpecialTokens) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer.json");
        let json = std::fs::read(&path).map_err(|source| Error::Open { path: path.clone(), source })?;
        let origin = folder.display().to_string();
        let mut inner = parse(&json, &path.display().to_string())?;

        let mut tokens = tokens.clone();
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let Some(side) = side_file(&folder.join(name))? else { continue };
            for (slot, role) in roles(&mut tokens) {
                if slot.is_none() {
                    *slot = token_text(side.get(format!("{role}_token")));
                }
            }
        }
        for name in ["generation_config.json", "config.json"] {
            let Some(side) = side_file(&folder.join(name))? else { continue };
            for (slot, role) in roles(&mut tokens) {
                if slot.is_none()
                    && let Some(id) = first_id(side.get(format!("{role}_token_id")))
                {
                    let unknown = || Error::UnknownToken {
                        tokenizer: origin.clone(),
                        role,
                        token: format!("id {id}, from {name}"),
                    };
                    *slot = Some(
                        u32::try_from(id).ok().and_then(|id| inner.id_to_token(id)).ok_or_else(unknown)?,
                    );
                }
            }
        }
        let looked = "neither tokenizer_config.json, special_tokens_map.json, generation_config.json nor config.json \
                      names one";
        Self::build(&mut inner, json, &origin, &tokens, looked)
    }

    pub(super) fn from_json(json: Vec<u8>, origin: &str, tokens: &SpecialTokens) -> Result<Self> {
        let mut inner = parse(&json, origin)?;
        Self::build(&mut inner, json, origin, tokens, "a tokenizer.json by itself does not name one")
    }

    fn build(
        inner: &mut Tokenizer,
        json: Vec<u8>,
        origin: &str,
        tokens: &SpecialTokens,
        looked: &'static str,
    ) -> Result<Self> {
        let failed = |source| Error::Tokenizer { tokenizer: origin.to_owned(), source };
        let mut find = |token: &Option<String>, role: &'static str| -> Result<Option<u32>> {
            let Some(token) = token else { return Ok(None) };
            let unknown = || Error::UnknownToken { tokenizer: origin.to_owned(), role, token: token.clone() };
            let id = inner.token_to_id(token).ok_or_else(unknown)?;
            // In the vocabulary already: this adds nothing, but makes it one that decoding can leave out.
            inner.add_special_tokens([AddedToken::from(token.as_str(), true)]).map_err(failed)?;
            Ok(Some(id))
        };
        let eos = find(&tokens.eos, "eos")?;
        let bos = find(&tokens.bos, "bos")?;
        let pad = find(&tokens.pad, "pad")?;
        let eos = eos.ok_or_else(|| Error::NoEos { tokenizer: origin.to_owned(), looked })?;

        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        let mut special: Vec<(u32, String)> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort();
        Ok(Self {
            inner: Arc::new(inner.clone()),
            json: json.into(),
            origin: origin.to_owned(),
            eos,
            bos,
            pad: pad.unwrap_or(eos),
            vocab_size: largest as usize + 1,
            splits_at_lines: lines::splits_at_lines(inner),
            special: special.into(),
        })
    }

    /// The ids of a text: special tokens that stand in it as text become their ids, none is added.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer breaks down on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The text of some ids, with or without the special tokens among them.
    ///
    /// # Errors
    /// [`Error::IdOutOfRange`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(Error::IdOutOfRange { id, vocabulary: self.vocab_size });
        }
        self.inner.decode(ids, skip_special).map_err(|source| self.failed(source))
    }

    /// The largest id and one: the least number of rows that a model's embedding must have.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id that ends a text.
    #[must_use]
    pub fn eos_id(&self) -> u32 {
        self.eos
    }

    /// The id that begins a text, where the tokenizer has one. Nothing adds it: a chat format writes it as text.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The id that fills up short rows. It may be EOS: what is padding is known from lengths, never from this id.
    #[must_use]
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// The id of a token, if it is in the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// SHA-256 of `tokenizer.json`, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:x}", Sha256::digest(&self.json))
    }

    /// Whether a model can embed every id: `rows` is the first dimension of its token embedding, which may be larger.
    ///
    /// # Errors
    /// [`Error::VocabularyMismatch`] when it cannot.
    pub fn check_vocabulary(&self, rows: usize) -> Result<()> {
        check_vocabulary(self.vocab_size, rows)
    }

    /// Whether this looks like a model's own tokenizer: [`TextTokenizer::check_vocabulary`] with the model's `rows`, and the
    /// ids of EOS and BOS that the model's configuration names, where both sides name one. A tokenizer that passes may still
    /// be another one with the same ids.
    ///
    /// # Errors
    /// [`Error::VocabularyMismatch`], [`Error::SpecialTokenMismatch`].
    pub fn check_model(&self, rows: usize, bos: Option<u32>, eos: Option<u32>) -> Result<()> {
        self.check_vocabulary(rows)?;
        for (role, own, model) in [("eos", Some(self.eos), eos), ("bos", self.bos, bos)] {
            if let (Some(own), Some(model)) = (own, model)
                && own != model
            {
                let token = self.inner.id_to_token(own).unwrap_or_default();
                return Err(Error::SpecialTokenMismatch { role, token, own, model });
            }
        }
        Ok(())
    }

    /// Writes `tokenizer.json` (the bytes that were read) and a `tokenizer_config.json` with the special tokens, which
    /// transformers loads as a `PreTrainedTokenizerFast`. The folder is made where it is missing; each file is replaced
    /// as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let text = |id: u32| self.inner.id_to_token(id);
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "bos_token": self.bos.and_then(text),
            "eos_token": text(self.eos),
            "pad_token": text(self.pad),
        });
        write_whole(&folder.join("tokenizer.json"), |out| out.write_all(&self.json))?;
        write_whole(&folder.join("tokenizer_config.json"), |out| writeln!(out, "{config:#}"))
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn splits_at_lines(&self) -> bool {
        self.splits_at_lines
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.binary_search_by_key(&id, |(special, _)| *special).is_ok()
    }

    /// The first special token that stands in a text as text.
    pub(super) fn special_in(&self, text: &str) -> Option<&str> {
        self.special.iter().map(|(_, token)| token.as_str()).find(|token| text.contains(token))
    }

    fn failed(&self, source: tokenizers::Error) -> Error {
        Error::Tokenizer { tokenizer: self.origin.clone(), source }
    }
}

/// Whether a model that embeds so many `rows` embeds every id of a vocabulary.
pub(super) fn check_vocabulary(vocab_size: usize, rows: usize) -> Result<()> {
    if vocab_size > rows {
        return Err(Error::VocabularyMismatch { largest: vocab_size - 1, rows });
    }
    Ok(())
}

pub(super) fn parse(json: &[u8], origin: &str) -> Result<Tokenizer> {
    Tokenizer::from_bytes(json).map_err(|source| Error::Tokenizer { tokenizer: origin.to_owned(), source })
}

/// The tokens to be found, each with its role: Hugging Face's files have it under `ROLE_token` or `ROLE_token_id`.
fn roles(tokens: &mut SpecialTokens) -> [(&mut Option<String>, &'static str); 3] {
    [(&mut tokens.eos, "eos"), (&mut tokens.bos, "bos"), (&mut tokens.pad, "pad")]
}

/// A JSON file that may be missing.
pub(super) fn side_file(path: &Path) -> Result<Option<Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Open { path: path.to_owned(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(Error::SideFile { path: path.to_owned(), source }),
    }
}

/// A token as text, or as an object with `content`.
pub(super) fn token_text(value: Option<&Value>) -> Option<String> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// An id, or the first of a list.
fn first_id(value: Option<&Value>) -> Option<i64> {
    let value = value?;
    value.as_i64().or_else(|| value.get(0)?.as_i64())
}
