//! Distinct-n.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::corpus_diversity_methods;
use crate::error::{Error, Result};
use crate::metric::{Metric, TextMetric, text_metric_methods};
use crate::score::Unit;
use crate::table::NgramTable;
use crate::text::normalize_answer;
use crate::tokens::{PreTokenization, Preprocessing, Split, preprocessing_setters};

/// Which published denominator of Distinct-n is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Variant {
    /// All n-grams.
    Li,
    /// All tokens, whatever n.
    Pal,
    /// All n-grams, with floors in place of zeros.
    ParlAi,
}

impl Variant {
    fn split(self) -> Split {
        match self {
            Self::Li | Self::ParlAi => Split::Whitespace,
            Self::Pal => Split::Space,
        }
    }
}

/// Distinct-1, Distinct-2, and higher orders where asked for (Li et al. 2016): how many of the n-grams of all replies
/// together are different ones, as shares of one.
///
/// The value falls with the size of the corpus: compare corpora of the same size. A corpus drawn again for a bootstrap
/// repeats replies, which lowers the value by itself; [`Distinct::leave_one_out`] does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Distinct {
    variant: Variant,
    orders: usize,
    preprocessing: Preprocessing,
}

/// N-grams of one order, and what Distinct-n divides by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Types {
    /// Tokens, which are the n-grams of order 1.
    pub(super) tokens: u64,
    /// N-grams.
    pub(super) total: u64,
    /// Different n-grams.
    pub(super) different: u64,
}

impl Distinct {
    fn new(variant: Variant) -> Self {
        Self { variant, orders: 2, preprocessing: Preprocessing::new(variant.split()) }
    }

    /// Different n-grams over all n-grams, as in DialoGPT's script; tokens are those of `str.split()`.
    ///
    /// Over the first sample of each context this is CLV's c-distinct; its s-distinct is
    /// [`PooledDistinct::clv`](crate::PooledDistinct::clv).
    pub fn li() -> Self {
        Self::new(Variant::Li)
    }

    /// PAL's: ASCII punctuation spaced out first, tokens are those of `str.split(" ")` (an empty reply is one empty
    /// token), and all orders are divided by the number of tokens.
    pub fn pal() -> Self {
        Self::new(Variant::Pal).pre_tokenization(PreTokenization::SpacePunctuation)
    }

    /// ParlAI's inter-distinct: different n-grams over all n-grams of the tokens that ParlAI normalizes (lower case, no
    /// ASCII punctuation, no articles), but at least 1e-12 over at least 1e-5, so that there is a value without n-grams.
    ///
    /// Its intra-distinct is [`PooledDistinct::parlai_intra`](crate::PooledDistinct::parlai_intra).
    pub fn parlai_inter() -> Self {
        Self::new(Variant::ParlAi)
    }

    preprocessing_setters!(
        "DialoGPT's script does nothing, PAL spaces punctuation out, ParlAI's own normalization comes after."
    );

    pub(super) fn ngram_orders(&self) -> usize {
        self.orders
    }

    pub(super) fn tokens(&self, text: &str, token: &mut dyn FnMut(&str)) {
        if self.variant != Variant::ParlAi {
            return self.preprocessing.tokens(text, token);
        }
        let mut normalized = String::with_capacity(text.len());
        normalize_answer(&self.preprocessing.prepare(text), &mut normalized);
        self.preprocessing.split(&normalized).into_iter().for_each(token);
    }

    /// # Errors
    /// Nothing to divide by, where the packages raise too.
    pub(super) fn ratio(&self, order: usize, types: Types) -> Result<f64> {
        let all = match self.variant {
            Variant::Li => types.total,
            Variant::Pal => types.tokens,
            Variant::ParlAi => {
                return Ok((types.different as f64).max(1e-12) / (types.total as f64).max(1e-5));
            }
        };
        if all == 0 {
            return Err(Error::NoNgrams { metric: Self::NAME, order });
        }
        Ok(types.different as f64 / all as f64)
    }
}

text_metric_methods!(Distinct);
corpus_diversity_methods!(Distinct, "2");

impl Metric for Distinct {
    const NAME: &'static str = "Distinct";
    type Sums = NgramTable;

    fn empty(&self) -> NgramTable {
        NgramTable::new(self.orders)
    }

    fn names(&self) -> Vec<String> {
        (1..=self.orders).map(|order| format!("{}-{order}", Self::NAME)).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    /// # Errors
    /// No n-gram (no token, for PAL's denominator) to divide by, where the packages raise too.
    fn values(&self, counts: &NgramTable) -> Result<Vec<f64>> {
        let tokens = counts.total(1);
        let types = |order| Types { tokens, total: counts.total(order), different: counts.different(order) };
        (1..=self.orders).map(|order| self.ratio(order, types(order))).collect()
    }

    fn settings(&self) -> String {
        let variant = match self.variant {
            Variant::Li => "li",
            Variant::Pal => "pal",
            Variant::ParlAi => "parlai",
        };
        format!("variant:{variant}|{}", self.preprocessing.signature())
    }
}

impl TextMetric for Distinct {
    fn count_texts<H: AsRef<str> + Sync>(&self, counts: &mut NgramTable, texts: &[H]) -> Result<()> {
        counts.count(texts, |text, token| self.tokens(text.as_ref(), token));
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
    fn parlai_normalizes_and_has_floors() {
        let inter = Distinct::parlai_inter();
        // dog | is dog: 2 types of 3 tokens, 1 bigram.
        assert_eq!(inter.corpus(&["A dog!", "is the Dog"]).unwrap().values(), [2.0 / 3.0, 1.0]);
        assert_eq!(inter.corpus(&["?"]).unwrap().values(), [1e-7, 1e-7]);
        assert_eq!(inter.characters(true).corpus(&["a aa!"]).unwrap().values(), [0.5, 1.0]);
    }

    #[test]
    fn orders_and_characters_can_be_chosen() {
        let scores = Distinct::li().orders(4).unwrap().corpus(&["a b a b a"]).unwrap();
        assert_eq!(scores.values(), [2.0 / 5.0, 2.0 / 4.0, 2.0 / 3.0, 1.0]);
        assert_eq!(scores.get("Distinct-4").map(|score| score.value()), Some(1.0));
        assert!(matches!(Distinct::li().orders(0), Err(Error::InvalidSetting { metric: "Distinct", .. })));

        let characters = Distinct::pal().characters(true);
        assert_eq!(characters.corpus(&["好好 "]).unwrap().values(), [1.0 / 2.0, 1.0 / 2.0]);
        assert_eq!(characters.characters(false), Distinct::pal());
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
