//! C.score: does a judge find the replies to follow from the persona.

use serde::{Deserialize, Serialize};

use crate::consistency_report::judgements;
use crate::error::{Error, ModelError, Result};
use crate::metric::{Examples, Metric, Statistics};
use crate::score::{Scores, Unit};
use crate::sums::MeanSums;
use crate::tokens::Texts;

/// What a description says about a reply: the three classes of natural language inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// The reply contradicts the description: -1.
    Contradiction,
    /// Neither: 0.
    Neutral,
    /// The reply follows from, or restates, the description: +1.
    Entailment,
}

impl Judgement {
    /// The classes in the order of PAL's judge, for [`Judgement::from_scores`].
    pub const CONTRADICTION_FIRST: [Judgement; 3] =
        [Judgement::Contradiction, Judgement::Neutral, Judgement::Entailment];

    /// The value that C.score sums: -1, 0 or 1.
    pub fn value(self) -> i64 {
        match self {
            Judgement::Contradiction => -1,
            Judgement::Neutral => 0,
            Judgement::Entailment => 1,
        }
    }

    /// The class with the highest logit or probability; `scores[i]` belongs to `classes[i]`, and the first of equal
    /// scores wins.
    ///
    /// # Errors
    /// A score that is NaN or infinite.
    pub fn from_scores(scores: [f64; 3], classes: [Judgement; 3]) -> Result<Self> {
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(Error::JudgeScores { scores });
        }
        let [first, second, third] = scores;
        let [class_1, class_2, class_3] = classes;
        Ok(if first >= second && first >= third {
            class_1
        } else if second >= third {
            class_2
        } else {
            class_3
        })
    }
}

/// Judges whether replies follow from descriptions of their speaker. Usually an NLI classifier with the description as
/// premise and the reply as hypothesis: with the feature `model` a classifier of persona-model is one. Nothing else is
/// computed under C.score's name.
pub trait PersonaJudge {
    /// Name for the signature: model, revision, what it was trained on. Not to contain `|`.
    fn name(&self) -> String;

    /// One judgement for each (description, reply) pair, in order.
    ///
    /// # Errors
    /// Whatever keeps the judge from judging; NaN among its own scores is one
    /// ([`Judgement::from_scores`] reports it).
    fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, ModelError>;
}

/// How the judgements of a persona's descriptions become one value a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConsistencyForm {
    /// The sum over descriptions (Madotto et al. 2019): an empty persona has 0.
    Sum,
    /// The maximum over descriptions, as PAL's released code: in -1 to 1, close to the share of replies that restate
    /// some description.
    Max,
}

/// C.score: the mean over replies of the sum or maximum of their judgements. See [`PersonaJudge`].
///
/// A high value rewards inserting the persona into every reply: set the gold replies' value beside a system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Consistency {
    form: ConsistencyForm,
}

impl Consistency {
    /// The sum over descriptions, as published by Madotto et al. 2019.
    pub fn sum() -> Self {
        Self { form: ConsistencyForm::Sum }
    }

    /// The maximum over descriptions, as PAL's released code.
    pub fn max() -> Self {
        Self { form: ConsistencyForm::Max }
    }

    /// The metric of the judgements of the judge so named.
    pub fn judged_by(&self, judge: impl Into<String>) -> JudgedConsistency {
        JudgedConsistency { form: self.form, judge: judge.into() }
    }

    /// Empty statistics for the judgements of the judge so named.
    pub fn statistics(&self, judge: impl Into<String>) -> Statistics<JudgedConsistency> {
        self.judged_by(judge).statistics()
    }

    /// C.score of a corpus. `personas` holds the descriptions of each reply's speaker. The judge is called with at most
    /// 1024 distinct pairs of like length at a time, on this thread; how many its model takes at once is its own affair.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, a judge that fails or answers for another number of pairs; with
    /// [`Consistency::max`] an empty persona.
    pub fn corpus<J, H, P>(&self, judge: &J, replies: &[H], personas: &[P]) -> Result<Scores>
    where
        J: PersonaJudge + ?Sized,
        H: AsRef<str>,
        P: Texts,
    {
        let (judge, judgements) = Self::judgements(judge, replies, personas)?;
        self.of_judgements(&judge, &judgements)
    }

    /// Each reply by itself, to draw them again (see [`stats`](crate::stats)).
    ///
    /// # Errors
    /// As [`Consistency::corpus`], but an empty corpus has no examples.
    pub fn examples<J, H, P>(
        &self,
        judge: &J,
        replies: &[H],
        personas: &[P],
    ) -> Result<Examples<JudgedConsistency>>
    where
        J: PersonaJudge + ?Sized,
        H: AsRef<str>,
        P: Texts,
    {
        let (judge, judgements) = Self::judgements(judge, replies, personas)?;
        let metric = self.judged_by(judge);
        let sums = metric.replies(&judgements)?;
        Ok(Examples::new(metric, sums))
    }

    /// The judge's name and, for each reply, its judgements of the descriptions of the reply's speaker: for
    /// [`Consistency::of_judgements`] in both forms, so that the judge is asked once. It is called as by
    /// [`Consistency::corpus`].
    ///
    /// # Errors
    /// Lists of unequal length, a judge that fails or answers for another number of pairs.
    pub fn judgements<J, H, P>(
        judge: &J,
        replies: &[H],
        personas: &[P],
    ) -> Result<(String, Vec<Vec<Judgement>>)>
    where
        J: PersonaJudge + ?Sized,
        H: AsRef<str>,
        P: Texts,
    {
        judgements(judge, &texts(replies), personas)
    }

    /// C.score of the judgements of each reply, which the judge so named gave.
    ///
    /// # Errors
    /// An empty corpus; with [`Consistency::max`] a reply without a judgement.
    pub fn of_judgements(&self, judge: &str, judgements: &[Vec<Judgement>]) -> Result<Scores> {
        let metric = self.judged_by(judge);
        let mut statistics = metric.statistics();
        metric.replies(judgements)?.iter().try_for_each(|sums| statistics.push(sums))?;
        statistics.scores()
    }
}

fn texts<H: AsRef<str>>(texts: &[H]) -> Vec<&str> {
    texts.iter().map(AsRef::as_ref).collect()
}

/// C.score of judgements that a judge has given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JudgedConsistency {
    form: ConsistencyForm,
    judge: String,
}

impl JudgedConsistency {
    /// Empty statistics under these settings; see [`Metric::statistics`].
    pub fn statistics(&self) -> Statistics<Self> {
        Metric::statistics(self)
    }

    fn replies(&self, judgements: &[Vec<Judgement>]) -> Result<Vec<MeanSums>> {
        let replies = judgements.iter().enumerate();
        replies.map(|(index, own)| self.reply(own).map_err(|error| error.at(index))).collect()
    }

    /// The sums of one reply: the judgements of all descriptions of its speaker.
    ///
    /// # Errors
    /// With [`Consistency::max`] an empty persona, whose maximum does not exist.
    pub fn reply(&self, judgements: &[Judgement]) -> Result<MeanSums> {
        let values = judgements.iter().map(|judgement| judgement.value());
        let value = match self.form {
            ConsistencyForm::Sum => values.sum(),
            ConsistencyForm::Max => values.max().ok_or(Error::NoDescriptions)?,
        };
        let mut sums = self.empty();
        sums.push(Self::NAME, &[value as f64])?;
        Ok(sums)
    }
}

impl Statistics<JudgedConsistency> {
    /// Adds one reply: the judgements of all descriptions of its speaker.
    ///
    /// # Errors
    /// As [`JudgedConsistency::reply`]; nothing is added then.
    pub fn update(&mut self, judgements: &[Judgement]) -> Result<()> {
        let reply = self.metric().reply(judgements)?;
        self.push(&reply)
    }
}

impl Metric for JudgedConsistency {
    const NAME: &'static str = "C.score";
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(1)
    }

    fn names(&self) -> Vec<String> {
        vec![Self::NAME.to_owned()]
    }

    fn unit(&self) -> Unit {
        Unit::Plain
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(Self::NAME)
    }

    fn settings(&self) -> String {
        let form = match self.form {
            ConsistencyForm::Sum => "sum",
            ConsistencyForm::Max => "max",
        };
        format!("variant:{form}|judge:{}", self.judge)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::stats::Resample;

    /// Reads its judgement off the description's first letter, and keeps the sizes of its batches.
    struct ByLetter {
        pairs: Cell<usize>,
        largest: Cell<usize>,
    }

    impl PersonaJudge for ByLetter {
        fn name(&self) -> String {
            "by-letter".to_owned()
        }

        fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, ModelError> {
            self.pairs.set(self.pairs.get() + pairs.len());
            self.largest.set(self.largest.get().max(pairs.len()));
            pairs
                .iter()
                .map(|(description, _)| match description.chars().next() {
                    Some('e') => Ok(Judgement::Entailment),
                    Some('n') => Ok(Judgement::Neutral),
                    Some('c') => Ok(Judgement::Contradiction),
                    Some('-') => {
                        Ok(Judgement::from_scores([f64::NAN, 0.0, 0.0], Judgement::CONTRADICTION_FIRST)?)
                    }
                    _ => Err("unreadable".into()),
                })
                .skip(usize::from(pairs.iter().any(|(_, reply)| *reply == "short")))
                .collect()
        }
    }

    fn judge() -> ByLetter {
        ByLetter { pairs: Cell::new(0), largest: Cell::new(0) }
    }

    #[test]
    fn sum_and_maximum() {
        let personas = [vec!["e", "e", "c"], vec!["c", "c"], vec!["n", "c"]];
        let replies = ["", "", ""];
        let sum = Consistency::sum().corpus(&judge(), &replies, &personas).unwrap();
        assert_eq!(sum.values(), [(1.0 - 2.0 - 1.0) / 3.0]);
        assert!(sum.to_string().starts_with("C.score = -0.67 | variant:sum|judge:by-letter|"), "{sum}");
        let max = Consistency::max().corpus(&judge(), &replies, &personas).unwrap();
        assert_eq!(max.values(), [(1.0 - 1.0 + 0.0) / 3.0]);
        let examples = Consistency::max().examples(&judge(), &replies, &personas).unwrap();
        assert_eq!(examples.scores_of(&[1, 2, 2, 1]).unwrap(), [-0.5]);
    }

    #[test]
    fn pairs_come_in_bounded_batches() {
        let personas = vec![vec!["e", "n", "c"]; 2000];
        let replies: Vec<String> = (0..2000).map(|index| format!("reply {}", index % 1000)).collect();
        let judge = judge();
        assert_eq!(Consistency::sum().corpus(&judge, &replies, &personas).unwrap().values(), [0.0]);
        assert_eq!((judge.pairs.get(), judge.largest.get()), (3000, 1024));
    }

    #[test]
    fn a_failing_judge_is_an_error() {
        let score = |description, reply| Consistency::sum().corpus(&judge(), &[reply], &[[description]]);
        assert!(matches!(score("?", "x"), Err(Error::Judge { first_pair: 0, .. })));
        let nan = score("-", "x").unwrap_err();
        let source = std::error::Error::source(&nan).unwrap().downcast_ref::<Error>().unwrap();
        assert!(matches!(source, Error::JudgeScores { .. }), "{source}");
        assert!(matches!(score("e", "short"), Err(Error::JudgeCount { asked: 1, answered: 0, .. })));
    }

    #[test]
    fn an_empty_persona_has_a_sum_and_no_maximum() {
        let empty: [[&str; 0]; 1] = [[]];
        assert_eq!(Consistency::sum().corpus(&judge(), &["x"], &empty).unwrap().values(), [0.0]);
        let max = Consistency::max().corpus(&judge(), &["x"], &empty);
        assert!(matches!(max, Err(Error::Example { index: 0, .. })), "{max:?}");
    }

    #[test]
    fn bad_input_is_an_error() {
        let none: [&str; 0] = [];
        assert!(matches!(Consistency::sum().corpus(&judge(), &none, &none), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(
            Consistency::sum().corpus(&judge(), &["x"], &none),
            Err(Error::LengthMismatch { .. })
        ));
        let mut statistics = Consistency::sum().statistics("a");
        assert!(statistics.merge(&Consistency::sum().statistics("b")).is_err());
        assert!(statistics.merge(&Consistency::max().statistics("a")).is_err());
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        let of = |scores| Judgement::from_scores(scores, Judgement::CONTRADICTION_FIRST).unwrap();
        assert_eq!(of([1.0, 1.0, 1.0]), Judgement::Contradiction);
        assert_eq!(of([0.0, 1.0, 1.0]), Judgement::Neutral);
        assert_eq!(of([0.0, 1.0, 1.5]), Judgement::Entailment);
    }
}
