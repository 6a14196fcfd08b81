//! BLEU as pycocoevalcap computes it.

use serde::{Deserialize, Serialize};

use super::BleuCounts;
use crate::error::Result;
use crate::example::with_example;
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::score::Unit;
use crate::tokens::{Preprocessing, Split, in_order, preprocessing_setters};

const ORDERS: usize = 4;

/// BLEU-1 to BLEU-4 (Papineni et al. 2002), as pycocoevalcap's `Bleu(4)` computes them, as shares of one.
///
/// BLEU-k is the geometric mean of the clipped precisions of orders 1 to k, `(correct + 1e-15) / (guess + 1e-9)`
/// each, times `exp(1 - 1/ratio)` where `ratio = (hypothesis tokens + 1e-15) / (reference tokens + 1e-9)` is below
/// one. Of several references the one closest in length counts, the shorter on ties. Tokens are those of `str.split()`.
///
/// The constants keep every value finite: a corpus of empty hypotheses has 0, and orders longer than all hypotheses
/// have a precision of 1e-6 and not none (a corpus of one-word replies can so have a BLEU-4 of 3e-5).
///
/// ```
/// use persona_metrics::{Bleu, PreTokenization};
///
/// let bleu = Bleu::pycocoevalcap().pre_tokenization(PreTokenization::SpacePunctuation).lowercase(true);
/// let mut statistics = bleu.statistics();
/// statistics.update("I love Florida.", "i love florida .")?;
/// statistics.update("Do you?", &["do you like it ?", "you do ?"])?;
/// assert_eq!(statistics.scores()?.get("BLEU-1").map(|score| format!("{:.2}", score.value())), Some("1.00".into()));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CocoBleu {
    swapped: bool,
    preprocessing: Preprocessing,
}

impl Default for CocoBleu {
    fn default() -> Self {
        Self { swapped: false, preprocessing: Preprocessing::new(Split::Whitespace) }
    }
}

impl CocoBleu {
    preprocessing_setters!("The package does nothing.");

    /// Hypothesis and reference in each other's place, as PAL's released code hands them to pycocoevalcap: precision
    /// is that of the gold reply, and replies longer than gold pay the brevity penalty. One reference a hypothesis.
    #[must_use]
    pub fn swapped(mut self, swapped: bool) -> Self {
        self.swapped = swapped;
        self
    }
}

pair_metric_methods!(CocoBleu);

impl Metric for CocoBleu {
    const NAME: &'static str = "BLEU";
    type Sums = BleuCounts;

    fn empty(&self) -> BleuCounts {
        BleuCounts::new(ORDERS)
    }

    fn names(&self) -> Vec<String> {
        (1..=ORDERS).map(|order| format!("BLEU-{order}")).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, counts: &BleuCounts) -> Result<Vec<f64>> {
        const TINY: f64 = 1e-15;
        const SMALL: f64 = 1e-9;
        let ratio = (counts.hypothesis_tokens as f64 + TINY) / (counts.reference_tokens as f64 + SMALL);
        let penalty = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0;
        let orders = (1u32..).zip(counts.matched.iter().zip(&counts.proposed));
        let value = |(order, (&matched, &proposed)): (u32, (&u64, &u64))| {
            product *= (matched as f64 + TINY) / (proposed as f64 + SMALL);
            product.powf(1.0 / f64::from(order)) * penalty
        };
        Ok(orders.map(value).collect())
    }

    fn settings(&self) -> String {
        let swap = if self.swapped { "yes" } else { "no" };
        format!("variant:pycocoevalcap|{}|swap:{swap}", self.preprocessing.signature())
    }
}

impl PairMetric for CocoBleu {
    fn count(&self, counts: &mut BleuCounts, hypothesis: &str, references: &[&str]) -> Result<()> {
        in_order(Self::NAME, self.swapped, hypothesis, references, |hypothesis, references| {
            let tokenize = |text: &str, token: &mut dyn FnMut(&str)| self.preprocessing.tokens(text, token);
            with_example(hypothesis, references, tokenize, |example| counts.count(example));
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{Bleu, Error, PreTokenization};

    const CASE_STUDY_GOLD: &str = "i love florida . it is warm there all year round and i can go to the beach \
                                   whenever i want to with my dog";

    #[test]
    fn the_swapped_order_is_the_standard_order_of_swapped_arguments() {
        let (hypothesis, reference) = ("i love florida .", CASE_STUDY_GOLD);
        let swapped = Bleu::pycocoevalcap().swapped(true).sentence(hypothesis, reference).unwrap();
        let standard = Bleu::pycocoevalcap().sentence(reference, hypothesis).unwrap();
        assert_eq!(swapped.values(), standard.values());
        // 4 of the 25 gold tokens, and no penalty: gold, in the hypothesis' place, is the longer text.
        assert!((swapped.values()[0] - 4.0 / 25.0).abs() < 1e-9);
        assert!(swapped.iter().all(|score| score.signature().as_str().contains("|swap:yes|")));
    }

    #[test]
    fn the_signature_says_what_was_done() {
        let scores = Bleu::pycocoevalcap()
            .lowercase(true)
            .pre_tokenization(PreTokenization::SpacePunctuation)
            .corpus(&["a", "b"], &[vec!["a"], vec!["b", "c"]])
            .unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            scores.get("BLEU-3").unwrap().signature().as_str(),
            format!(
                "variant:pycocoevalcap|case:lower|pre:space-punctuation|split:whitespace|swap:no|refs:1-2|\
                 version:persona-metrics-{version}"
            )
        );
    }

    #[test]
    fn empty_texts_have_the_packages_values() {
        let bleu = Bleu::pycocoevalcap();
        assert_eq!(bleu.sentence("", "a b").unwrap().values(), [0.0; 4]);
        assert_eq!(bleu.sentence("", "").unwrap().values(), [0.0; 4]);
        // (0 + 1e-15) / (2 + 1e-9): nothing matches an empty reference.
        assert!((bleu.sentence("a b", "").unwrap().values()[0] / 5e-16 - 1.0).abs() < 1e-8);
    }

    #[test]
    fn bad_input_is_an_error_and_counts_nothing() {
        let bleu = Bleu::pycocoevalcap();
        let no_texts: [&str; 0] = [];
        assert!(matches!(
            bleu.corpus(&["a"], &["a", "b"]),
            Err(Error::LengthMismatch { left: 1, right: 2, .. })
        ));
        assert!(matches!(bleu.corpus(&no_texts, &no_texts), Err(Error::EmptyCorpus { .. })));
        let missing = bleu.corpus(&["a", "b"], &[vec!["a"], vec![]]);
        assert!(matches!(missing, Err(Error::Example { index: 1, .. })), "{missing:?}");

        let mut statistics = bleu.swapped(true).statistics();
        let two = statistics.update("a", &["a", "b"]);
        assert!(matches!(two, Err(Error::SwapNeedsOneReference { references: 2, .. })));
        assert_eq!(statistics, bleu.swapped(true).statistics());
        assert!(matches!(statistics.merge(&bleu.statistics()), Err(Error::SettingsDiffer { .. })));
    }
}
