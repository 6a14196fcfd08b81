//! BLEU as NLTK computes it.

use serde::{Deserialize, Serialize};

use super::BleuCounts;
use super::nltk_smoothing::NltkSmoothing;
use crate::error::{Error, Result};
use crate::example::with_example;
use crate::metric::{Metric, PairMetric, Sums, pair_metric_methods};
use crate::score::Unit;
use crate::sums::MeanSums;
use crate::tokens::{Preprocessing, Split, preprocessing_setters};

const NAME: &str = "BLEU";

/// BLEU (Papineni et al. 2002) as NLTK 3.10's `corpus_bleu` computes it, and `sentence_bleu`, which is the same of a
/// corpus of one: shares of one, though smoothing methods 5, 6 and 7 can exceed it.
///
/// With `p_n` the clipped precision of order n, `matched / max(1, n-grams of the hypothesis)` summed over the examples,
/// and weights `w_n`, the score is `BP * exp(sum of w_n ln p_n)`, after the [smoothing](NltkSmoothing). Orders whose
/// smoothed `p_n` is 0 are left out of the sum, as the package does; if not one token matches, the score is 0.
/// `BP = exp(1 - r/h)` if the h tokens of the hypotheses are not more than the r tokens of the references, else 1; of
/// several references the one closest in length counts, the shorter on ties.
///
/// Four uniform weights, method 0 and words (`str.split()`) unless set otherwise.
///
/// ```
/// use persona_metrics::{Bleu, NltkSmoothing};
///
/// let bleu = Bleu::nltk().smoothing(NltkSmoothing::Method1 { epsilon: 0.1 })?;
/// let scores = bleu.sentence("i have a dog", &["i have a cat", "i own a dog"])?;
/// // 4 of 4 words, 3 of 3 bigrams, 1 of 2 trigrams, 0.1 of 1 4-gram.
/// assert!((scores.values()[0] - (0.5 * 0.1_f64).powf(0.25)).abs() < 1e-12);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NltkBleu {
    weights: Vec<Vec<f64>>,
    smoothing: NltkSmoothing,
    auto_reweigh: bool,
    preprocessing: Preprocessing,
}

impl Default for NltkBleu {
    fn default() -> Self {
        Self {
            weights: vec![uniform(4)],
            smoothing: NltkSmoothing::Method0,
            auto_reweigh: false,
            preprocessing: Preprocessing::new(Split::Whitespace),
        }
    }
}

fn uniform(orders: u8) -> Vec<f64> {
    vec![1.0 / f64::from(orders); usize::from(orders)]
}

impl NltkBleu {
    preprocessing_setters!("The package does nothing.");

    /// BLEU-1 to BLEU-`order` in place of BLEU-4 alone: a score for each, whose weights are `1/k` k times.
    ///
    /// # Errors
    /// The order 0.
    pub fn orders(self, order: u8) -> Result<Self> {
        self.weights((1..=order).map(uniform).collect())
    }

    /// The weights of orders 1, 2, ...: one score for each list.
    ///
    /// # Errors
    /// No list, an empty one, or a weight that is not finite.
    pub fn weights(mut self, weights: Vec<Vec<f64>>) -> Result<Self> {
        let bad = |weights: &Vec<f64>| weights.is_empty() || weights.iter().any(|weight| !weight.is_finite());
        if weights.is_empty() || weights.iter().any(bad) {
            let problem = format!("weights are lists of finite numbers, one at least, not {weights:?}");
            return Err(Error::InvalidSetting { metric: NAME, problem });
        }
        self.weights = weights;
        Ok(self)
    }

    /// What becomes of orders without a match; [`NltkSmoothing::Method0`] by default.
    ///
    /// # Errors
    /// A parameter out of its range; see [`NltkSmoothing`].
    pub fn smoothing(mut self, smoothing: NltkSmoothing) -> Result<Self> {
        smoothing.check().map_err(|problem| Error::InvalidSetting { metric: NAME, problem })?;
        self.smoothing = smoothing;
        Ok(self)
    }

    /// Whether hypotheses of fewer than four tokens in all are weighted `1/tokens` for as many orders, where the weights
    /// are 0.25 four times; no by default.
    #[must_use]
    pub fn auto_reweigh(mut self, auto_reweigh: bool) -> Self {
        self.auto_reweigh = auto_reweigh;
        self
    }

    /// Whether tokens are characters, white space included, in place of words: what NLTK does to strings that are not
    /// split, as in the notebooks of the paper on persona injection. No by default.
    #[must_use]
    pub fn characters(mut self, characters: bool) -> Self {
        self.preprocessing.split = if characters { Split::Characters } else { Split::Whitespace };
        self
    }

    /// The mean of the sentences' scores in place of the score of the corpus.
    pub fn mean_of_sentences(self) -> NltkMeanBleu {
        NltkMeanBleu(self)
    }

    /// Scores of orders 1 to `order`, without a check.
    pub(super) fn with_orders(mut self, order: u8) -> Self {
        self.weights = (1..=order).map(uniform).collect();
        self
    }

    /// A smoothing whose parameter is in its range.
    pub(super) fn with_smoothing(mut self, smoothing: NltkSmoothing) -> Self {
        self.smoothing = smoothing;
        self
    }

    pub(super) fn smoothing_in_use(&self) -> NltkSmoothing {
        self.smoothing
    }

    /// The orders that are counted. Methods 5 and 7 need 5-grams whatever the weights are.
    fn counted_orders(&self) -> usize {
        self.weighted_orders().max(if self.smoothing.needs_five_grams() { 5 } else { 0 })
    }

    fn weighted_orders(&self) -> usize {
        self.weights.iter().map(Vec::len).max().unwrap_or_default()
    }

    /// Counts of one example.
    pub(super) fn sentence_counts(
        &self,
        hypothesis: &str,
        references: &[&str],
        tokenize: impl FnMut(&str, &mut dyn FnMut(&str)),
    ) -> Result<NltkCounts> {
        if references.is_empty() {
            return Err(Error::NoReferences { metric: NAME });
        }
        let mut counts = BleuCounts::new(self.counted_orders());
        with_example(hypothesis, references, tokenize, |example| counts.count(example));
        counts.proposed.iter_mut().for_each(|proposed| *proposed = (*proposed).max(1));
        let five = |counts: &[u64]| counts.get(4).copied().unwrap_or_default();
        let last = self.smoothing.needs_last_pair().then(|| LastPair {
            hypothesis_tokens: counts.hypothesis_tokens,
            matched_five_grams: five(&counts.matched),
            five_grams: five(&counts.proposed).max(1),
        });
        Ok(NltkCounts { bleu: counts, last })
    }

    /// A score for each list of weights.
    pub(super) fn scores_of(&self, counts: &NltkCounts) -> Result<Vec<f64>> {
        if counts.bleu.matched.first().is_none_or(|&matched| matched == 0) {
            return Ok(vec![0.0; self.weights.len()]);
        }
        let precisions = self.smoothing.precisions(counts, self.weighted_orders())?;
        let tokens = counts.bleu.hypothesis_tokens;
        let penalty = counts.brevity_penalty();
        let score = |weights: &Vec<f64>| {
            let short = (1..4).contains(&tokens) && weights.as_slice() == [0.25; 4];
            let reweighed = (self.auto_reweigh && short).then(|| uniform(tokens as u8));
            let terms = reweighed.as_ref().unwrap_or(weights).iter().zip(&precisions);
            let positive = terms.filter(|(_, precision)| **precision > 0.0);
            let sum: f64 = positive.map(|(weight, precision)| weight * precision.ln()).sum();
            let value = penalty * sum.exp();
            if value.is_finite() { Ok(value) } else { Err(Error::OutOfRange { metric: NAME, value }) }
        };
        self.weights.iter().map(score).collect()
    }

    fn score_names(&self) -> Vec<String> {
        let name = |weights: &Vec<f64>| {
            let orders = weights.len();
            if weights.iter().all(|&weight| weight == 1.0 / orders as f64) {
                format!("BLEU-{orders}")
            } else {
                format!("BLEU({})", joined(weights))
            }
        };
        self.weights.iter().map(name).collect()
    }

    fn signature(&self, level: &str) -> String {
        let weights: Vec<String> = self.weights.iter().map(|weights| joined(weights)).collect();
        format!(
            "variant:nltk|level:{level}|{}|weights:{}|smooth:{}|reweigh:{}",
            self.preprocessing.signature(),
            weights.join(";"),
            self.smoothing,
            if self.auto_reweigh { "auto" } else { "no" },
        )
    }
}

fn joined(weights: &[f64]) -> String {
    weights.iter().map(|weight| format!("{weight:?}")).collect::<Vec<_>>().join(",")
}

/// What NLTK's corpus BLEU is computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NltkCounts {
    /// Matched and proposed n-grams, and lengths. Each hypothesis proposes at least one n-gram of each order, so that
    /// `proposed` exceeds the number of n-grams where hypotheses are short.
    pub bleu: BleuCounts,
    /// What smoothing methods 5, 6 and 7 take from the last pair of the corpus; None under the others.
    pub last: Option<LastPair>,
}

/// The last pair of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPair {
    /// Tokens of its hypothesis.
    pub hypothesis_tokens: u64,
    /// Its matched 5-grams; 0 under method 6, which needs none.
    pub matched_five_grams: u64,
    /// The 5-grams of its hypothesis, at least 1.
    pub five_grams: u64,
}

impl NltkCounts {
    /// BP, 0 to 1: 1 if the hypotheses have more tokens than the references, else `exp(1 - r/h)`; 0 without a token.
    pub fn brevity_penalty(&self) -> f64 {
        match (self.bleu.hypothesis_tokens, self.bleu.reference_tokens) {
            (0, _) => 0.0,
            (hypothesis, reference) if hypothesis > reference => 1.0,
            (hypothesis, reference) => (1.0 - reference as f64 / hypothesis as f64).exp(),
        }
    }
}

/// The last pair is that of the right operand: under methods 5, 6 and 7 the order of merging counts.
impl Sums for NltkCounts {
    fn add(&mut self, other: &Self) -> Result<()> {
        self.bleu.add(&other.bleu)?;
        self.last = other.last.or(self.last);
        Ok(())
    }
}

pair_metric_methods!(NltkBleu);

impl Metric for NltkBleu {
    const NAME: &'static str = NAME;
    type Sums = NltkCounts;

    fn empty(&self) -> NltkCounts {
        NltkCounts { bleu: BleuCounts::new(self.counted_orders()), last: None }
    }

    fn names(&self) -> Vec<String> {
        self.score_names()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    /// # Errors
    /// What the package raises an exception for; see [`NltkSmoothing::Method6`].
    fn values(&self, counts: &NltkCounts) -> Result<Vec<f64>> {
        self.scores_of(counts)
    }

    fn settings(&self) -> String {
        self.signature("corpus")
    }
}

impl PairMetric for NltkBleu {
    fn count(&self, counts: &mut NltkCounts, hypothesis: &str, references: &[&str]) -> Result<()> {
        let tokenize = |text: &str, token: &mut dyn FnMut(&str)| self.preprocessing.tokens(text, token);
        counts.add(&self.sentence_counts(hypothesis, references, tokenize)?)
    }
}

/// The mean over the examples of NLTK's `sentence_bleu`, which is what the notebooks of the paper on persona injection
/// report, on characters and with method 0. Made by [`NltkBleu::mean_of_sentences`].
///
/// A sentence's score is rounded to a multiple of 2^-64 before it is added; method 0 can give far less than that.
///
/// ```
/// use persona_metrics::Bleu;
///
/// let bleu = Bleu::nltk().characters(true).mean_of_sentences();
/// let scores = bleu.corpus(&["i have a dog", "i have a dog"], &["i have a dog", "i have a cat"])?;
/// assert!(scores.values()[0] > 0.8 && scores.values()[0] < 0.9);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NltkMeanBleu(NltkBleu);

pair_metric_methods!(NltkMeanBleu);

impl Metric for NltkMeanBleu {
    const NAME: &'static str = NAME;
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(self.0.weights.len())
    }

    fn names(&self) -> Vec<String> {
        self.0.score_names()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(NAME)
    }

    fn settings(&self) -> String {
        self.0.signature("mean-of-sentences")
    }
}

impl PairMetric for NltkMeanBleu {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        let tokenize = |text: &str, token: &mut dyn FnMut(&str)| self.0.preprocessing.tokens(text, token);
        let counts = self.0.sentence_counts(hypothesis, references, tokenize)?;
        sums.push(NAME, &self.0.scores_of(&counts)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bleu;

    fn value(bleu: &NltkBleu, hypothesis: &str, reference: &str) -> f64 {
        bleu.sentence(hypothesis, reference).unwrap().values()[0]
    }

    #[test]
    fn by_hand() {
        // 3 of 4, 2 of 3, 1 of 2, 0 of 1; h = r, so BP = exp(0).
        let bleu = Bleu::nltk().smoothing(NltkSmoothing::Method1 { epsilon: 0.1 }).unwrap();
        let expected = (0.75 * (2.0 / 3.0) * 0.5 * 0.1_f64).powf(0.25);
        assert!((value(&bleu, "i have a dog", "i have a cat") - expected).abs() < 1e-14);
        // Without a match of 4-grams method 0 is left with the smallest normal number.
        let tiny = (0.25_f64 * f64::MIN_POSITIVE).powf(0.25);
        assert!((value(&Bleu::nltk(), "i have a dog", "i have a cat") / tiny - 1.0).abs() < 1e-12);
        assert_eq!(value(&Bleu::nltk(), "a b", "c d"), 0.0);
        assert_eq!(value(&Bleu::nltk(), "", ""), 0.0);
        // An order is 0 after smoothing: it is left out, not the score.
        let none = Bleu::nltk().smoothing(NltkSmoothing::Method1 { epsilon: 0.0 }).unwrap();
        assert!((value(&none, "i have a dog", "i have a cat") - 0.25_f64.powf(0.25)).abs() < 1e-14);
    }

    #[test]
    fn several_lists_of_weights_and_their_names() {
        let scores = Bleu::nltk().orders(3).unwrap().sentence("a b c", "a b d").unwrap();
        let names: Vec<_> = scores.iter().map(|score| score.name().to_owned()).collect();
        assert_eq!(names, ["BLEU-1", "BLEU-2", "BLEU-3"]);
        assert!((scores.values()[0] - 2.0 / 3.0).abs() < 1e-15);
        assert!((scores.values()[1] - (2.0 / 3.0 * 0.5_f64).sqrt()).abs() < 1e-15);
        let uneven =
            Bleu::nltk().weights(vec![vec![0.75, 0.25]]).unwrap().sentence("a", &["a", "b"]).unwrap();
        let score = uneven.iter().next().unwrap();
        assert_eq!(score.name(), "BLEU(0.75,0.25)");
        let signature = score.signature().as_str();
        let expected = "variant:nltk|level:corpus|case:mixed|pre:none|split:whitespace|weights:0.75,0.25|\
                        smooth:method0|reweigh:no|refs:2|";
        assert!(signature.starts_with(expected), "{signature}");
    }

    #[test]
    fn short_hypotheses_are_weighted_anew_on_demand() {
        let bleu = Bleu::nltk().auto_reweigh(true);
        assert!((value(&bleu, "a b c", "a b c") - 1.0).abs() < 1e-12);
        assert!((value(&bleu, "a", "a") - 1.0).abs() < 1e-12);
        assert!(value(&Bleu::nltk(), "a b c", "a b c") < 1e-70);
        assert_eq!(value(&bleu, "", "a"), 0.0);
    }

    #[test]
    fn the_last_pair_is_that_of_the_right_operand() {
        let bleu = Bleu::nltk().smoothing(NltkSmoothing::Method5).unwrap();
        let (long, short) = ("a b c d e f", "a b");
        let mut whole = bleu.statistics();
        whole.update(long, long).unwrap();
        let mut other = bleu.statistics();
        other.update(short, short).unwrap();
        let mut reversed = other.clone();
        whole.merge(&other).unwrap();
        whole.merge(&bleu.statistics()).unwrap();
        assert_eq!(whole.sums().last.unwrap().hypothesis_tokens, 2);
        reversed.update(long, long).unwrap();
        let last = LastPair { hypothesis_tokens: 6, matched_five_grams: 2, five_grams: 2 };
        assert_eq!(reversed.sums().last, Some(last));
        assert!(reversed.values().unwrap() > whole.values().unwrap());
    }

    #[test]
    fn what_the_package_raises_for_is_an_error() {
        let method6 = Bleu::nltk().smoothing(NltkSmoothing::Method6 { alpha: 5.0 }).unwrap();
        let no_trigram = method6.sentence("a b c d", "a b x c d");
        assert!(matches!(no_trigram, Err(Error::NoMatches { order: 3, .. })), "{no_trigram:?}");
        let two = method6.clone().orders(2).unwrap();
        assert!(matches!(two.sentence("a b c", "a b c"), Err(Error::InvalidSetting { .. })));
        // Without a match the package answers before it smoothes.
        assert_eq!(two.sentence("a", "b").unwrap().values(), [0.0, 0.0]);
        let none: [&str; 0] = [];
        assert!(matches!(Bleu::nltk().sentence("a", &none), Err(Error::NoReferences { .. })));
        let means = method6.mean_of_sentences().corpus(&["a b c", "a"], &["a b c", "a"]);
        assert!(matches!(means, Err(Error::Example { index: 1, .. })), "{means:?}");
    }

    #[test]
    fn settings_out_of_range_are_errors() {
        for weights in [vec![], vec![vec![]], vec![vec![1.0], vec![f64::NAN]]] {
            assert!(matches!(Bleu::nltk().weights(weights), Err(Error::InvalidSetting { .. })));
        }
        assert!(Bleu::nltk().orders(0).is_err());
        for smoothing in [
            NltkSmoothing::Method1 { epsilon: -0.1 },
            NltkSmoothing::Method4 { k: 0.0 },
            NltkSmoothing::Method6 { alpha: f64::INFINITY },
            NltkSmoothing::Method7 { k: f64::NAN },
        ] {
            assert!(Bleu::nltk().smoothing(smoothing).is_err(), "{smoothing}");
        }
        let huge = Bleu::nltk().weights(vec![vec![-1e300]]).unwrap();
        assert!(matches!(huge.sentence("a b", "a c"), Err(Error::OutOfRange { .. })));
    }
}
