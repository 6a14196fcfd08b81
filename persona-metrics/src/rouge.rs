//! ROUGE-L.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::score::{Score, Signature, Unit};
use crate::statistics::{ExactSum, ReferenceRange, collect};
use crate::tokens::{PreTokenization, Preprocessing, Split, Texts};

const NAME: &str = "ROUGE-L";

/// ROUGE-L (Lin 2004) as pycocoevalcap's `Rouge()` computes it: the mean over pairs of an F-measure with beta 1.2.
///
/// Precision is the largest `LCS / hypothesis tokens` over the references, recall the largest `LCS / reference tokens`,
/// each taken by itself; F is `(1 + beta^2) P R / (R + beta^2 P)`, or 0 where P or R is. Tokens are those of
/// `str.split(" ")`, which gives an empty text one empty token: an empty hypothesis against an empty reference has 1,
/// against any other 0 (unless that holds an empty token too, from two spaces in a row).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RougeL {
    swapped: bool,
    preprocessing: Preprocessing,
}

impl RougeL {
    const BETA: f64 = 1.2;

    /// pycocoevalcap's `Rouge()` over texts as they are.
    pub fn pycocoevalcap() -> Self {
        Self { swapped: false, preprocessing: Preprocessing::new(Split::Space) }
    }

    /// Hypothesis and reference in each other's place, as PAL's released code hands them to pycocoevalcap; with beta
    /// 1.2 the measure then leans to the precision of the reply. One reference a hypothesis.
    #[must_use]
    pub fn swapped(mut self, swapped: bool) -> Self {
        self.swapped = swapped;
        self
    }

    /// What happens to the texts before the split. The package does nothing.
    #[must_use]
    pub fn pre_tokenization(mut self, pre_tokenization: PreTokenization) -> Self {
        self.preprocessing.pre_tokenization = pre_tokenization;
        self
    }

    /// Whether texts are lower-cased. The package does not.
    #[must_use]
    pub fn lowercase(mut self, lowercase: bool) -> Self {
        self.preprocessing.lowercase = lowercase;
        self
    }

    /// Empty statistics under these settings.
    pub fn statistics(&self) -> RougeLStats {
        RougeLStats {
            settings: *self,
            pairs: 0,
            sum: ExactSum::default(),
            references: ReferenceRange::default(),
        }
    }

    /// ROUGE-L of a corpus, on rayon's threads; the same bits for every number of threads.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, or an example with which [`RougeLStats::update`] has no way to go.
    pub fn corpus<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<Score>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        self.collect(hypotheses, references)?.score()
    }

    /// Statistics of a corpus, on rayon's threads: one shard of a larger whole.
    ///
    /// # Errors
    /// As [`RougeL::corpus`], but an empty corpus has statistics.
    pub fn collect<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<RougeLStats>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        same_length("hypotheses", hypotheses.len(), "lists of references", references.len())?;
        let pairs: Vec<_> = hypotheses.iter().zip(references).collect();
        collect(
            &pairs,
            || self.statistics(),
            |statistics, (hypothesis, references)| statistics.update(hypothesis.as_ref(), *references),
            RougeLStats::merge,
        )
    }

    /// ROUGE-L of one hypothesis.
    ///
    /// # Errors
    /// As [`RougeLStats::update`].
    pub fn sentence<R: Texts + ?Sized>(&self, hypothesis: &str, references: &R) -> Result<Score> {
        let mut statistics = self.statistics();
        statistics.update(hypothesis, references)?;
        statistics.score()
    }

    fn f_measure(&self, hypothesis: &str, references: &[&str]) -> f64 {
        let hypothesis = self.preprocessing.prepare(hypothesis);
        let hypothesis = self.preprocessing.split(&hypothesis);
        let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
        for reference in references {
            let reference = self.preprocessing.prepare(reference);
            let reference = self.preprocessing.split(&reference);
            // Splitting at a space gives at least one token, so that neither length is 0.
            let common = longest_common_subsequence(&hypothesis, &reference) as f64;
            precision = precision.max(common / hypothesis.len() as f64);
            recall = recall.max(common / reference.len() as f64);
        }
        if precision == 0.0 || recall == 0.0 {
            return 0.0;
        }
        let beta2 = Self::BETA * Self::BETA;
        (1.0 + beta2) * precision * recall / (recall + beta2 * precision)
    }

    fn signature(&self) -> String {
        let swap = if self.swapped { "yes" } else { "no" };
        format!("variant:pycocoevalcap|beta:{}|{}|swap:{swap}", Self::BETA, self.preprocessing.signature())
    }
}

/// The sum that ROUGE-L is the mean of. Shards of a corpus are merged in any order, to the same bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RougeLStats {
    settings: RougeL,
    pairs: u64,
    sum: ExactSum,
    references: ReferenceRange,
}

impl RougeLStats {
    /// Adds one hypothesis with its reference or references. Empty texts are allowed.
    ///
    /// # Errors
    /// No reference; in the swapped order anything but one reference. Nothing is added then.
    pub fn update<R: Texts + ?Sized>(&mut self, hypothesis: &str, references: &R) -> Result<()> {
        let references: Vec<&str> = references.texts().collect();
        if references.is_empty() {
            return Err(Error::NoReferences { metric: NAME });
        }
        let value = match (self.settings.swapped, references.as_slice()) {
            (false, references) => self.settings.f_measure(hypothesis, references),
            (true, [reference]) => self.settings.f_measure(reference, &[hypothesis]),
            (true, references) => {
                return Err(Error::SwapNeedsOneReference { metric: NAME, references: references.len() });
            }
        };
        self.sum.add(NAME, value)?;
        self.references.add(references.len());
        self.pairs = self.pairs.saturating_add(1);
        Ok(())
    }

    /// Adds the sums of another part of the corpus.
    ///
    /// # Errors
    /// The other part was computed under other settings.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.settings != other.settings {
            return Err(Error::SettingsDiffer {
                left: self.settings.signature(),
                right: other.settings.signature(),
            });
        }
        self.sum.merge(NAME, &other.sum)?;
        self.references.merge(&other.references);
        self.pairs = self.pairs.saturating_add(other.pairs);
        Ok(())
    }

    /// The mean over everything added so far, as a share of one.
    ///
    /// # Errors
    /// Nothing was added.
    pub fn score(&self) -> Result<Score> {
        if self.pairs == 0 {
            return Err(Error::EmptyCorpus { metric: NAME });
        }
        let signature = Signature::new(format_args!(
            "{}|refs:{}",
            self.settings.signature(),
            self.references.signature()
        ));
        Score::new(NAME, NAME, self.sum.value() / self.pairs as f64, Unit::Share, signature)
    }
}

/// Length of the longest common subsequence, in `O(len(a) * len(b))` time and `O(len(b))` memory.
fn longest_common_subsequence(a: &[&str], b: &[&str]) -> usize {
    // row[j] is the length for the tokens of `a` read so far and the first j + 1 of `b`.
    let mut row = vec![0; b.len()];
    for token in a {
        let (mut left, mut above_left) = (0, 0);
        for (cell, other) in row.iter_mut().zip(b) {
            let above: usize = *cell;
            *cell = if token == other { above_left + 1 } else { above.max(left) };
            (left, above_left) = (*cell, above);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_subsequences() {
        let lcs = |a: &str, b: &str| {
            let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
            longest_common_subsequence(&a, &b)
        };
        assert_eq!(lcs("a b c d", "a c d"), 3);
        assert_eq!(lcs("a b a b", "b a b a"), 3);
        assert_eq!(lcs("x", "y"), 0);
        assert_eq!(longest_common_subsequence(&[], &["a"]), 0);
        assert_eq!(longest_common_subsequence(&["a"], &[]), 0);
    }

    #[test]
    fn precision_and_recall_come_from_different_references() {
        // Precision 1 against the long reference, recall 1 against the short one: together a perfect score.
        let score = RougeL::pycocoevalcap().sentence("a b c", &["a b c d e f", "b"]).unwrap();
        assert_eq!(score.value(), 1.0);
        assert!(score.signature().as_str().contains("|refs:2|"));
    }

    #[test]
    fn the_swapped_order_is_the_standard_order_of_swapped_arguments() {
        let (hypothesis, reference) = ("a b c", "a b c d");
        let swapped = RougeL::pycocoevalcap().swapped(true).sentence(hypothesis, reference).unwrap();
        let standard = RougeL::pycocoevalcap().sentence(reference, hypothesis).unwrap();
        assert_eq!(swapped.value(), standard.value());
        // P = 3/4, R = 1.
        assert!((swapped.value() - 2.44 * 0.75 / (1.0 + 1.44 * 0.75)).abs() < 1e-15);
    }

    #[test]
    fn empty_texts_have_the_packages_values() {
        let value =
            |hypothesis, reference| RougeL::pycocoevalcap().sentence(hypothesis, reference).unwrap().value();
        assert_eq!(value("", ""), 1.0);
        assert_eq!(value("", "a"), 0.0);
        assert_eq!(value("a", ""), 0.0);
        assert!(value("", "a  b") > 0.0);
    }

    #[test]
    fn bad_input_is_an_error_and_adds_nothing() {
        let rouge = RougeL::pycocoevalcap();
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
