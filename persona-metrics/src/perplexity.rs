//! Perplexity from the negative log-likelihoods that a language model gives.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::score::{Score, Signature, Unit};
use crate::sums::ExactSum;
use crate::tokens::{PreTokenization, Preprocessing, Split};

const NAME: &str = "Perplexity";

/// Settings of a perplexity: how words are counted for its per-word form.
///
/// The numbers come from any language model: for each example the sum of its target tokens' negative log-likelihoods
/// (natural logarithm) and their number. Token-level values of models with different tokenizers cannot be compared;
/// per-word values can.
///
/// ```
/// use persona_metrics::Perplexity;
///
/// let mut statistics = Perplexity::default().statistics();
/// statistics.update(4.0, 2, Some("hello"))?;
/// statistics.update(2.0, 4, Some("how are you"))?;
/// assert_eq!(statistics.token_level()?.value(), 1.0_f64.exp()); // 6 nats over 6 tokens
/// assert_eq!(statistics.example_mean()?.value(), 1.25_f64.exp()); // (4/2 + 2/4) / 2
/// assert_eq!(statistics.word_level()?.value(), 1.5_f64.exp()); // 6 nats over 4 words
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Perplexity {
    words: Preprocessing,
}

impl Default for Perplexity {
    /// Words are those of `str.split()`.
    fn default() -> Self {
        Self { words: Preprocessing::new(Split::Whitespace) }
    }
}

impl Perplexity {
    /// What happens to a text before its words are counted.
    #[must_use]
    pub fn pre_tokenization(mut self, pre_tokenization: PreTokenization) -> Self {
        self.words.pre_tokenization = pre_tokenization;
        self
    }

    /// Empty statistics under these settings.
    pub fn statistics(&self) -> PerplexityStats {
        PerplexityStats {
            settings: *self,
            examples: 0,
            examples_with_text: 0,
            tokens: 0,
            words: 0,
            nll: ExactSum::default(),
            example_means: ExactSum::default(),
        }
    }

    fn signature(&self) -> String {
        format!("words:{}", self.words.signature())
    }
}

/// Sums that every form of perplexity is computed from. Shards are merged in any order, to the same bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerplexityStats {
    settings: Perplexity,
    examples: u64,
    examples_with_text: u64,
    tokens: u64,
    words: u64,
    nll: ExactSum,
    example_means: ExactSum,
}

impl PerplexityStats {
    /// A float32 log-softmax may leave a certain token this far below 0.
    const ROUNDING: f64 = 1e-4;

    /// Adds one example: `nll` is the sum over its `tokens` target tokens, in nats; `text` is the target, needed for
    /// the per-word form alone.
    ///
    /// # Errors
    /// No tokens; a sum that is NaN, infinite or below zero by more than rounding. Nothing is added then.
    pub fn update(&mut self, nll: f64, tokens: u64, text: Option<&str>) -> Result<()> {
        if tokens == 0 {
            return Err(Error::NoTargetTokens);
        }
        if !nll.is_finite() || nll < -Self::ROUNDING * tokens as f64 {
            return Err(Error::InvalidNll { nll, tokens });
        }
        let mut sums = (self.nll, self.example_means);
        sums.0.add(NAME, nll)?;
        sums.1.add(NAME, nll / tokens as f64)?;
        (self.nll, self.example_means) = sums;
        self.examples = self.examples.saturating_add(1);
        self.tokens = self.tokens.saturating_add(tokens);
        if let Some(text) = text {
            let text = self.settings.words.prepare(text);
            self.words = self.words.saturating_add(self.settings.words.split(&text).len() as u64);
            self.examples_with_text = self.examples_with_text.saturating_add(1);
        }
        Ok(())
    }

    /// Adds the sums of another part of the corpus.
    ///
    /// # Errors
    /// The other part was counted under other settings.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.settings != other.settings {
            return Err(Error::SettingsDiffer {
                left: self.settings.signature(),
                right: other.settings.signature(),
            });
        }
        let mut sums = (self.nll, self.example_means);
        sums.0.merge(NAME, &other.nll)?;
        sums.1.merge(NAME, &other.example_means)?;
        (self.nll, self.example_means) = sums;
        self.examples = self.examples.saturating_add(other.examples);
        self.examples_with_text = self.examples_with_text.saturating_add(other.examples_with_text);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.words = self.words.saturating_add(other.words);
        Ok(())
    }

    /// `exp(sum of NLL / number of tokens)`, as Hugging Face's loss and ParlAI's report.
    ///
    /// # Errors
    /// Nothing was added; a value beyond f64.
    pub fn token_level(&self) -> Result<Score> {
        Self::score("Perplexity (token)", self.mean_nll()?.exp(), "level:token".to_owned())
    }

    /// `exp(mean over examples of NLL / tokens of the example)`, as PAL's released code: a short reply weighs as much
    /// as a long one.
    ///
    /// # Errors
    /// Nothing was added; a value beyond f64.
    pub fn example_mean(&self) -> Result<Score> {
        self.not_empty()?;
        let mean = self.example_means.value() / self.examples as f64;
        Self::score("Perplexity (example mean)", mean.exp(), "level:example-mean".to_owned())
    }

    /// `exp(sum of NLL / number of words)`.
    ///
    /// # Errors
    /// Nothing was added; an example came without its text, or the texts hold no word; a value beyond f64.
    pub fn word_level(&self) -> Result<Score> {
        self.not_empty()?;
        if self.words == 0 || self.examples_with_text < self.examples {
            return Err(Error::UnknownWords);
        }
        let mean = self.nll.value() / self.words as f64;
        let signature = format!("level:word|{}", self.settings.signature());
        Self::score("Perplexity (word)", mean.exp(), signature)
    }

    /// Mean negative log-likelihood of a token, in nats.
    ///
    /// # Errors
    /// Nothing was added.
    pub fn mean_nll(&self) -> Result<f64> {
        self.not_empty()?;
        Ok(self.nll.value() / self.tokens as f64)
    }

    fn not_empty(&self) -> Result<()> {
        if self.examples == 0 { Err(Error::EmptyCorpus { metric: NAME }) } else { Ok(()) }
    }

    fn score(name: &str, value: f64, signature: String) -> Result<Score> {
        Score::new(NAME, name, value, Unit::Plain, Signature::new(signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_under_the_settings() {
        let mut plain = Perplexity::default().statistics();
        plain.update(3.0, 3, Some("i do, too.")).unwrap();
        assert_eq!(plain.word_level().unwrap().value(), 1.0_f64.exp());
        let spaced = Perplexity::default().pre_tokenization(PreTokenization::SpacePunctuation);
        let mut spaced = spaced.statistics();
        spaced.update(3.0, 3, Some("i do, too.")).unwrap();
        let score = spaced.word_level().unwrap();
        assert_eq!(score.value(), 0.6_f64.exp());
        assert!(score.signature().as_str().starts_with("level:word|words:case:mixed|pre:space-punctuation|"));
        assert!(matches!(plain.merge(&spaced), Err(Error::SettingsDiffer { .. })));
    }

    #[test]
    fn words_have_to_be_known_for_every_example() {
        let mut statistics = Perplexity::default().statistics();
        statistics.update(1.0, 1, Some("")).unwrap();
        assert!(matches!(statistics.word_level(), Err(Error::UnknownWords)));
        statistics.update(1.0, 1, Some("a")).unwrap();
        assert!(statistics.word_level().is_ok());
        statistics.update(1.0, 1, None).unwrap();
        assert!(matches!(statistics.word_level(), Err(Error::UnknownWords)));
    }

    #[test]
    fn bad_numbers_are_errors_and_add_nothing() {
        let mut statistics = Perplexity::default().statistics();
        assert!(matches!(statistics.token_level(), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(statistics.update(0.0, 0, None), Err(Error::NoTargetTokens)));
        for nll in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(matches!(statistics.update(nll, 5, None), Err(Error::InvalidNll { .. })), "{nll}");
        }
        assert!(matches!(statistics.update(1e300, 5, None), Err(Error::OutOfRange { .. })));
        assert_eq!(statistics, Perplexity::default().statistics());
        statistics.update(-1e-7, 5, None).unwrap();
        statistics.update(1e6, 5, None).unwrap();
        assert!(matches!(statistics.token_level(), Err(Error::OutOfRange { .. })), "exp(1e5) is beyond f64");
    }
}
