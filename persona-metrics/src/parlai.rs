//! F1 and exact match of normalised words, as ParlAI computes them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::example::{tokenized, with_example};
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::score::Unit;
use crate::sums::MeanSums;
use crate::text::normalize_answer;

/// The words of `normalize_answer`.
fn words(text: &str, token: &mut dyn FnMut(&str)) {
    tokenized(text, normalize_answer, token);
}

/// `normalize_answer(text).split(" ")`: one empty token where nothing is left.
pub(crate) fn spaced_tokens(text: &str, token: &mut dyn FnMut(&str)) {
    let mut any = false;
    words(text, &mut |word| {
        any = true;
        token(word);
    });
    if !any {
        token("");
    }
}

fn normalized(text: &str) -> String {
    let mut normalized = String::with_capacity(text.len());
    normalize_answer(text, &mut normalized);
    normalized
}

/// F1, precision and recall of the words of a reply, as ParlAI 1.7's `F1Metric` computes them: shares of one, means over
/// the examples.
///
/// Words are those of ParlAI's `normalize_answer` (lower case, ASCII punctuation made spaces, `a`, `an` and `the` left
/// out). With m the words that both texts have, each as often as the text that has fewer, `P = m / hypothesis words`,
/// `R = m / reference words`, `F1 = 2 P R / (P + R)`; all are 0 if m is, also for two texts of which nothing is left. Of
/// several references the best value counts, for each of the three by itself.
///
/// ```
/// use persona_metrics::UnigramF1;
///
/// let scores = UnigramF1::default().corpus(&["I have a dog!"], &["i have the big dog"])?;
/// assert_eq!(scores.get("Precision").map(|score| score.value()), Some(1.0));
/// assert_eq!(scores.get("Recall").map(|score| score.value()), Some(0.75));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct UnigramF1 {}

pair_metric_methods!(UnigramF1);

impl Metric for UnigramF1 {
    const NAME: &'static str = "F1";
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(3)
    }

    fn names(&self) -> Vec<String> {
        ["F1", "Precision", "Recall"].map(str::to_owned).to_vec()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(Self::NAME)
    }

    fn settings(&self) -> String {
        "variant:parlai|tok:normalize-answer".to_owned()
    }
}

impl PairMetric for UnigramF1 {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        if references.is_empty() {
            return Err(Error::NoReferences { metric: Self::NAME });
        }
        let mut best = [0.0_f64; 3];
        for reference in references {
            let (matched, lengths) = with_example(hypothesis, &[reference], words, |example| {
                let matched = example.matches(1).first().copied().unwrap_or_default();
                (matched, [example.length(), example.closest_length()])
            });
            if matched > 0 {
                let [precision, recall] = lengths.map(|length| matched as f64 / length as f64);
                let f1 = 2.0 * precision * recall / (precision + recall);
                for (best, value) in best.iter_mut().zip([f1, precision, recall]) {
                    *best = best.max(value);
                }
            }
        }
        sums.push(Self::NAME, &best)
    }
}

/// The share of replies that are a reference, word for word, as ParlAI 1.7's `ExactMatchMetric` (`accuracy`) computes it.
///
/// Texts are compared after ParlAI's `normalize_answer`; see [`UnigramF1`]. Two texts of which nothing is left are equal.
///
/// ```
/// use persona_metrics::ExactMatch;
///
/// let scores = ExactMatch::default().corpus(&["I have a dog!", "no"], &[vec!["i have the dog"], vec!["yes", "maybe"]])?;
/// assert_eq!(scores.values(), [0.5]);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ExactMatch {}

pair_metric_methods!(ExactMatch);

impl Metric for ExactMatch {
    const NAME: &'static str = "Accuracy";
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(1)
    }

    fn names(&self) -> Vec<String> {
        vec![Self::NAME.to_owned()]
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(Self::NAME)
    }

    fn settings(&self) -> String {
        "variant:parlai|tok:normalize-answer".to_owned()
    }
}

impl PairMetric for ExactMatch {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        if references.is_empty() {
            return Err(Error::NoReferences { metric: Self::NAME });
        }
        let right = is_among(hypothesis, references);
        sums.push(Self::NAME, &[f64::from(u8::from(right))])
    }
}

/// Whether a text is one of others after `normalize_answer`.
fn is_among(text: &str, others: &[&str]) -> bool {
    let text = normalized(text);
    others.iter().any(|other| normalized(other) == text)
}

/// By candidate: whether it is one of the labels after `normalize_answer`.
pub(crate) fn are_labels<S: AsRef<str>>(candidates: &[S], labels: &[&str]) -> Vec<bool> {
    let labels: Vec<String> = labels.iter().map(|label| normalized(label)).collect();
    candidates.iter().map(|candidate| labels.contains(&normalized(candidate.as_ref()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_three_has_its_own_best_reference() {
        // Against "dog": P 1/3, R 1. Against the other: P 1, R 3/5.
        let values = UnigramF1::default()
            .sentence("i like dogs", &["dogs", "i like dogs very much"])
            .unwrap()
            .values();
        assert_eq!(values[1..], [1.0, 1.0]);
        assert!((values[0] - 2.0 * 0.6 / 1.6).abs() < 1e-15);
    }

    #[test]
    fn repeated_words_are_clipped() {
        let values = UnigramF1::default().sentence("no no no", "no, no").unwrap().values();
        assert!((values[1] - 2.0 / 3.0).abs() < 1e-15 && values[2] == 1.0, "{values:?}");
    }

    #[test]
    fn nothing_left() {
        assert_eq!(UnigramF1::default().sentence("the!", "A").unwrap().values(), [0.0; 3]);
        assert_eq!(ExactMatch::default().sentence("the!", "A").unwrap().values(), [1.0]);
        let none: [&str; 0] = [];
        assert!(matches!(
            UnigramF1::default().sentence("a", &none),
            Err(Error::NoReferences { metric: "F1" })
        ));
        assert!(matches!(ExactMatch::default().sentence("a", &none), Err(Error::NoReferences { .. })));
    }

    #[test]
    fn labels_among_candidates() {
        assert_eq!(are_labels(&["A dog.", "cat", "THE  dog"], &["dog!", "bird"]), [true, false, true]);
    }
}
