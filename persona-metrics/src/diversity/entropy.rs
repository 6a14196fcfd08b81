//! Entropy-n.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::corpus_diversity_methods;
use crate::error::Result;
use crate::metric::{Metric, TextMetric, text_metric_methods};
use crate::score::Unit;
use crate::table::NgramTable;
use crate::tokens::{PreTokenization, Preprocessing, Split, preprocessing_setters};

/// Which published computation of Entropy-n is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Variant {
    /// `p = count / total`.
    DialoGpt,
    /// `p = count / (total + 1e-10)`.
    Pal,
}

impl Variant {
    fn split(self) -> Split {
        Split::Whitespace
    }
}

/// Entropy-1 to Entropy-4, or as many orders as asked for (Zhang et al. 2018): `-sum p ln p` over the n-grams of all
/// replies together, in nats.
///
/// N-grams do not reach from one reply into the next. An order for which no reply is long enough has 0, as in both
/// packages. The value grows with the size of the corpus: compare corpora of the same size. A corpus drawn again for a
/// bootstrap repeats replies, which lowers the value by itself; [`Entropy::leave_one_out`] does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entropy {
    variant: Variant,
    orders: usize,
    preprocessing: Preprocessing,
}

/// The sum over n-grams of `count ln(total / count)`, from pairs (count, n-grams that occur so often).
pub(super) fn surprisal(total: u64, occurrences: impl IntoIterator<Item = (u64, u64)>) -> f64 {
    let total = (total as f64).ln();
    let term = |(count, ngrams): (u64, u64)| {
        let count = count as f64;
        ngrams as f64 * count * (total - count.ln())
    };
    occurrences.into_iter().map(term).sum()
}

impl Entropy {
    fn new(variant: Variant) -> Self {
        Self { variant, orders: 4, preprocessing: Preprocessing::new(variant.split()) }
    }

    /// DialoGPT's: tokens are those of `str.split()`, `p = count / total`.
    pub fn dialogpt() -> Self {
        Self::new(Variant::DialoGpt)
    }

    /// PAL's: ASCII punctuation spaced out first, `p = count / (total + 1e-10)`. The paper does not say which order
    /// its table shows.
    pub fn pal() -> Self {
        Self::new(Variant::Pal).pre_tokenization(PreTokenization::SpacePunctuation)
    }

    preprocessing_setters!("Neither package lower-cases; PAL spaces punctuation out.");

    pub(super) fn ngram_orders(&self) -> usize {
        self.orders
    }

    pub(super) fn tokens(&self, text: &str, token: &mut dyn FnMut(&str)) {
        self.preprocessing.tokens(text, token);
    }

    /// From the number of n-grams and their [`surprisal`].
    pub(super) fn entropy(&self, total: u64, surprisal: f64) -> f64 {
        let total = total as f64;
        if total == 0.0 {
            return 0.0;
        }
        let entropy = match self.variant {
            Variant::DialoGpt => surprisal / total,
            Variant::Pal => {
                const TINY: f64 = 1e-10;
                // Every ln(total / count) grows by ln((total + TINY) / total).
                (surprisal + total * (TINY / total).ln_1p()) / (total + TINY)
            }
        };
        // Rounding may leave -0.0 or a last bit below zero for a single n-gram.
        entropy.max(0.0)
    }
}

text_metric_methods!(Entropy);
corpus_diversity_methods!(Entropy, "4");

impl Metric for Entropy {
    const NAME: &'static str = "Entropy";
    type Sums = NgramTable;

    fn empty(&self) -> NgramTable {
        NgramTable::new(self.orders)
    }

    fn names(&self) -> Vec<String> {
        (1..=self.orders).map(|order| format!("{}-{order}", Self::NAME)).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Plain
    }

    fn values(&self, counts: &NgramTable) -> Result<Vec<f64>> {
        let value = |order| {
            let total = counts.total(order);
            self.entropy(total, surprisal(total, counts.occurrences(order)))
        };
        Ok((1..=self.orders).map(value).collect())
    }

    fn settings(&self) -> String {
        let variant = match self.variant {
            Variant::DialoGpt => "dialogpt",
            Variant::Pal => "pal",
        };
        format!("variant:{variant}|{}", self.preprocessing.signature())
    }
}

impl TextMetric for Entropy {
    fn count_texts<H: AsRef<str> + Sync>(&self, counts: &mut NgramTable, texts: &[H]) -> Result<()> {
        counts.count(texts, |text, token| self.tokens(text.as_ref(), token));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn entropy_of_equal_shares_is_the_logarithm_of_their_number() {
        let values = Entropy::dialogpt().corpus(&["a b c d"]).unwrap().values();
        for (value, expected) in values.iter().zip([4.0_f64, 3.0, 2.0, 1.0]) {
            assert!((value - expected.ln()).abs() < 1e-15, "{values:?}");
        }
    }

    #[test]
    fn orders_and_characters_can_be_chosen() {
        let values = Entropy::pal().orders(5).unwrap().characters(true).corpus(&["a,b"]).unwrap().values();
        // "a , b": five characters, of them two spaces.
        let expected = 3.0 / 5.0 * 5.0_f64.ln() + 2.0 / 5.0 * 2.5_f64.ln();
        assert!((values[0] - expected).abs() < 1e-9 && values[4] < 1e-9, "{values:?}");
        assert_eq!(values.len(), 5);
        assert!(matches!(Entropy::pal().orders(0), Err(Error::InvalidSetting { metric: "Entropy", .. })));
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
    fn bad_input_is_an_error() {
        let none: [&str; 0] = [];
        assert!(matches!(Entropy::pal().corpus(&none), Err(Error::EmptyCorpus { metric: "Entropy" })));
        let error = Entropy::pal().statistics().merge(&Entropy::dialogpt().statistics()).unwrap_err();
        assert!(error.to_string().contains("variant:pal|"), "{error}");
    }
}
