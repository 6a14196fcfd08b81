//! One metric of a suite.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{Bounds, Candidates, Compared, Method, Record, Sampling};
use crate::diversity::{Distinct, Entropy, LeaveOneOut, NgramExamples, PooledDistinct};
use crate::error::{Error, Result};
use crate::metric::{Examples, Metric, PairMetric, Statistics, TextMetric};
use crate::ranking::Ranking;
use crate::score::Score;
use crate::stats::jackknife;
use crate::sums::MeanSums;

/// A metric with what it has counted so far.
pub(super) trait Item: Send + Sync {
    fn name(&self) -> String;

    fn extend(&mut self, records: &[Record]) -> Result<()>;

    fn scores(&self) -> Result<Vec<Score>>;

    /// Confidence intervals of the scores for these records, in the order of the scores.
    fn intervals(&self, records: &[Record], sampling: &Sampling) -> Result<Vec<Option<Bounds>>>;

    /// Each score against that of another system; Holm's correction is still to come.
    fn compare(&self, records: &[Record], other: &[Record], sampling: &Sampling) -> Result<Vec<Compared>>;
}

/// What stands beside the prediction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Beside {
    References,
    Persona,
}

/// A metric of a prediction beside references or a persona.
#[derive(Debug)]
pub(super) struct Pairs<M: Metric> {
    metric: M,
    beside: Beside,
    statistics: Statistics<M>,
}

impl<M: PairMetric> Pairs<M> {
    pub(super) fn new(metric: M, beside: Beside) -> Self {
        let statistics = metric.statistics();
        Self { metric, beside, statistics }
    }

    fn columns<'r>(&self, records: &'r [Record]) -> (Vec<&'r str>, Vec<&'r [String]>) {
        let beside = |record: &'r Record| match self.beside {
            Beside::References => record.references.as_slice(),
            Beside::Persona => record.personas.as_deref().unwrap_or_default(),
        };
        records.iter().map(|record| (record.prediction.as_str(), beside(record))).unzip()
    }
}

impl<M: PairMetric + 'static> Item for Pairs<M> {
    fn name(&self) -> String {
        M::NAME.to_owned()
    }

    fn extend(&mut self, records: &[Record]) -> Result<()> {
        let (predictions, beside) = self.columns(records);
        self.statistics.extend(&predictions, &beside)
    }

    fn scores(&self) -> Result<Vec<Score>> {
        Ok(self.statistics.scores()?.into_iter().collect())
    }

    fn intervals(&self, records: &[Record], sampling: &Sampling) -> Result<Vec<Option<Bounds>>> {
        let (predictions, beside) = self.columns(records);
        let examples = self.metric.examples(&predictions, &beside)?;
        sampling.intervals(&examples)
    }

    fn compare(&self, records: &[Record], other: &[Record], sampling: &Sampling) -> Result<Vec<Compared>> {
        let (predictions, beside) = self.columns(records);
        let (others, _) = self.columns(other);
        let one = self.metric.examples(&predictions, &beside)?;
        let joint = one.joined(self.metric.examples(&others, &beside)?)?;
        sampling.tests(self.metric.names(), &joint)
    }
}

/// A diversity metric, whose n-grams can be drawn again without hashing them again.
pub(super) trait Diversity: TextMetric {
    fn without_each(&self, texts: &[&str]) -> Result<Vec<LeaveOneOut>>;

    fn joint(&self, first: &[&str], second: &[&str]) -> Result<NgramExamples>;
}

macro_rules! diversity {
    ($metric:ty) => {
        impl Diversity for $metric {
            fn without_each(&self, texts: &[&str]) -> Result<Vec<LeaveOneOut>> {
                self.leave_one_out(texts)
            }

            fn joint(&self, first: &[&str], second: &[&str]) -> Result<NgramExamples> {
                self.paired_examples(first, second)
            }
        }
    };
}
diversity!(Distinct);
diversity!(Entropy);

/// A metric of the predictions by themselves.
#[derive(Debug)]
pub(super) struct Texts<M: Metric> {
    metric: M,
    statistics: Statistics<M>,
}

impl<M: Diversity> Texts<M> {
    pub(super) fn new(metric: M) -> Self {
        let statistics = metric.statistics();
        Self { metric, statistics }
    }
}

fn predictions(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.prediction.as_str()).collect()
}

impl<M: Diversity + 'static> Item for Texts<M> {
    fn name(&self) -> String {
        M::NAME.to_owned()
    }

    fn extend(&mut self, records: &[Record]) -> Result<()> {
        self.statistics.extend_texts(&predictions(records))
    }

    fn scores(&self) -> Result<Vec<Score>> {
        Ok(self.statistics.scores()?.into_iter().collect())
    }

    fn intervals(&self, records: &[Record], sampling: &Sampling) -> Result<Vec<Option<Bounds>>> {
        let bounds = |score: LeaveOneOut| {
            // One text cannot be left out of one; and where every text but one has no n-gram there is no interval.
            let interval = jackknife(score.value, &score.without, sampling.level).ok()?;
            let (low, high, level) = (interval.low, interval.high, sampling.level);
            Some(Bounds { low, high, level, method: Method::Jackknife })
        };
        match self.metric.without_each(&predictions(records)) {
            Ok(scores) => Ok(scores.into_iter().map(bounds).collect()),
            Err(Error::Example { .. }) => Ok(vec![None; self.metric.names().len()]),
            Err(error) => Err(error),
        }
    }

    fn compare(&self, records: &[Record], other: &[Record], sampling: &Sampling) -> Result<Vec<Compared>> {
        let joint = self.metric.joint(&predictions(records), &predictions(other))?;
        sampling.tests(self.metric.names(), &joint)
    }
}

/// Distinct within pools of replies.
#[derive(Debug)]
pub(super) struct Pools {
    metric: PooledDistinct,
    /// For each history the pool of the replies to it; None where every reply is a pool of its own.
    questions: Option<HashMap<Vec<String>, usize>>,
    pools: Vec<Vec<String>>,
}

impl Pools {
    /// Records with equal histories answer one question, and are one pool.
    pub(super) fn of_questions(metric: PooledDistinct) -> Self {
        Self { metric, questions: Some(HashMap::new()), pools: Vec::new() }
    }

    /// Every reply is a pool.
    pub(super) fn of_replies(metric: PooledDistinct) -> Self {
        Self { metric, questions: None, pools: Vec::new() }
    }

    fn examples(&self, records: &[Record]) -> Result<Examples<PooledDistinct>> {
        let questions = self.questions.as_ref().map(|_| HashMap::new());
        let mut pools = Self { metric: self.metric, questions, pools: Vec::new() };
        pools.extend(records)?;
        self.metric.examples(&pools.pools)
    }
}

impl Item for Pools {
    fn name(&self) -> String {
        PooledDistinct::NAME.to_owned()
    }

    fn extend(&mut self, records: &[Record]) -> Result<()> {
        for record in records {
            let new = self.pools.len();
            let number = match &mut self.questions {
                Some(questions) => {
                    *questions.entry(record.history.clone().unwrap_or_default()).or_insert(new)
                }
                None => new,
            };
            if number == new {
                self.pools.push(Vec::new());
            }
            if let Some(pool) = self.pools.get_mut(number) {
                pool.push(record.prediction.clone());
            }
        }
        Ok(())
    }

    fn scores(&self) -> Result<Vec<Score>> {
        Ok(self.metric.corpus(&self.pools)?.into_iter().collect())
    }

    fn intervals(&self, records: &[Record], sampling: &Sampling) -> Result<Vec<Option<Bounds>>> {
        sampling.intervals(&self.examples(records)?)
    }

    fn compare(&self, records: &[Record], other: &[Record], sampling: &Sampling) -> Result<Vec<Compared>> {
        let joint = self.examples(records)?.joined(self.examples(other)?)?;
        sampling.tests(self.metric.names(), &joint)
    }
}

/// Candidates as the system ranks them; those that equal a reference are right.
#[derive(Debug)]
pub(super) struct Ranked {
    metric: Ranking,
    statistics: Statistics<Ranking>,
}

impl Ranked {
    pub(super) fn new(metric: Ranking) -> Self {
        let statistics = metric.statistics();
        Self { metric, statistics }
    }

    fn sums(&self, records: &[Record]) -> Result<Vec<MeanSums>> {
        let one = |(index, record): (usize, &Record)| {
            let references = record.references.as_slice();
            let sums = match &record.candidates {
                None => Err(Error::NoReferences { metric: Ranking::NAME }),
                Some(Candidates::Ranked(texts)) => self.metric.sums_of_ranking(texts, references),
                Some(Candidates::Scored(candidates)) => {
                    let texts: Vec<&str> = candidates.iter().map(|one| one.text.as_str()).collect();
                    let scores: Vec<f64> = candidates.iter().map(|one| one.score).collect();
                    self.metric.sums_of_candidates(&texts, &scores, references)
                }
            };
            sums.map_err(|error| error.at(index))
        };
        let sums: Vec<_> = records.par_iter().enumerate().map(one).collect();
        // Of several errors the first is named.
        sums.into_iter().collect()
    }
}

impl Item for Ranked {
    fn name(&self) -> String {
        Ranking::NAME.to_owned()
    }

    fn extend(&mut self, records: &[Record]) -> Result<()> {
        self.sums(records)?.iter().try_for_each(|sums| self.statistics.push(sums))
    }

    fn scores(&self) -> Result<Vec<Score>> {
        Ok(self.statistics.scores()?.into_iter().collect())
    }

    fn intervals(&self, records: &[Record], sampling: &Sampling) -> Result<Vec<Option<Bounds>>> {
        sampling.intervals(&Examples::new(self.metric.clone(), self.sums(records)?))
    }

    fn compare(&self, records: &[Record], other: &[Record], sampling: &Sampling) -> Result<Vec<Compared>> {
        let one = Examples::new(self.metric.clone(), self.sums(records)?);
        let joint = one.joined(Examples::new(self.metric.clone(), self.sums(other)?))?;
        sampling.tests(self.metric.names(), &joint)
    }
}
