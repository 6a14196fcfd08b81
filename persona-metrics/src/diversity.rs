//! Diversity of a corpus of replies: Entropy-n and Distinct-n.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::score::{Score, Scores, Signature, Unit};
use crate::statistics::collect;
use crate::tokens::{PreTokenization, Preprocessing, Split};

const ENTROPY: &str = "Entropy";
const DISTINCT: &str = "Distinct";
const ENTROPY_ORDERS: usize = 4;
const DISTINCT_ORDERS: usize = 2;

/// Which published computation of Entropy-n is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EntropyVariant {
    /// `p = count / total`, as DialoGPT's script.
    DialoGpt,
    /// `p = count / (total + 1e-10)`, as PAL's released code.
    Pal,
}

/// Entropy-1 to Entropy-4 (Zhang et al. 2018): `-sum p ln p` over the n-grams of all replies together, in nats.
///
/// N-grams do not reach from one reply into the next. An order for which no reply is long enough has 0, as in both
/// packages. The value grows with the size of the corpus: compare corpora of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entropy {
    variant: EntropyVariant,
    preprocessing: Preprocessing,
}

impl Entropy {
    /// DialoGPT's: tokens are those of `str.split()`.
    pub fn dialogpt() -> Self {
        Self { variant: EntropyVariant::DialoGpt, preprocessing: Preprocessing::new(Split::Whitespace) }
    }

    /// PAL's: ASCII punctuation spaced out first, 1e-10 added to the total. The paper does not say which order its
    /// table shows.
    pub fn pal() -> Self {
        let preprocessing = Preprocessing {
            pre_tokenization: PreTokenization::SpacePunctuation,
            ..Preprocessing::new(Split::Whitespace)
        };
        Self { variant: EntropyVariant::Pal, preprocessing }
    }

    /// What happens to the texts before the split.
    #[must_use]
    pub fn pre_tokenization(mut self, pre_tokenization: PreTokenization) -> Self {
        self.preprocessing.pre_tokenization = pre_tokenization;
        self
    }

    /// Whether texts are lower-cased. Neither package does it.
    #[must_use]
    pub fn lowercase(mut self, lowercase: bool) -> Self {
        self.preprocessing.lowercase = lowercase;
        self
    }

    /// Empty statistics under these settings.
    pub fn statistics(&self) -> EntropyStats {
        EntropyStats { settings: *self, counts: NgramCounts::new(ENTROPY_ORDERS) }
    }

    /// Entropy-1 to Entropy-4 of a corpus, on rayon's threads; the same bits for every number of threads.
    ///
    /// # Errors
    /// An empty corpus.
    pub fn corpus<H: AsRef<str> + Sync>(&self, replies: &[H]) -> Result<Scores> {
        self.collect(replies)?.scores()
    }

    /// Statistics of a corpus, on rayon's threads: one shard of a larger whole.
    ///
    /// # Errors
    /// None at present; statistics of an empty corpus can be merged.
    pub fn collect<H: AsRef<str> + Sync>(&self, replies: &[H]) -> Result<EntropyStats> {
        let update = |statistics: &mut EntropyStats, reply: &H| {
            statistics.update(reply.as_ref());
            Ok(())
        };
        collect(replies, || self.statistics(), update, EntropyStats::merge)
    }

    fn signature(&self) -> String {
        let variant = match self.variant {
            EntropyVariant::DialoGpt => "dialogpt",
            EntropyVariant::Pal => "pal",
        };
        format!("variant:{variant}|{}", self.preprocessing.signature())
    }
}

/// Counts of the n-grams that Entropy-n is computed from; memory grows with the number of different n-grams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntropyStats {
    settings: Entropy,
    counts: NgramCounts,
}

impl EntropyStats {
    /// Counts one reply. An empty one adds no n-gram.
    pub fn update(&mut self, reply: &str) {
        self.counts.update(&self.settings.preprocessing, reply);
    }

    /// Adds the counts of another part of the corpus.
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
        self.counts.merge(&other.counts);
        Ok(())
    }

    /// Entropy-1 to Entropy-4 of everything counted so far, in nats.
    ///
    /// # Errors
    /// Nothing was counted.
    pub fn scores(&self) -> Result<Scores> {
        self.counts
            .scores(ENTROPY, Unit::Plain, &self.settings.signature(), |_, counts| Ok(self.entropy(counts)))
    }

    fn entropy(&self, counts: &HashMap<String, u64>) -> f64 {
        let total = total(counts)
            + match self.settings.variant {
                EntropyVariant::DialoGpt => 0.0,
                EntropyVariant::Pal => 1e-10,
            };
        // Equal counts have equal terms: sorted, the sum does not depend on the table's order.
        let mut counts: Vec<u64> = counts.values().copied().collect();
        counts.sort_unstable();
        let sum: f64 = counts
            .chunk_by(|a, b| a == b)
            .filter_map(|equal| Some((*equal.first()? as f64, equal.len() as f64)))
            .map(|(count, ngrams)| ngrams * (count / total) * (total.ln() - count.ln()))
            .sum();
        // Rounding may leave -0.0 or a last bit below zero for a single n-gram.
        sum.max(0.0)
    }
}

/// Which published denominator of Distinct-n is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DistinctVariant {
    /// Different n-grams over all n-grams, as Li et al. 2016 in DialoGPT's script.
    Li,
    /// Different n-grams over all tokens, whatever n, as PAL's released code.
    Pal,
}

/// Distinct-1 and Distinct-2 (Li et al. 2016): how many of the n-grams of all replies together are different ones.
///
/// The value falls with the size of the corpus: compare corpora of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Distinct {
    variant: DistinctVariant,
    preprocessing: Preprocessing,
}

impl Distinct {
    /// Different n-grams over all n-grams; tokens are those of `str.split()`.
    pub fn li() -> Self {
        Self { variant: DistinctVariant::Li, preprocessing: Preprocessing::new(Split::Whitespace) }
    }

    /// PAL's: ASCII punctuation spaced out first, tokens are those of `str.split(" ")` (an empty reply is one empty
    /// token), and both orders are divided by the number of tokens.
    pub fn pal() -> Self {
        let preprocessing = Preprocessing {
            pre_tokenization: PreTokenization::SpacePunctuation,
            ..Preprocessing::new(Split::Space)
        };
        Self { variant: DistinctVariant::Pal, preprocessing }
    }

    /// What happens to the texts before the split.
    #[must_use]
    pub fn pre_tokenization(mut self, pre_tokenization: PreTokenization) -> Self {
        self.preprocessing.pre_tokenization = pre_tokenization;
        self
    }

    /// Whether texts are lower-cased. Neither package does it.
    #[must_use]
    pub fn lowercase(mut self, lowercase: bool) -> Self {
        self.preprocessing.lowercase = lowercase;
        self
    }

    /// Empty statistics under these settings.
    pub fn statistics(&self) -> DistinctStats {
        DistinctStats { settings: *self, counts: NgramCounts::new(DISTINCT_ORDERS) }
    }

    /// Distinct-1 and Distinct-2 of a corpus, on rayon's threads; the same bits for every number of threads.
    ///
    /// # Errors
    /// An empty corpus; no reply with two tokens (one, for PAL's denominator).
    pub fn corpus<H: AsRef<str> + Sync>(&self, replies: &[H]) -> Result<Scores> {
        self.collect(replies)?.scores()
    }

    /// Statistics of a corpus, on rayon's threads: one shard of a larger whole.
    ///
    /// # Errors
    /// None at present; statistics of an empty corpus can be merged.
    pub fn collect<H: AsRef<str> + Sync>(&self, replies: &[H]) -> Result<DistinctStats> {
        let update = |statistics: &mut DistinctStats, reply: &H| {
            statistics.update(reply.as_ref());
            Ok(())
        };
        collect(replies, || self.statistics(), update, DistinctStats::merge)
    }

    fn signature(&self) -> String {
        let variant = match self.variant {
            DistinctVariant::Li => "li",
            DistinctVariant::Pal => "pal",
        };
        format!("variant:{variant}|{}", self.preprocessing.signature())
    }
}

/// Counts of the n-grams that Distinct-n is computed from; memory grows with the number of different n-grams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistinctStats {
    settings: Distinct,
    counts: NgramCounts,
}

impl DistinctStats {
    /// Counts one reply.
    pub fn update(&mut self, reply: &str) {
        self.counts.update(&self.settings.preprocessing, reply);
    }

    /// Adds the counts of another part of the corpus.
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
        self.counts.merge(&other.counts);
        Ok(())
    }

    /// Distinct-1 and Distinct-2 of everything counted so far, as shares of one.
    ///
    /// # Errors
    /// Nothing was counted; no n-gram (no token, for PAL's denominator) to divide by, where the packages raise too.
    pub fn scores(&self) -> Result<Scores> {
        let tokens = self.counts.orders.first().map_or(0.0, total);
        self.counts.scores(DISTINCT, Unit::Share, &self.settings.signature(), |order, counts| {
            let denominator = match self.settings.variant {
                DistinctVariant::Li => total(counts),
                DistinctVariant::Pal => tokens,
            };
            if denominator == 0.0 {
                return Err(Error::NoNgrams { metric: DISTINCT, order });
            }
            Ok(counts.len() as f64 / denominator)
        })
    }
}

/// Counts of a corpus' n-grams by order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NgramCounts {
    texts: u64,
    /// Entry n - 1 holds the n-grams, their tokens joined by a space. No token contains one: both splits cut there.
    orders: Vec<HashMap<String, u64>>,
}

impl NgramCounts {
    fn new(orders: usize) -> Self {
        Self { texts: 0, orders: vec![HashMap::new(); orders] }
    }

    fn update(&mut self, preprocessing: &Preprocessing, text: &str) {
        let text = preprocessing.prepare(text);
        let tokens = preprocessing.split(&text);
        let mut key = String::new();
        for (order, counts) in (1..).zip(&mut self.orders) {
            for ngram in tokens.windows(order) {
                key.clear();
                for (position, token) in ngram.iter().enumerate() {
                    if position > 0 {
                        key.push(' ');
                    }
                    key.push_str(token);
                }
                add(counts, &key, 1);
            }
        }
        self.texts = self.texts.saturating_add(1);
    }

    fn merge(&mut self, other: &Self) {
        for (into, from) in self.orders.iter_mut().zip(&other.orders) {
            for (ngram, &count) in from {
                add(into, ngram, count);
            }
        }
        self.texts = self.texts.saturating_add(other.texts);
    }

    /// One score an order.
    fn scores(
        &self,
        metric: &'static str,
        unit: Unit,
        settings: &str,
        value: impl Fn(usize, &HashMap<String, u64>) -> Result<f64>,
    ) -> Result<Scores> {
        if self.texts == 0 {
            return Err(Error::EmptyCorpus { metric });
        }
        let mut scores = Vec::with_capacity(self.orders.len());
        for (order, counts) in (1..).zip(&self.orders) {
            let signature = Signature::new(format_args!("{settings}|order:{order}"));
            let name = format!("{metric}-{order}");
            scores.push(Score::new(metric, name, value(order, counts)?, unit, signature)?);
        }
        Ok(Scores::new(scores))
    }
}

fn add(counts: &mut HashMap<String, u64>, ngram: &str, count: u64) {
    match counts.get_mut(ngram) {
        Some(counted) => *counted = counted.saturating_add(count),
        None => {
            counts.insert(ngram.to_owned(), count);
        }
    }
}

fn total(counts: &HashMap<String, u64>) -> f64 {
    counts.values().fold(0_u64, |sum, &count| sum.saturating_add(count)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_equal_shares_is_the_logarithm_of_their_number() {
        let values = Entropy::dialogpt().corpus(&["a b c d"]).unwrap().values();
        for (value, expected) in values.iter().zip([4.0_f64, 3.0, 2.0, 1.0]) {
            assert!((value - expected.ln()).abs() < 1e-15, "{values:?}");
        }
    }

    #[test]
    fn entropy_of_too_short_replies_is_zero() {
        for entropy in [Entropy::dialogpt(), Entropy::pal()] {
            assert_eq!(entropy.corpus(&["", ""]).unwrap().values(), [0.0; 4]);
        }
        let values = Entropy::pal().corpus(&["a"]).unwrap().values();
        assert!(values[0] < 1e-9 && values[1..] == [0.0; 3], "{values:?}");
    }

    #[test]
    fn the_variants_differ_in_punctuation_and_denominator() {
        let replies = ["i do, too.", "i do"];
        // i do, too. do: 4 types of 5 tokens; i do, | do, too. | i do: 3 bigrams of 3.
        assert_eq!(Distinct::li().corpus(&replies).unwrap().values(), [0.8, 1.0]);
        // i do , too . : 5 types of 7 tokens; 4 different bigrams, divided by 7 as well.
        assert_eq!(Distinct::pal().corpus(&replies).unwrap().values(), [5.0 / 7.0, 4.0 / 7.0]);
    }

    #[test]
    fn no_ngram_is_an_error_where_the_package_raises() {
        let one_word = Distinct::li().corpus(&["a", "b"]);
        assert!(matches!(one_word, Err(Error::NoNgrams { metric: "Distinct", order: 2 })));
        assert!(matches!(Distinct::li().corpus(&[""]), Err(Error::NoNgrams { order: 1, .. })));
        // PAL's split gives an empty reply one token.
        assert_eq!(Distinct::pal().corpus(&[""]).unwrap().values(), [1.0, 0.0]);
        let none: [&str; 0] = [];
        assert!(matches!(Distinct::li().corpus(&none), Err(Error::EmptyCorpus { metric: "Distinct" })));
        assert!(matches!(Entropy::pal().corpus(&none), Err(Error::EmptyCorpus { metric: "Entropy" })));
    }

    #[test]
    fn variants_are_not_merged() {
        let error = Entropy::pal().statistics().merge(&Entropy::dialogpt().statistics()).unwrap_err();
        assert!(error.to_string().contains("variant:pal|"), "{error}");
        assert!(Distinct::pal().statistics().merge(&Distinct::li().statistics()).is_err());
    }
}
