//! One metric of a suite.

use std::collections::HashMap;

use super::{Bounds, Compared, Method, Record, Sampling};
use crate::diversity::{Distinct, Entropy, LeaveOneOut, NgramExamples, PooledDistinct};
use crate::error::{Error, Result};
use crate::metric::{Examples, Metric, PairMetric, Statistics, TextMetric};
use crate::score::Score;
use crate::stats::{Draws, Resample, Swaps, approximate_randomisation, bootstrap, jackknife};

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
        bootstrapped(&examples, sampling)
    }

    fn compare(&self, records: &[Record], other: &[Record], sampling: &Sampling) -> Result<Vec<Compared>> {
        let (predictions, beside) = self.columns(records);
        let (others, _) = self.columns(other);
        let one = self.metric.examples(&predictions, &beside)?;
        let joint = one.joined(self.metric.examples(&others, &beside)?)?;
        compared(self.metric.names(), &joint, sampling)
    }
}

fn bootstrapped(examples: &impl Resample, sampling: &Sampling) -> Result<Vec<Option<Bounds>>> {
    let draws = Draws::seeded(sampling.trials, sampling.seed);
    let intervals = bootstrap(examples, &draws, sampling.level)?.into_iter();
    let bounds = intervals.map(|interval| Bounds {
        low: interval.low,
        high: interval.high,
        level: sampling.level,
        method: Method::Bootstrap,
    });
    Ok(bounds.map(Some).collect())
}

/// `joint` holds both systems' examples, the first system's first.
fn compared(names: Vec<String>, joint: &impl Resample, sampling: &Sampling) -> Result<Vec<Compared>> {
    let tests = approximate_randomisation(joint, &Swaps::seeded(sampling.trials, sampling.seed))?;
    let compared = names.into_iter().zip(tests).map(|(name, test)| Compared {
        name,
        // The tests count what the second system has more.
        difference: test.value_a - test.value_b,
        p_value: test.p_value,
        p_holm: test.p_value,
    });
    Ok(compared.collect())
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
        compared(self.metric.names(), &joint, sampling)
    }
}

/// Distinct of the replies to each question: records with equal histories answer one.
#[derive(Debug)]
pub(super) struct Questions {
    metric: PooledDistinct,
    numbers: HashMap<Vec<String>, usize>,
    pools: Vec<Vec<String>>,
}

impl Questions {
    pub(super) fn new(metric: PooledDistinct) -> Self {
        Self { metric, numbers: HashMap::new(), pools: Vec::new() }
    }

    fn examples(&self, records: &[Record]) -> Result<Examples<PooledDistinct>> {
        let mut questions = Self::new(self.metric);
        questions.extend(records)?;
        self.metric.examples(&questions.pools)
    }
}

impl Item for Questions {
    fn name(&self) -> String {
        PooledDistinct::NAME.to_owned()
    }

    fn extend(&mut self, records: &[Record]) -> Result<()> {
        for record in records {
            let history = record.history.clone().unwrap_or_default();
            let new = self.pools.len();
            let number = *self.numbers.entry(history).or_insert(new);
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
        bootstrapped(&self.examples(records)?, sampling)
    }

    fn compare(&self, records: &[Record], other: &[Record], sampling: &Sampling) -> Result<Vec<Compared>> {
        let joint = self.examples(records)?.joined(self.examples(other)?)?;
        compared(self.metric.names(), &joint, sampling)
    }
}
