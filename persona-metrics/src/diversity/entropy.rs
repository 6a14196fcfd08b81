//! Entropy-n.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metric::{Metric, TextMetric, text_metric_methods};
use crate::score::Unit;
use crate::table::NgramTable;
use crate::tokens::{PreTokenization, Preprocessing, Split, preprocessing_setters};

const ORDERS: usize = 4;

/// Which published computation of Entropy-n is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Variant {
    /// `p = count / total`.
    DialoGpt,
    /// `p = count / (total + 1e-10)`.
    Pal,
}

/// Entropy-1 to Entropy-4 (Zhang et al. 2018): `-sum p ln p` over the n-grams of all replies together, in nats.
///
/// N-grams do not reach from one reply into the next. An order for which no reply is long enough has 0, as in both
/// packages. The value grows with the size of the corpus: compare corpora of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entropy {
    variant: Variant,
    preprocessing: Preprocessing,
}

impl Entropy {
    /// DialoGPT's: tokens are those of `str.split()`, `p = count / total`.
    pub fn dialogpt() -> Self {
        Self { variant: Variant::DialoGpt, preprocessing: Preprocessing::new(Split::Whitespace) }
    }

    /// PAL's: ASCII punctuation spaced out first, `p = count / (total + 1e-10)`. The paper does not say which order
    /// its table shows.
    pub fn pal() -> Self {
        let preprocessing = Preprocessing {
            pre_tokenization: PreTokenization::SpacePunctuation,
            ..Preprocessing::new(Split::Whitespace)
        };
        Self { variant: Variant::Pal, preprocessing }
    }

    preprocessing_setters!("Neither package lower-cases; PAL spaces punctuation out.");

    fn entropy(&self, counts: &NgramTable, order: usize) -> f64 {
        let total = counts.total(order) as f64
            + match self.variant {
                Variant::DialoGpt => 0.0,
                Variant::Pal => 1e-10,
            };
        let term = |(count, ngrams): (u64, u64)| {
            let count = count as f64;
            ngrams as f64 * (count / total) * (total.ln() - count.ln())
        };
        let sum: f64 = counts.occurrences(order).into_iter().map(term).sum();
        // Rounding may leave -0.0 or a last bit below zero for a single n-gram.
        sum.max(0.0)
    }
}

text_metric_methods!(Entropy);

impl Metric for Entropy {
    const NAME: &'static str = "Entropy";
    type Sums = NgramTable;

    fn empty(&self) -> NgramTable {
        NgramTable::new(ORDERS)
    }

    fn names(&self) -> Vec<String> {
        (1..=ORDERS).map(|order| format!("Entropy-{order}")).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Plain
    }

    fn values(&self, counts: &NgramTable) -> Result<Vec<f64>> {
        Ok((1..=ORDERS).map(|order| self.entropy(counts, order)).collect())
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
        counts.count(texts, |text, token| self.preprocessing.tokens(text.as_ref(), token));
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
