//! BERTScore's and similarity's embedders on persona-model's encoders.

use std::path::Path;

use ndarray::Array2;
use persona_data::{EncodedText, EncoderTokenizer};
use persona_model::{Encoder, Model, Pooling, load_encoder};
use tch::{Device, Kind};

use super::batches::{in_batches, numbers};
use super::sentence_settings::SentenceSettings;
use super::{LongTexts, folder_name, signature_part, unusable};
use crate::embedding::{SentenceEmbedder, TokenEmbedder, TokenVectors};
use crate::error::{Error, ModelError, Result, shortened};

/// An encoder with its tokenizer: a [`TokenEmbedder`] by the output of one of its layers, and a [`SentenceEmbedder`] by
/// pooling its last hidden states.
///
/// White space at both ends of a text is stripped, as by bert-score, and by sentence-transformers up to version 5. For
/// tokenizers that mark spaces (RoBERTa's) the text of a [`TokenEmbedder`] begins with one, as in bert-score; that of a
/// [`SentenceEmbedder`] does not.
pub struct TextEncoder {
    model: Box<dyn Encoder>,
    /// Cuts at what the model has positions for and the tokenizer's `model_max_length`.
    tokenizer: EncoderTokenizer,
    /// Cuts at what sentence-transformers reads besides.
    sentence_tokenizer: EncoderTokenizer,
    name: String,
    layer: usize,
    pooling: Pooling,
    /// Of sentences.
    lower_case: bool,
    long: LongTexts,
}

impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { model: _, tokenizer, sentence_tokenizer: _, name, layer, pooling, lower_case, long } =
            self;
        f.debug_struct("TextEncoder")
            .field("name", name)
            .field("tokenizer", tokenizer)
            .field("layer", layer)
            .field("pooling", pooling)
            .field("lower_case", lower_case)
            .field("long", long)
            .finish_non_exhaustive()
    }
}

impl TextEncoder {
    /// Texts of one call: enough to sort into batches of like length.
    const TEXTS: usize = 4096;

    /// Loads the encoder and the tokenizer of a folder, in `kind`, named as the [module](super) says. Layer is the last;
    /// pooling, the longest sentence and whether sentences are lower-cased are those of sentence-transformers' files
    /// (`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`) where they are there, else the mean and what
    /// the model reads.
    ///
    /// # Errors
    /// [`Error::ModelFiles`] with what persona-model or persona-data has against the folder, for a tokenizer with more ids
    /// than the model embeds, for a pooling that persona-model does not have, and for a module of sentence-transformers
    /// besides Transformer, Pooling and Normalize.
    pub fn load(folder: impl AsRef<Path>, device: Device, kind: Kind) -> Result<Self> {
        let folder = folder.as_ref();
        let unusable = unusable(folder);
        let (model, _) = load_encoder(folder, device, kind).map_err(|error| unusable(error.into()))?;
        let tokenizer = EncoderTokenizer::from_folder(folder).map_err(|error| unusable(error.into()))?;
        let SentenceSettings { pooling, longest, lower_case } =
            SentenceSettings::of(folder).map_err(&unusable)?;
        let name = folder_name(folder, kind).map_err(&unusable)?;
        let encoder = Self::new(model, tokenizer, name).map_err(&unusable)?;
        let encoder = Self { pooling, lower_case, ..encoder };
        match longest {
            Some(longest) => encoder.longest_sentence(longest).map_err(unusable),
            None => Ok(encoder),
        }
    }

    /// An encoder with its tokenizer, under a name for signatures.
    ///
    /// # Errors
    /// persona-data's, for a tokenizer with more ids than the model embeds.
    pub fn new(
        model: Box<dyn Encoder>,
        tokenizer: EncoderTokenizer,
        name: impl AsRef<str>,
    ) -> Result<Self, ModelError> {
        let limits = model.limits();
        tokenizer.check_vocabulary(limits.vocabulary)?;
        let longest = tokenizer.max_tokens().min(limits.positions);
        let tokenizer = tokenizer.with_max_tokens(longest)?;
        Ok(Self {
            layer: model.layers(),
            sentence_tokenizer: tokenizer.clone(),
            model,
            tokenizer,
            name: signature_part(name.as_ref()),
            pooling: Pooling::Mean,
            lower_case: false,
            long: LongTexts::Refuse,
        })
    }

    /// Calls the model so in signatures: give the repository and revision, a folder's name says little.
    #[must_use]
    pub fn named(self, name: impl AsRef<str>) -> Self {
        Self { name: signature_part(name.as_ref()), ..self }
    }

    /// Token vectors are the output of this layer; 0 is what the embeddings give. bert-score takes 9 for bert-base-uncased,
    /// 17 for roberta-large, 8 for bert-base-chinese.
    ///
    /// # Errors
    /// A layer that the model does not have.
    pub fn layer(self, layer: usize) -> Result<Self> {
        let layers = self.model.layers();
        if layer > layers {
            let problem = format!("layer {layer} of {}, which has {layers} layers", self.name);
            return Err(Error::InvalidSetting { metric: "BERTScore", problem });
        }
        Ok(Self { layer, ..self })
    }

    /// How the hidden states of a sentence become one vector.
    #[must_use]
    pub fn pooling(self, pooling: Pooling) -> Self {
        Self { pooling, ..self }
    }

    /// What happens to texts that are too long; unless set they are refused.
    #[must_use]
    pub fn long_texts(self, long: LongTexts) -> Self {
        Self { long, ..self }
    }

    /// The most tokens of a sentence, special ones included, for [`SentenceEmbedder`].
    fn longest_sentence(self, longest: usize) -> Result<Self, ModelError> {
        let longest = longest.min(self.tokenizer.max_tokens());
        Ok(Self { sentence_tokenizer: self.tokenizer.clone().with_max_tokens(longest)?, ..self })
    }

    fn rows(&self, tokenizer: &EncoderTokenizer, texts: &[&str]) -> Result<Vec<EncodedText>, ModelError> {
        let rows = tokenizer.encode_all(texts)?;
        self.long.check(&rows, |at| Error::TextTooLong {
            model: self.name.clone(),
            text: shortened(texts.get(at).copied().unwrap_or_default()),
            limit: tokenizer.max_tokens(),
        })?;
        Ok(rows)
    }

    /// The rows of texts as bert-score has them.
    fn token_rows(&self, texts: &[&str]) -> Result<Vec<EncodedText>, ModelError> {
        let texts = texts.iter().map(|text| crate::text::trim(text));
        if !self.tokenizer.marks_spaces() {
            return self.rows(&self.tokenizer, &texts.collect::<Vec<_>>());
        }
        let spaced = texts.map(|text| if text.is_empty() { String::new() } else { format!(" {text}") });
        let spaced: Vec<String> = spaced.collect();
        self.rows(&self.tokenizer, &spaced.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The rows of sentences as sentence-transformers has them.
    fn sentence_rows(&self, texts: &[&str]) -> Result<Vec<EncodedText>, ModelError> {
        let texts = texts.iter().map(|text| crate::text::trim(text));
        if !self.lower_case {
            return self.rows(&self.sentence_tokenizer, &texts.collect::<Vec<_>>());
        }
        let lower: Vec<String> = texts.map(str::to_lowercase).collect();
        self.rows(&self.sentence_tokenizer, &lower.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn place(&self) -> (persona_model::Limits, Device) {
        (self.model.limits(), self.model.device())
    }
}

impl TokenEmbedder for TextEncoder {
    fn name(&self) -> String {
        self.long.name(&self.name, self.tokenizer.max_tokens())
    }

    fn layer(&self) -> usize {
        self.layer
    }

    fn batch_size(&self) -> usize {
        Self::TEXTS
    }

    fn token_ids(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError> {
        Ok(self.token_rows(texts)?.into_iter().map(|row| row.ids).collect())
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<TokenVectors>, ModelError> {
        let rows = self.token_rows(texts)?;
        let vectors = in_batches(&rows, self.place(), |batch| {
            let hidden = self.model.layer_output(batch, self.layer, false)?;
            let width = hidden.size2()?.1 as usize;
            let hidden = numbers(&hidden)?;
            let row = |row: &persona_model::Row| {
                let values = hidden.get(row.start * width..(row.start + row.len) * width);
                Ok(Array2::from_shape_vec((row.len, width), values.unwrap_or_default().to_vec())?)
            };
            batch.rows().iter().map(row).collect()
        })?;
        let tokens = rows.into_iter().zip(vectors).map(|(EncodedText { ids, .. }, vectors)| {
            let special = ids.iter().map(|&id| self.tokenizer.is_boundary(id)).collect();
            TokenVectors { vectors, ids, special }
        });
        Ok(tokens.collect())
    }
}

impl SentenceEmbedder for TextEncoder {
    fn name(&self) -> String {
        let name = self.long.name(&self.name, self.sentence_tokenizer.max_tokens());
        let case = if self.lower_case { ", lower case" } else { "" };
        format!("{name}, pooling {:?}{case}", self.pooling)
    }

    fn batch_size(&self) -> usize {
        Self::TEXTS
    }

    fn embed(&self, texts: &[&str]) -> Result<Array2<f32>, ModelError> {
        let rows = self.sentence_rows(texts)?;
        let vectors: Vec<Vec<f32>> = in_batches(&rows, self.place(), |batch| {
            let pooled = self.pooling.of(&self.model.hidden(batch, false)?, batch)?;
            let width = pooled.size2()?.1 as usize;
            Ok(numbers(&pooled)?.chunks(width.max(1)).map(<[f32]>::to_vec).collect())
        })?;
        let width = vectors.first().map_or(0, Vec::len);
        Ok(Array2::from_shape_vec((texts.len(), width), vectors.concat())?)
    }
}
