//! Training an encoder's tokenizer from a corpus.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainerBuilder};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, TokenizerBuilder, Trainer,
};

use super::bpe::MOST;
use super::encoder_tokenizer::EncoderTokenizer;
use crate::error::{Error, Result};

/// Padding, unknown words, the start of a text, the end of each part of a pair, and masked words: the ids 0 to 4.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

type Builder =
    TokenizerBuilder<WordPiece, BertNormalizer, BertPreTokenizer, TemplateProcessing, WordPieceDecoder>;

/// How a WordPiece vocabulary is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WordPieceOptions {
    /// The size of the vocabulary, the special tokens and every character of the corpus included: 6 to 4,194,304. A
    /// corpus with too few different words gives a smaller one.
    pub vocab_size: usize,
    /// How often two pieces must stand side by side to become one.
    pub min_frequency: u64,
}

impl Default for WordPieceOptions {
    fn default() -> Self {
        Self { vocab_size: 4096, min_frequency: 2 }
    }
}

/// Trains a WordPiece tokenizer with BERT's normalisation (lower case, accents off, Chinese characters apart) and BERT's
/// layout of texts and pairs. The same texts give the same tokenizer, in whatever order they come.
///
/// # Errors
/// [`Error::TokenizerTraining`] for a vocabulary outside [`WordPieceOptions::vocab_size`]'s range, and when there is no
/// text; [`Error::EncodeOptions`] for a `max_tokens` below 8.
///
/// ```
/// use persona_data::{WordPieceOptions, train_wordpiece};
///
/// let texts = ["I have two dogs.", "Two dogs and a cat."].map(String::from);
/// let tokenizer = train_wordpiece(texts.into_iter(), &WordPieceOptions { min_frequency: 1, ..Default::default() }, 32)?;
/// let pair = tokenizer.encode_pair(("two dogs", "a cat"))?;
/// assert_eq!((pair.token_types, pair.cut), (vec![0, 0, 0, 0, 1, 1, 1], false));
/// # Ok::<(), persona_data::Error>(())
/// ```
pub fn train_wordpiece(
    texts: impl Iterator<Item = String> + Send,
    options: &WordPieceOptions,
    max_tokens: usize,
) -> Result<EncoderTokenizer> {
    if !(SPECIAL.len() + 1..=MOST).contains(&options.vocab_size) {
        let problem =
            format!("vocab_size is {}; it lies in {} to {MOST}", options.vocab_size, SPECIAL.len() + 1);
        return Err(Error::TokenizerTraining { problem });
    }
    let failed = |source| Error::Tokenizer { tokenizer: "tokenizer in training".to_owned(), source };
    let [_, _, cls, sep, _] = SPECIAL;
    let layout = TemplateProcessing::builder()
        .try_single(format!("{cls}:0 $A:0 {sep}:0"))
        .and_then(|builder| builder.try_pair(format!("{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")))
        .map_err(|problem| Error::TokenizerTraining { problem })?
        .special_tokens(vec![(cls, 2), (sep, 3)])
        .build()
        .map_err(|error| Error::TokenizerTraining { problem: error.to_string() })?;
    let mut words = Vec::new();
    let mut characters = BTreeSet::new();
    for text in texts {
        let of_text = words_of(&text).map_err(failed)?;
        characters.extend(of_text.iter().flat_map(|word| word.chars()));
        words.extend(of_text);
    }
    if words.is_empty() {
        return Err(Error::TokenizerTraining { problem: "there is no text to train on".to_owned() });
    }
    // The trainer numbers the pieces within words by the order of a hash table; named beforehand they have one order.
    let special = SPECIAL.map(|token| AddedToken::from(token, true));
    let within = characters.iter().map(|character| AddedToken::from(format!("##{character}"), false));
    let mut trainer = WordPieceTrainerBuilder::new()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .special_tokens(special.iter().cloned().chain(within).collect())
        .show_progress(false)
        .build();
    trainer.feed(words.iter(), |word| Ok(vec![word.to_owned()])).map_err(failed)?;
    let mut model = WordPiece::default();
    Trainer::train(&trainer, &mut model).map_err(failed)?;
    let mut tokenizer = Builder::new()
        .with_model(model)
        .with_normalizer(Some(BertNormalizer::default()))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(layout))
        .with_decoder(Some(WordPieceDecoder::default()))
        .build()
        .map_err(failed)?;
    tokenizer.add_special_tokens(special).map_err(failed)?;
    let json = tokenizer.to_string(true).map_err(failed)?;
    let [pad, unk, cls, sep, mask] = SPECIAL;
    let side = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_tokens,
        "pad_token": pad, "unk_token": unk, "cls_token": cls, "sep_token": sep, "mask_token": mask,
    });
    EncoderTokenizer::new(tokenizer.into(), json.into_bytes(), side, "trained tokenizer".to_owned())
}

/// The words of a text as BERT cuts it.
fn words_of(text: &str) -> tokenizers::Result<Vec<String>> {
    let mut normal = NormalizedString::from(text);
    BertNormalizer::default().normalize(&mut normal)?;
    let mut cut = PreTokenizedString::from(normal);
    BertPreTokenizer.pre_tokenize(&mut cut)?;
    let splits = cut.get_splits(OffsetReferential::Normalized, OffsetType::None);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
}
