//! Perplexity from the negative log-likelihoods that a language model gives.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metric::{Examples, Metric, Statistics, Sums};
use crate::score::Unit;
use crate::sums::ExactSum;
use crate::tokens::{PreTokenization, Preprocessing, Split};

/// Perplexity, from the negative log-likelihoods that any language model gives.
///
/// An example is the sum of its target tokens' negative log-likelihoods (natural logarithm), their number, and the
/// target's text, which only the form by word looks at. The scores are
///
/// - `Perplexity (token)`, `exp(sum of NLL / number of tokens)`, as Hugging Face's loss and ParlAI's report;
/// - `Perplexity (example mean)`, `exp(mean over examples of NLL / tokens of the example)`, as PAL's released code: a
///   short reply weighs as much as a long one;
/// - of [`Perplexity::by_word`] alone `Perplexity (word)`, `exp(sum of NLL / number of words)`: models with different
///   tokenizers can be compared by it, and by no other.
///
/// ```
/// use persona_metrics::Perplexity;
///
/// let mut statistics = Perplexity::by_word().statistics();
/// statistics.update(4.0, 2, "hello")?;
/// statistics.update(2.0, 4, "how are you")?;
/// // 6 nats over 6 tokens; (4/2 + 2/4) / 2; 6 nats over 4 words.
/// assert_eq!(statistics.values()?, [1.0_f64, 1.25, 1.5].map(f64::exp));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Perplexity {
    words: Option<Preprocessing>,
}

impl Perplexity {
    /// Its first score: the perplexity by token.
    pub const TOKEN: &'static str = "Perplexity (token)";
    /// Its second score.
    pub const EXAMPLE_MEAN: &'static str = "Perplexity (example mean)";
    /// The third score of [`Perplexity::by_word`].
    pub const WORD: &'static str = "Perplexity (word)";

    /// A float32 log-softmax may leave a certain token this far below 0.
    const ROUNDING: f64 = 1e-4;

    /// With the perplexity by word; words are those of `str.split()`.
    pub fn by_word() -> Self {
        Self { words: Some(Preprocessing::new(Split::Whitespace)) }
    }

    /// With the perplexity by word; this happens to a text before its words are counted.
    #[must_use]
    pub fn pre_tokenization(self, pre_tokenization: PreTokenization) -> Self {
        let words = self.words.unwrap_or(Preprocessing::new(Split::Whitespace));
        Self { words: Some(Preprocessing { pre_tokenization, ..words }) }
    }

    /// Empty statistics under these settings; see [`Metric::statistics`].
    pub fn statistics(&self) -> Statistics<Self> {
        Metric::statistics(self)
    }

    /// The sums of one example: `nll` over its `tokens` target tokens, in nats, and the target.
    ///
    /// # Errors
    /// No tokens; a sum that is NaN, infinite or below zero by more than rounding.
    pub fn example(&self, nll: f64, tokens: u64, text: &str) -> Result<PerplexitySums> {
        if tokens == 0 {
            return Err(Error::NoTargetTokens);
        }
        if !nll.is_finite() || nll < -Self::ROUNDING * tokens as f64 {
            return Err(Error::InvalidNll { nll, tokens });
        }
        let words = self.words.map_or(0, |words| words.split(&words.prepare(text)).len() as u64);
        let mut sums = PerplexitySums { examples: 1, tokens, words, ..self.empty() };
        sums.nll.add(Self::NAME, nll)?;
        sums.example_means.add(Self::NAME, nll / tokens as f64)?;
        Ok(sums)
    }

    /// Each example by itself, to draw them again (see [`stats`](crate::stats)): what [`Perplexity::example`] takes.
    ///
    /// # Errors
    /// As [`Perplexity::example`], with the example's index.
    pub fn examples<T: AsRef<str>>(
        &self,
        examples: impl IntoIterator<Item = (f64, u64, T)>,
    ) -> Result<Examples<Self>> {
        let sums = examples.into_iter().enumerate().map(|(index, (nll, tokens, text))| {
            self.example(nll, tokens, text.as_ref()).map_err(|error| error.at(index))
        });
        Ok(Examples::new(*self, sums.collect::<Result<_>>()?))
    }
}

impl Statistics<Perplexity> {
    /// Adds one example; see [`Perplexity::example`].
    ///
    /// # Errors
    /// As [`Perplexity::example`]; nothing is added then.
    pub fn update(&mut self, nll: f64, tokens: u64, text: &str) -> Result<()> {
        let example = self.metric().example(nll, tokens, text)?;
        self.push(&example)
    }

    /// Mean negative log-likelihood of a token, in nats.
    ///
    /// # Errors
    /// Nothing was added.
    pub fn mean_nll(&self) -> Result<f64> {
        let [token, _] = self.mean_nlls()?;
        Ok(token)
    }

    /// Mean over examples of the mean negative log-likelihood of their tokens, in nats: every example weighs the same.
    ///
    /// # Errors
    /// Nothing was added.
    pub fn example_mean_nll(&self) -> Result<f64> {
        let [_, example] = self.mean_nlls()?;
        Ok(example)
    }

    fn mean_nlls(&self) -> Result<[f64; 2]> {
        match self.sums() {
            PerplexitySums { examples: 0, .. } => Err(Error::EmptyCorpus { metric: Perplexity::NAME }),
            sums => Ok(sums.mean_nlls()),
        }
    }
}

/// Sums that every form of perplexity is computed from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PerplexitySums {
    examples: u64,
    tokens: u64,
    words: u64,
    nll: ExactSum,
    example_means: ExactSum,
}

impl PerplexitySums {
    /// The mean negative log-likelihood of a token, and the mean over examples of theirs.
    pub(crate) fn mean_nlls(&self) -> [f64; 2] {
        [self.nll.value() / self.tokens as f64, self.example_means.value() / self.examples as f64]
    }
}

impl Sums for PerplexitySums {
    fn add(&mut self, other: &Self) -> Result<()> {
        let mut sums = (self.nll, self.example_means);
        sums.0.merge(Perplexity::NAME, &other.nll)?;
        sums.1.merge(Perplexity::NAME, &other.example_means)?;
        (self.nll, self.example_means) = sums;
        self.examples = self.examples.saturating_add(other.examples);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.words = self.words.saturating_add(other.words);
        Ok(())
    }
}

impl Metric for Perplexity {
    const NAME: &'static str = "Perplexity";
    type Sums = PerplexitySums;

    fn empty(&self) -> PerplexitySums {
        PerplexitySums::default()
    }

    fn names(&self) -> Vec<String> {
        let word = self.words.map(|_| Self::WORD);
        [Self::TOKEN, Self::EXAMPLE_MEAN].into_iter().chain(word).map(str::to_owned).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Plain
    }

    /// # Errors
    /// Texts without a word, by word.
    fn values(&self, sums: &PerplexitySums) -> Result<Vec<f64>> {
        let PerplexitySums { words, nll, .. } = sums;
        let mut values = sums.mean_nlls().map(f64::exp).to_vec();
        if self.words.is_some() {
            if *words == 0 {
                return Err(Error::UnknownWords);
            }
            values.push((nll.value() / *words as f64).exp());
        }
        Ok(values)
    }

    fn settings(&self) -> String {
        format!("words:{}", self.words.map_or("no".to_owned(), |words| words.signature()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Draws, bootstrap};

    #[test]
    fn words_are_counted_under_the_settings() {
        let by_word = |perplexity: Perplexity, text: &str| {
            let mut statistics = perplexity.statistics();
            statistics.update(3.0, 3, text)?;
            Ok::<f64, Error>(statistics.scores()?.get(Perplexity::WORD).unwrap().value())
        };
        assert_eq!(by_word(Perplexity::by_word(), "i do, too.").unwrap(), 1.0_f64.exp());
        let spaced = Perplexity::default().pre_tokenization(PreTokenization::SpacePunctuation);
        assert_eq!(by_word(spaced, "i do, too.").unwrap(), 0.6_f64.exp());
        assert!(spaced.settings().starts_with("words:case:mixed|pre:space-punctuation|"));
        assert!(matches!(by_word(spaced, " "), Err(Error::UnknownWords)));
        let mut statistics = spaced.statistics();
        assert!(matches!(
            statistics.merge(&Perplexity::by_word().statistics()),
            Err(Error::SettingsDiffer { .. })
        ));
    }

    #[test]
    fn examples_are_drawn_again() {
        let examples = Perplexity::default().examples([(2.0, 2, ""), (6.0, 2, ""), (1.0, 4, "")]).unwrap();
        // Drawn: 2, 6, 6; 1, 1, 1.
        let rows = vec![vec![0, 1, 1], vec![2, 2, 2]];
        let intervals = bootstrap(&examples, &Draws::given(&rows), 0.5).unwrap();
        assert_eq!(intervals[0].value, (9.0_f64 / 8.0).exp());
        let (low, high) = (0.25_f64.exp(), (14.0_f64 / 6.0).exp());
        assert!((intervals[0].low - (0.75 * low + 0.25 * high)).abs() < 1e-12, "{:?}", intervals[0]);
        let bad = Perplexity::default().examples([(1.0, 1, ""), (f64::NAN, 1, "")]);
        assert!(matches!(bad, Err(Error::Example { index: 1, .. })));
    }

    #[test]
    fn bad_numbers_are_errors_and_add_nothing() {
        let mut statistics = Perplexity::default().statistics();
        assert!(matches!(statistics.scores(), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(statistics.mean_nll(), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(statistics.update(0.0, 0, ""), Err(Error::NoTargetTokens)));
        for nll in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(matches!(statistics.update(nll, 5, ""), Err(Error::InvalidNll { .. })), "{nll}");
        }
        assert!(matches!(statistics.update(1e300, 5, ""), Err(Error::OutOfRange { .. })));
        assert_eq!(statistics, Perplexity::default().statistics());
        statistics.update(-1e-7, 5, "").unwrap();
        statistics.update(1e6, 5, "").unwrap();
        assert!(matches!(statistics.scores(), Err(Error::OutOfRange { .. })), "exp(1e5) is beyond f64");
    }
}
