//! Training a tokenizer from a corpus.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use super::tokenizer::{SpecialTokens, TextTokenizer};
use crate::error::{Error, Result};

const PAD: &str = "<pad>";
const BOS: &str = "<s>";
const EOS: &str = "</s>";

/// The largest vocabulary: training reserves memory for all of it before it reads a text.
pub(super) const MOST: usize = 1 << 22;

/// How a byte-level BPE is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BpeOptions {
    /// The size of the vocabulary, special tokens and the 256 bytes included: 259 to 4,194,304. A corpus with too few
    /// different words gives a smaller one, see [`TextTokenizer::vocab_size`].
    pub vocab_size: usize,
    /// How often two tokens must stand side by side to become one.
    pub min_frequency: u64,
}

impl Default for BpeOptions {
    fn default() -> Self {
        Self { vocab_size: 4096, min_frequency: 2 }
    }
}

/// Trains a byte-level BPE, as GPT-2's: every byte is in the vocabulary, so no text is unknown; no space is put before
/// a text. `<pad>`, `<s>` (BOS) and `</s>` (EOS) have the ids 0, 1 and 2. The same texts give the same tokenizer, in
/// whatever order they come.
///
/// Best trained on what the model will read: rendered prompts and targets, rather than bare utterances.
///
/// # Errors
/// [`Error::TokenizerTraining`] for a vocabulary outside [`BpeOptions::vocab_size`]'s range, and when there is no text.
///
/// ```
/// use persona_data::{BpeOptions, train_byte_level_bpe};
///
/// let texts = ["person1: hello there", "person2: hello you"].map(String::from);
/// let tokenizer = train_byte_level_bpe(texts.into_iter(), &BpeOptions { vocab_size: 270, min_frequency: 2 })?;
/// let ids = tokenizer.encode("hello, 世界")?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "hello, 世界");
/// # Ok::<(), persona_data::Error>(())
/// ```
pub fn train_byte_level_bpe(
    texts: impl Iterator<Item = String> + Send,
    options: &BpeOptions,
) -> Result<TextTokenizer> {
    let special = [PAD, BOS, EOS].map(|token| AddedToken::from(token, true));
    let least = special.len() + ByteLevel::alphabet().len();
    if options.vocab_size < least {
        let problem =
            format!("vocab_size {} is below {least}: 256 bytes and 3 special tokens", options.vocab_size);
        return Err(Error::TokenizerTraining { problem });
    }
    if options.vocab_size > MOST {
        let problem = format!("vocab_size {} is above {MOST}; ask for no more", options.vocab_size);
        return Err(Error::TokenizerTraining { problem });
    }
    let failed = |source| Error::Tokenizer { tokenizer: "tokenizer in training".to_owned(), source };
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(None)
        .with_decoder(Some(byte_level))
        .build()
        .map_err(failed)?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let any = AtomicBool::new(false);
    let seen = texts.inspect(|text| {
        if !text.trim().is_empty() {
            any.store(true, Ordering::Relaxed);
        }
    });
    tokenizer.train(&mut trainer, seen).map_err(failed)?;
    if !any.load(Ordering::Relaxed) {
        return Err(Error::TokenizerTraining { problem: "there is no text to train on".to_owned() });
    }
    let json = tokenizer.to_string(true).map_err(failed)?;
    let named = |token: &str| Some(token.to_owned());
    let tokens = SpecialTokens { eos: named(EOS), bos: named(BOS), pad: named(PAD) };
    TextTokenizer::from_json(json.into_bytes(), "trained tokenizer", &tokens)
}
