//! BLEU as ParlAI computes it.

use serde::{Deserialize, Serialize};

use super::nltk::NltkBleu;
use super::nltk_smoothing::NltkSmoothing;
use crate::error::Result;
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::parlai::spaced_tokens;
use crate::score::Unit;
use crate::sums::MeanSums;

/// BLEU-1 to BLEU-4 as ParlAI 1.7 computes them: means over the examples of NLTK's `sentence_bleu` with weights `1/k`
/// and method 1 of epsilon 1e-12, as shares of one.
///
/// Tokens are the words of ParlAI's `normalize_answer`: lower case, ASCII punctuation made spaces, `a`, `an` and `the`
/// left out. A text of which nothing is left is one empty token, so that two such texts have BLEU-1 1. An order
/// without a match makes a score tiny, not 0: tables have values such as 3.8e-11.
///
/// ```
/// use persona_metrics::Bleu;
///
/// let scores = Bleu::parlai().corpus(&["I have a dog!"], &["i have the dog"])?;
/// assert!((scores.values()[2] - 1.0).abs() < 1e-12 && scores.values()[3] < 0.01);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParlaiBleu(NltkBleu);

impl ParlaiBleu {
    pub(super) fn new() -> Self {
        let smoothing = NltkSmoothing::Method1 { epsilon: 1e-12 };
        Self(NltkBleu::default().with_orders(4).with_smoothing(smoothing))
    }
}

pair_metric_methods!(ParlaiBleu);

impl Metric for ParlaiBleu {
    const NAME: &'static str = NltkBleu::NAME;
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(self.names().len())
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(Self::NAME)
    }

    fn settings(&self) -> String {
        let smoothing = self.0.smoothing_in_use();
        format!("variant:parlai|level:mean-of-sentences|tok:normalize-answer|smooth:{smoothing}")
    }
}

impl PairMetric for ParlaiBleu {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        let counts = self.0.sentence_counts(hypothesis, references, spaced_tokens)?;
        sums.push(Self::NAME, &self.0.scores_of(&counts)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::Bleu;

    #[test]
    fn nothing_left_is_one_empty_token() {
        let values = Bleu::parlai().sentence("the ...", "A").unwrap().values();
        assert!((values[0] - 1.0).abs() < 1e-15 && (values[1] - 1e-6).abs() < 1e-12, "{values:?}");
        assert_eq!(Bleu::parlai().sentence("the", "dog").unwrap().values(), [0.0; 4]);
    }

    #[test]
    fn the_signature_names_the_package() {
        let scores = Bleu::parlai().sentence("a dog", &["dog", "cat"]).unwrap();
        let score = scores.get("BLEU-4").unwrap();
        let expected = "variant:parlai|level:mean-of-sentences|tok:normalize-answer|smooth:method1[epsilon=1e-12]|refs:2|";
        assert!(score.signature().as_str().starts_with(expected), "{score}");
    }
}
