//! Distinct-n.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metric::{Metric, TextMetric, text_metric_methods};
use crate::score::Unit;
use crate::table::NgramTable;
use crate::tokens::{PreTokenization, Preprocessing, Split, preprocessing_setters};

const ORDERS: usize = 2;

/// Which published denominator of Distinct-n is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Variant {
    /// All n-grams.
    Li,
    /// All tokens, whatever n.
    Pal,
}

/// Distinct-1 and Distinct-2 (Li et al. 2016): how many of the n-grams of all replies together are different ones, as
/// shares of one.
///
/// The value falls with the size of the corpus: compare corpora of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Distinct {
    variant: Variant,
    preprocessing: Preprocessing,
}

impl Distinct {
    /// Different n-grams over all n-grams, as in DialoGPT's script; tokens are those of `str.split()`.
    pub fn li() -> Self {
        Self { variant: Variant::Li, preprocessing: Preprocessing::new(Split::Whitespace) }
    }

    /// PAL's: ASCII punctuation spaced out first, tokens are those of `str.split(" ")` (an empty reply is one empty
    /// token), and both orders are divided by the number of tokens.
    pub fn pal() -> Self {
        let preprocessing = Preprocessing {
            pre_tokenization: PreTokenization::SpacePunctuation,
            ..Preprocessing::new(Split::Space)
        };
        Self { variant: Variant::Pal, preprocessing }
    }

    preprocessing_setters!("Neither package lower-cases; PAL spaces punctuation out.");
}

text_metric_methods!(Distinct);

impl Metric for Distinct {
    const NAME: &'static str = "Distinct";
    type Sums = NgramTable;

    fn empty(&self) -> NgramTable {
        NgramTable::new(ORDERS)
    }

    fn names(&self) -> Vec<String> {
        (1..=ORDERS).map(|order| format!("Distinct-{order}")).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    /// # Errors
    /// No n-gram (no token, for PAL's denominator) to divide by, where the packages raise too.
    fn values(&self, counts: &NgramTable) -> Result<Vec<f64>> {
        let value = |order| {
            let all = match self.variant {
                Variant::Li => counts.total(order),
                Variant::Pal => counts.total(1),
            };
            if all == 0 {
                return Err(Error::NoNgrams { metric: Self::NAME, order });
            }
            Ok(counts.different(order) as f64 / all as f64)
        };
        (1..=ORDERS).map(value).collect()
    }

    fn settings(&self) -> String {
        let variant = match self.variant {
            Variant::Li => "li",
            Variant::Pal => "pal",
        };
        format!("variant:{variant}|{}", self.preprocessing.signature())
    }
}

impl TextMetric for Distinct {
    fn count_texts<H: AsRef<str> + Sync>(&self, counts: &mut NgramTable, texts: &[H]) -> Result<()> {
        counts.count(texts, |text, token| self.preprocessing.tokens(text.as_ref(), token));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(Distinct::pal().statistics().merge(&Distinct::li().statistics()).is_err());
    }
}
