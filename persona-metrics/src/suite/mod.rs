//! Several metrics over one stream of records, as the papers' tables have them.

mod item;
mod language;
mod preset;
mod record;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::item::{Beside, Item, Pairs, Ranked};
pub use self::language::Language;
pub use self::preset::Preset;
pub use self::record::{Candidates, Fields, Record, ScoredCandidate};
use crate::copying::CopyRate;
use crate::error::{Error, Result, same_length};
use crate::metric::{Metric, PairMetric};
use crate::ranking::Ranking;
use crate::score::Score;
use crate::stats::{
    BootstrapInterval, Draws, Resample, Swaps, approximate_randomisation, bootstrap, holm, outside,
};

/// The metrics of a [`Preset`], fed with records and asked once.
///
/// ```
/// use persona_metrics::suite::{Preset, Record};
///
/// let records = [Record {
///     prediction: "i have a dog".into(),
///     references: vec!["i have a cat".into()],
///     ..Record::default()
/// }];
/// let mut suite = Preset::Sacrebleu.suite(records[0].fields());
/// suite.extend(&records)?;
/// for score in suite.scores()?.scores {
///     println!("{score}");
/// }
/// # Ok::<(), persona_metrics::Error>(())
/// ```
pub struct Suite {
    preset: Preset,
    fields: Fields,
    items: Vec<Box<dyn Item>>,
    missing: Vec<Missing>,
    records: u64,
}

/// A metric of a preset without a value for these records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Name of the metric.
    pub metric: String,
    /// What it needs, or why it has no value.
    pub why: String,
}

/// What could be measured, and what could not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome<T> {
    /// The scores in the preset's order.
    pub scores: Vec<T>,
    /// The metrics without a value.
    pub missing: Vec<Missing>,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.items.iter().map(|item| item.name()).collect();
        f.debug_struct("Suite").field("preset", &self.preset).field("metrics", &names).finish_non_exhaustive()
    }
}

/// A score with its confidence interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The score.
    #[serde(flatten)]
    pub score: Score,
    /// The interval, on the score's own scale; None where none was asked for or none can be had.
    pub interval: Option<Bounds>,
}

/// Both ends of a confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The share of samples whose interval holds the true value, 0.95 for 95 %.
    pub level: f64,
    /// How the interval was made.
    pub method: Method,
}

/// How an interval is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Method {
    /// Percentiles of the scores of resampled corpora.
    Bootstrap,
    /// Normal interval from the scores without each example. For Distinct and Entropy: an example drawn twice repeats
    /// its n-grams, which biases the bootstrap.
    Jackknife,
}

/// How corpora are drawn again for intervals and tests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// How often.
    pub trials: usize,
    /// The seed of the draws.
    pub seed: u64,
    /// The level of the confidence intervals.
    pub level: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { trials: 1000, seed: 1, level: 0.95 }
    }
}

impl Sampling {
    fn check(&self, needed: usize) -> Result<()> {
        outside(self.level)?;
        let (what, given) = ("trials", self.trials);
        if given < needed {
            return Err(Error::TooFew { statistic: "resampling", what, needed, given });
        }
        Ok(())
    }

    /// Bootstrap intervals of every score, by percentiles.
    ///
    /// # Errors
    /// No examples, a level outside of 0 to 1, or a resampled corpus without a value.
    pub fn intervals(&self, examples: &impl Resample) -> Result<Vec<Option<Bounds>>> {
        let draws = Draws::seeded(self.trials, self.seed);
        let bounds = |interval: BootstrapInterval| Bounds {
            low: interval.low,
            high: interval.high,
            level: self.level,
            method: Method::Bootstrap,
        };
        let intervals = bootstrap(examples, &draws, self.level)?.into_iter();
        Ok(intervals.map(|interval| Some(bounds(interval))).collect())
    }

    /// Tests every score of one system against another's; `joint` holds both systems' examples, the first system's first
    /// ([`Examples::joined`](crate::Examples::joined)). [`Compared::correct`] is still to come.
    ///
    /// # Errors
    /// No examples, or exchanged corpora without a value.
    pub fn tests(&self, names: Vec<String>, joint: &impl Resample) -> Result<Vec<Compared>> {
        let tests = approximate_randomisation(joint, &Swaps::seeded(self.trials, self.seed))?;
        let compared = names.into_iter().zip(tests).map(|(name, test)| Compared {
            name,
            // The tests count what the second system has more.
            difference: test.value_a - test.value_b,
            p_value: test.p_value,
            p_holm: test.p_value,
        });
        Ok(compared.collect())
    }
}

/// Two systems' scores beside each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Name of the score.
    pub name: String,
    /// The first system's value less the other's.
    pub difference: f64,
    /// Two-sided p-value of the paired approximate randomisation test.
    pub p_value: f64,
    /// The p-value after Holm's correction over the table.
    pub p_holm: f64,
}

impl Compared {
    /// Holm's correction over all scores that are reported together.
    ///
    /// # Errors
    /// A p-value that is none.
    pub fn correct(all: &mut [Self]) -> Result<()> {
        let p_values: Vec<f64> = all.iter().map(|one| one.p_value).collect();
        for (one, p_holm) in all.iter_mut().zip(holm(&p_values)?) {
            one.p_holm = p_holm;
        }
        Ok(())
    }
}

impl Suite {
    fn new(preset: Preset, fields: Fields) -> Self {
        Self { preset, fields, items: Vec::new(), missing: Vec::new(), records: 0 }
    }

    /// Takes a metric that these records allow.
    fn with(mut self, item: impl Item + 'static) -> Self {
        self.items.push(Box::new(item));
        self
    }

    /// Takes a metric of predictions beside references, where there are any.
    fn references<M: PairMetric + 'static>(self, metric: M) -> Self {
        if self.fields.references {
            self.with(Pairs::new(metric, Beside::References))
        } else {
            self.without(M::NAME, "needs references")
        }
    }

    /// Takes hits@k and MRR, where there are candidates and references.
    fn ranking(self) -> Self {
        if self.fields.candidates && self.fields.references {
            self.with(Ranked::new(Ranking::default()))
        } else {
            self.without("hits@k, MRR", "needs candidates and references")
        }
    }

    /// Takes the copy rate, where there are personas.
    fn copy_rate(self, metric: CopyRate) -> Self {
        if self.fields.personas {
            self.with(Pairs::new(metric, Beside::Persona))
        } else {
            self.without(CopyRate::NAME, "needs personas")
        }
    }

    /// Notes a metric that these records, or a suite of text metrics, do not allow.
    fn without(mut self, metric: &str, why: &str) -> Self {
        self.missing.push(Missing { metric: metric.to_owned(), why: why.to_owned() });
        self
    }

    /// The preset.
    pub fn preset(&self) -> Preset {
        self.preset
    }

    /// Counts records, on rayon's threads. A stream of any length is handed over in parts.
    ///
    /// # Errors
    /// A record without a part that the first one had, or with one that it had not, or what a metric has no value for;
    /// the record is named by its index over the whole stream. The suite is not to be used then.
    pub fn extend(&mut self, records: &[Record]) -> Result<()> {
        let before = usize::try_from(self.records).unwrap_or(usize::MAX);
        for (index, record) in records.iter().enumerate() {
            if record.fields() != self.fields {
                let error = Error::FieldsDiffer { first: self.fields, here: record.fields() };
                return Err(error.at(before.saturating_add(index)));
            }
        }
        for item in &mut self.items {
            item.extend(records).map_err(|error| error.later(before))?;
        }
        self.records = self.records.saturating_add(records.len() as u64);
        Ok(())
    }

    /// The scores of everything counted so far, and what has no value for it.
    ///
    /// # Errors
    /// Nothing was counted.
    pub fn scores(&self) -> Result<Outcome<Score>> {
        self.each(|item| item.scores())
    }

    /// The same with confidence intervals. `records` are all records that were counted.
    ///
    /// # Errors
    /// Nothing was counted; another number of records than were counted; a level outside of 0 to 1, or fewer than two
    /// trials.
    pub fn measured(&self, records: &[Record], sampling: &Sampling) -> Result<Outcome<Measured>> {
        sampling.check(2)?;
        self.check_count(records)?;
        self.each(|item| {
            let intervals = item.intervals(records, sampling)?;
            let scores = item.scores()?.into_iter().zip(intervals);
            Ok(scores.map(|(score, interval)| Measured { score, interval }).collect())
        })
    }

    /// Tests every score against another system's on the same examples: paired approximate randomisation, two-sided, and
    /// Holm's correction over all scores. `records` are all records that were counted.
    ///
    /// # Errors
    /// Another number of records, or a record whose references, personas or histories are not the first system's; a level
    /// outside of 0 to 1, or no trial.
    pub fn compare(
        &self,
        records: &[Record],
        other: &[Record],
        sampling: &Sampling,
    ) -> Result<Outcome<Compared>> {
        sampling.check(1)?;
        self.check_count(records)?;
        same_length("records of one system", records.len(), "of the other", other.len())?;
        for (index, (one, other)) in records.iter().zip(other).enumerate() {
            let same = one.references == other.references
                && one.personas == other.personas
                && one.history == other.history
                && one.fields() == other.fields();
            if !same {
                return Err(Error::ExamplesDiffer.at(index));
            }
        }
        let mut compared = self.each(|item| item.compare(records, other, sampling))?;
        Compared::correct(&mut compared.scores)?;
        Ok(compared)
    }

    fn each<T>(&self, ask: impl Fn(&dyn Item) -> Result<Vec<T>>) -> Result<Outcome<T>> {
        if self.records == 0 {
            return Err(Error::EmptyCorpus { metric: self.preset.name() });
        }
        let mut outcome = Outcome { scores: Vec::new(), missing: self.missing.clone() };
        for item in &self.items {
            match ask(item.as_ref()) {
                Ok(values) => outcome.scores.extend(values),
                Err(error) => outcome.missing.push(Missing { metric: item.name(), why: error.chain() }),
            }
        }
        Ok(outcome)
    }

    fn check_count(&self, records: &[Record]) -> Result<()> {
        let counted = usize::try_from(self.records).unwrap_or(usize::MAX);
        same_length("records", records.len(), "counted records", counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampling_that_is_none_is_an_error() {
        let record = |prediction: &str| Record {
            prediction: prediction.into(),
            references: vec!["i have a cat".into()],
            ..Record::default()
        };
        let records = [record("i have a dog"), record("i have a cat")];
        let mut suite = Preset::Standard.suite(records[0].fields());
        suite.extend(&records).unwrap();
        let good = Sampling { trials: 10, ..Sampling::default() };
        assert!(suite.measured(&records, &good).unwrap().scores.iter().any(|score| score.interval.is_some()));
        let level = Sampling { level: 95.0, ..good };
        let measured = |sampling| suite.measured(&records, &sampling).unwrap_err();
        let compared = |sampling| suite.compare(&records, &records, &sampling).unwrap_err();
        assert!(matches!(measured(level), Error::NotAProbability { value: 95.0, .. }));
        assert!(matches!(compared(level), Error::NotAProbability { value: 95.0, .. }));
        let trials = |trials| Sampling { trials, ..good };
        assert!(matches!(measured(trials(1)), Error::TooFew { needed: 2, given: 1, .. }));
        assert!(matches!(compared(trials(0)), Error::TooFew { needed: 1, given: 0, .. }));
        assert!(suite.compare(&records, &records, &trials(1)).is_ok());
    }
}
