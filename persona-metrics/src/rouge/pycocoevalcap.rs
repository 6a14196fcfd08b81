//! ROUGE-L as pycocoevalcap computes it.

use serde::{Deserialize, Serialize};

use super::lcs::Subsequences;
use crate::error::Result;
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::ngrams::Numbered;
use crate::score::Unit;
use crate::sums::MeanSums;
use crate::tokens::{Preprocessing, Split, in_order, preprocessing_setters};

/// ROUGE-L (Lin 2004) as pycocoevalcap's `Rouge()` computes it: the mean over pairs of an F-measure with beta 1.2, as
/// a share of one.
///
/// Precision is the largest `LCS / hypothesis tokens` over the references, recall the largest `LCS / reference tokens`,
/// each taken by itself; F is `(1 + beta^2) P R / (R + beta^2 P)`, or 0 where P or R is. Tokens are those of
/// `str.split(" ")`, which gives an empty text one empty token: an empty hypothesis against an empty reference has 1,
/// against any other 0 (unless that holds an empty token too, from two spaces in a row).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CocoRouge {
    swapped: bool,
    preprocessing: Preprocessing,
}

impl Default for CocoRouge {
    fn default() -> Self {
        Self { swapped: false, preprocessing: Preprocessing::new(Split::Space) }
    }
}

impl CocoRouge {
    const BETA: f64 = 1.2;

    preprocessing_setters!("The package does nothing.");

    /// Hypothesis and reference in each other's place, as PAL's released code hands them to pycocoevalcap; with beta
    /// 1.2 the measure then leans to the precision of the reply. One reference a hypothesis.
    #[must_use]
    pub fn swapped(mut self, swapped: bool) -> Self {
        self.swapped = swapped;
        self
    }

    fn f_measure(&self, hypothesis: &str, references: &[&str]) -> f64 {
        let hypothesis = self.preprocessing.prepare(hypothesis);
        let references: Vec<_> = references.iter().map(|text| self.preprocessing.prepare(text)).collect();
        let references: Vec<_> = references.iter().map(|text| self.preprocessing.split(text)).collect();
        let numbered = Numbered::new(&self.preprocessing.split(&hypothesis), &references);
        let mut subsequences = Subsequences::default();
        let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
        for reference in &numbered.references {
            // Splitting at a space gives at least one token, so that neither length is 0.
            let common = subsequences.length(&numbered.hypothesis, reference) as f64;
            precision = precision.max(common / numbered.hypothesis.len() as f64);
            recall = recall.max(common / reference.len() as f64);
        }
        if precision == 0.0 || recall == 0.0 {
            return 0.0;
        }
        let beta2 = Self::BETA * Self::BETA;
        (1.0 + beta2) * precision * recall / (recall + beta2 * precision)
    }
}

pair_metric_methods!(CocoRouge);

impl Metric for CocoRouge {
    const NAME: &'static str = "ROUGE-L";
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
        let swap = if self.swapped { "yes" } else { "no" };
        format!("variant:pycocoevalcap|beta:{}|{}|swap:{swap}", Self::BETA, self.preprocessing.signature())
    }
}

impl PairMetric for CocoRouge {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        in_order(Self::NAME, self.swapped, hypothesis, references, |hypothesis, references| {
            sums.push(Self::NAME, &[self.f_measure(hypothesis, references)])
        })?
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, Rouge};

    #[test]
    fn precision_and_recall_come_from_different_references() {
        // Precision 1 against the long reference, recall 1 against the short one: together a perfect score.
        let score = Rouge::pycocoevalcap().sentence("a b c", &["a b c d e f", "b"]).unwrap();
        assert_eq!(score.values()[0], 1.0);
        assert!(score.iter().next().unwrap().signature().as_str().contains("|refs:2|"));
    }

    #[test]
    fn the_swapped_order_is_the_standard_order_of_swapped_arguments() {
        let (hypothesis, reference) = ("a b c", "a b c d");
        let swapped = Rouge::pycocoevalcap().swapped(true).sentence(hypothesis, reference).unwrap();
        let standard = Rouge::pycocoevalcap().sentence(reference, hypothesis).unwrap();
        assert_eq!(swapped.values()[0], standard.values()[0]);
        // P = 3/4, R = 1.
        assert!((swapped.values()[0] - 2.44 * 0.75 / (1.0 + 1.44 * 0.75)).abs() < 1e-15);
    }

    #[test]
    fn empty_texts_have_the_packages_values() {
        let value = |hypothesis, reference| {
            Rouge::pycocoevalcap().sentence(hypothesis, reference).unwrap().values()[0]
        };
        assert_eq!(value("", ""), 1.0);
        assert_eq!(value("", "a"), 0.0);
        assert_eq!(value("a", ""), 0.0);
        assert!(value("", "a  b") > 0.0);
    }

    #[test]
    fn bad_input_is_an_error_and_adds_nothing() {
        let rouge = Rouge::pycocoevalcap();
        let no_texts: [&str; 0] = [];
        assert!(matches!(rouge.corpus(&["a"], &no_texts), Err(Error::LengthMismatch { .. })));
        assert!(matches!(rouge.corpus(&no_texts, &no_texts), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(rouge.sentence("a", &no_texts), Err(Error::NoReferences { metric: "ROUGE-L" })));
        let mut statistics = rouge.swapped(true).statistics();
        assert!(statistics.update("a", &["a", "b"]).is_err());
        assert_eq!(statistics, rouge.swapped(true).statistics());
        assert!(matches!(statistics.merge(&rouge.statistics()), Err(Error::SettingsDiffer { .. })));
    }
}
