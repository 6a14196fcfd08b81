//! Ranking of candidate replies: hits@k and MRR.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::metric::{Metric, Statistics};
use crate::parlai::are_labels;
use crate::score::Unit;
use crate::sums::MeanSums;
use crate::tokens::Texts;

const NAME: &str = "Ranking";

/// hits@k and MRR of ranked candidate replies, as ParlAI 1.7 reports them: shares of one, means over the examples.
///
/// The rank of an example is the place, counted from 1, of the first candidate that is right. hits@k is 1 if it is at
/// most k, and the reciprocal rank is 1/rank; both are 0 if no candidate is right. Candidates are ranked by descending
/// score. ConvAI2 has 20 candidates an example, so that a random ranking has hits@1 of 0.05 ([`Ranking::convai2`]).
///
/// ```
/// use persona_metrics::Ranking;
///
/// let mut statistics = Ranking::default().statistics();
/// statistics.update_scores(&[-1.5, 0.3, 0.1], 1)?; // rank 1
/// statistics.update_ranking(&["i do", "I have a dog!", "no"], "i have the dog")?; // rank 2
/// let scores = statistics.scores()?;
/// assert_eq!(scores.get("hits@1").map(|score| score.value()), Some(0.5));
/// assert_eq!(scores.get("MRR").map(|score| score.value()), Some(0.75));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranking {
    cutoffs: Vec<usize>,
    ties: RankTies,
    candidates: Option<usize>,
}

/// Which of several candidates with the same score comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankTies {
    /// The one that was given first, as in a stable sort. Do not give the right one first everywhere.
    #[default]
    InputOrder,
    /// The right one comes last: its rank is the number of candidates with a score as high as its own, as in
    /// scikit-learn's `label_ranking_average_precision_score`, which is MRR where one candidate is right.
    Pessimistic,
}

/// ParlAI's cut-offs 1, 5, 10 and 100, any number of candidates.
impl Default for Ranking {
    fn default() -> Self {
        Self { cutoffs: vec![1, 5, 10, 100], ties: RankTies::InputOrder, candidates: None }
    }
}

impl Ranking {
    /// ConvAI2: 20 candidates, hits@1, hits@5 and hits@10.
    pub fn convai2() -> Self {
        Self { cutoffs: vec![1, 5, 10], candidates: Some(20), ..Self::default() }
    }

    /// The k of hits@k.
    ///
    /// # Errors
    /// A k of 0.
    pub fn cutoffs(mut self, cutoffs: &[usize]) -> Result<Self> {
        if cutoffs.contains(&0) {
            let problem = "hits@k needs a k of at least 1".to_owned();
            return Err(Error::InvalidSetting { metric: NAME, problem });
        }
        self.cutoffs = cutoffs.to_vec();
        Ok(self)
    }

    /// Which of several candidates with the same score comes first; [`RankTies::InputOrder`] by default.
    #[must_use]
    pub fn ties(mut self, ties: RankTies) -> Self {
        self.ties = ties;
        self
    }

    /// The number of candidates that every example has to have, which goes into the signature: scores of different
    /// numbers do not compare. None, the default, allows any.
    #[must_use]
    pub fn candidates(mut self, candidates: impl Into<Option<usize>>) -> Self {
        self.candidates = candidates.into();
        self
    }

    /// Empty statistics under these settings; see [`Metric::statistics`].
    pub fn statistics(&self) -> Statistics<Self> {
        Metric::statistics(self)
    }

    /// The rank, counted from 1, of the candidate at index `right` under these scores.
    ///
    /// # Errors
    /// An index out of range, a score that is NaN, another number of candidates than was set.
    pub fn rank(&self, scores: &[f64], right: usize) -> Result<usize> {
        if right >= scores.len() {
            return Err(Error::IndexOutOfRange { index: right, len: scores.len() });
        }
        let rank = self.first_rank(scores, |index| index == right)?;
        rank.ok_or(Error::IndexOutOfRange { index: right, len: scores.len() })
    }

    /// The sums of one example of which the candidate at index `right` is right: for
    /// [`Examples::new`](crate::Examples::new), to draw examples again.
    ///
    /// # Errors
    /// As [`Ranking::rank`].
    pub fn sums_of_scores(&self, scores: &[f64], right: usize) -> Result<MeanSums> {
        self.sums_of_rank(Some(self.rank(scores, right)?))
    }

    /// The sums of one example whose candidates are given best first. Those that equal a label after ParlAI's
    /// `normalize_answer` (see [`UnigramF1`](crate::UnigramF1)) are right.
    ///
    /// # Errors
    /// No label, no candidate, or another number of candidates than was set.
    pub fn sums_of_ranking<S: AsRef<str>, L: Texts + ?Sized>(
        &self,
        ranking: &[S],
        labels: &L,
    ) -> Result<MeanSums> {
        self.check(ranking.len())?;
        let right = labelled(ranking, labels)?;
        self.sums_of_rank(right.iter().position(|&right| right).map(|index| index + 1))
    }

    /// The sums of one example whose candidates come with their scores. Those that equal a label after ParlAI's
    /// `normalize_answer` are right.
    ///
    /// # Errors
    /// No label, no candidate, lists of unequal length, a score that is NaN, or another number of candidates than was
    /// set.
    pub fn sums_of_candidates<S: AsRef<str>, L: Texts + ?Sized>(
        &self,
        candidates: &[S],
        scores: &[f64],
        labels: &L,
    ) -> Result<MeanSums> {
        same_length("candidates", candidates.len(), "scores", scores.len())?;
        let right = labelled(candidates, labels)?;
        self.sums_of_rank(self.first_rank(scores, |index| right.get(index).is_some_and(|&right| right))?)
    }

    /// The rank of the first candidate that is right.
    fn first_rank(&self, scores: &[f64], is_right: impl Fn(usize) -> bool) -> Result<Option<usize>> {
        self.check(scores.len())?;
        if let Some(&value) = scores.iter().find(|score| score.is_nan()) {
            return Err(Error::OutOfRange { metric: NAME, value });
        }
        let mut best: Option<(usize, f64)> = None;
        for (index, &score) in scores.iter().enumerate().filter(|(index, _)| is_right(*index)) {
            if best.is_none_or(|(_, highest)| score > highest) {
                best = Some((index, score));
            }
        }
        let rank = |(right, own): (usize, f64)| {
            let before = |(index, &score): (usize, &f64)| {
                score > own || (score == own && (self.ties == RankTies::Pessimistic || index <= right))
            };
            scores.iter().enumerate().filter(|&candidate| before(candidate)).count()
        };
        Ok(best.map(rank))
    }

    fn check(&self, candidates: usize) -> Result<()> {
        match self.candidates {
            _ if candidates == 0 => Err(Error::NoCandidates { metric: NAME }),
            Some(expected) if expected != candidates => {
                Err(Error::CandidateCount { metric: NAME, expected, candidates })
            }
            _ => Ok(()),
        }
    }

    fn sums_of_rank(&self, rank: Option<usize>) -> Result<MeanSums> {
        let hit = |&cutoff: &usize| f64::from(u8::from(rank.is_some_and(|rank| rank <= cutoff)));
        let mut values: Vec<f64> = self.cutoffs.iter().map(hit).collect();
        values.push(rank.map_or(0.0, |rank| 1.0 / rank as f64));
        let mut sums = self.empty();
        sums.push(NAME, &values)?;
        Ok(sums)
    }
}

fn labelled<S: AsRef<str>, L: Texts + ?Sized>(candidates: &[S], labels: &L) -> Result<Vec<bool>> {
    let labels: Vec<&str> = labels.texts().collect();
    if labels.is_empty() {
        return Err(Error::NoReferences { metric: NAME });
    }
    Ok(are_labels(candidates, &labels))
}

impl Statistics<Ranking> {
    /// Counts one example by the scores of its candidates, of which the one at index `right` is right.
    ///
    /// # Errors
    /// As [`Ranking::rank`]; nothing is counted then.
    pub fn update_scores(&mut self, scores: &[f64], right: usize) -> Result<()> {
        self.push(&self.metric().sums_of_scores(scores, right)?)
    }

    /// Counts one example by its candidates, best first, and the texts that are right.
    ///
    /// # Errors
    /// As [`Ranking::sums_of_ranking`]; nothing is counted then.
    pub fn update_ranking<S: AsRef<str>, L: Texts + ?Sized>(
        &mut self,
        ranking: &[S],
        labels: &L,
    ) -> Result<()> {
        self.push(&self.metric().sums_of_ranking(ranking, labels)?)
    }

    /// Counts one example by its candidates with their scores, and the texts that are right.
    ///
    /// # Errors
    /// As [`Ranking::sums_of_candidates`]; nothing is counted then.
    pub fn update_candidates<S: AsRef<str>, L: Texts + ?Sized>(
        &mut self,
        candidates: &[S],
        scores: &[f64],
        labels: &L,
    ) -> Result<()> {
        self.push(&self.metric().sums_of_candidates(candidates, scores, labels)?)
    }
}

impl Metric for Ranking {
    const NAME: &'static str = NAME;
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(self.cutoffs.len() + 1)
    }

    fn names(&self) -> Vec<String> {
        let hits = self.cutoffs.iter().map(|cutoff| format!("hits@{cutoff}"));
        hits.chain(["MRR".to_owned()]).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(NAME)
    }

    fn settings(&self) -> String {
        let ties = match self.ties {
            RankTies::InputOrder => "input-order",
            RankTies::Pessimistic => "pessimistic",
        };
        let candidates = self.candidates.map_or("any".to_owned(), |candidates| candidates.to_string());
        format!("variant:parlai|ties:{ties}|candidates:{candidates}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Examples;
    use crate::stats::Resample;

    #[test]
    fn ranks_with_ties() {
        let scores = [0.5, 0.9, 0.5, f64::NEG_INFINITY, 0.5];
        let ranks = |ties| {
            (0..5)
                .map(|right| Ranking::default().ties(ties).rank(&scores, right).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(ranks(RankTies::InputOrder), [2, 1, 3, 5, 4]);
        assert_eq!(ranks(RankTies::Pessimistic), [4, 1, 4, 5, 4]);
    }

    #[test]
    fn texts_are_matched_after_normalisation() {
        let candidates = ["no", "A cat!", "yes", "the cat"];
        let sums = |scores: &[f64], labels: &[&str]| {
            let sums = Ranking::default().sums_of_candidates(&candidates, scores, labels).unwrap();
            sums.means("test").unwrap()
        };
        // Ranked: the cat, yes, A cat!, no. Either cat is right, and the first counts.
        assert_eq!(sums(&[0.1, 0.2, 0.3, 0.4], &["cat"]), [1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(sums(&[0.1, 0.2, 0.3, 0.4], &["maybe", "yes"]), [0.0, 1.0, 1.0, 1.0, 0.5]);
        assert_eq!(sums(&[0.1, 0.2, 0.3, 0.4], &["maybe"]), [0.0; 5]);
        let ranking = Ranking::default().sums_of_ranking(&candidates, "cat").unwrap();
        assert_eq!(ranking.means("test").unwrap(), [0.0, 1.0, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn statistics_merge_and_are_drawn_again() {
        let ranking = Ranking::convai2().candidates(2).cutoffs(&[1]).unwrap();
        let mut whole = ranking.statistics();
        let mut sums = Vec::new();
        for right in [0, 1, 1] {
            let mut one = ranking.statistics();
            one.update_scores(&[0.3, 0.7], right).unwrap();
            sums.push(one.sums().clone());
            whole.merge(&one).unwrap();
        }
        let scores = whole.scores().unwrap();
        assert_eq!(scores.values(), [2.0 / 3.0, 2.5 / 3.0]);
        let signature = scores.get("MRR").unwrap().signature().as_str();
        assert!(
            signature.starts_with("variant:parlai|ties:input-order|candidates:2|version:"),
            "{signature}"
        );
        assert_eq!(Examples::new(ranking, sums).scores_of(&[0, 0, 1, 1]).unwrap(), [0.5, 0.75]);
    }

    #[test]
    fn bad_input_is_an_error() {
        let ranking = Ranking::default();
        let none: [&str; 0] = [];
        assert!(matches!(ranking.rank(&[1.0], 1), Err(Error::IndexOutOfRange { index: 1, len: 1 })));
        assert!(matches!(ranking.rank(&[], 0), Err(Error::IndexOutOfRange { .. })));
        assert!(matches!(ranking.rank(&[1.0, f64::NAN], 0), Err(Error::OutOfRange { .. })));
        assert!(matches!(ranking.sums_of_ranking(&none, "a"), Err(Error::NoCandidates { .. })));
        assert!(matches!(ranking.sums_of_ranking(&["a"], &none), Err(Error::NoReferences { .. })));
        let unequal = ranking.sums_of_candidates(&["a"], &[1.0, 2.0], "a");
        assert!(matches!(unequal, Err(Error::LengthMismatch { .. })));
        let mut convai2 = Ranking::convai2().statistics();
        let few = convai2.update_scores(&[1.0; 19], 3);
        assert!(matches!(few, Err(Error::CandidateCount { expected: 20, candidates: 19, .. })));
        assert_eq!(convai2, Ranking::convai2().statistics());
        assert!(matches!(convai2.scores(), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(Ranking::default().cutoffs(&[1, 0]), Err(Error::InvalidSetting { .. })));
    }
}
