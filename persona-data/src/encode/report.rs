//! What encoding did: lengths, cuts, and what was left out.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Task;

/// The distribution of some lengths in tokens. Percentiles are lengths that occur (nearest rank).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Lengths {
    /// The mean, 0 of none.
    pub mean: f64,
    /// The median.
    pub p50: usize,
    /// The length that 99 of 100 do not pass.
    pub p99: usize,
    /// The largest.
    pub max: usize,
}

impl Lengths {
    /// The distribution of a list; all zero for an empty one.
    #[must_use]
    pub fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let count = lengths.len();
        let rank = |percent: usize| (count * percent).div_ceil(100).saturating_sub(1);
        let at = |index: usize| lengths.get(index).copied().unwrap_or(0);
        let mean = if count == 0 {
            0.0
        } else {
            lengths.iter().map(|&length| length as f64).sum::<f64>() / count as f64
        };
        Self { mean, p50: at(rank(50)), p99: at(rank(99)), max: at(count.saturating_sub(1)) }
    }
}

/// What encoding did for one task.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskReport {
    /// How many examples were encoded.
    pub examples: usize,
    /// The lengths of their sources.
    pub source: Lengths,
    /// The lengths of their targets, EOS included.
    pub target: Lengths,
    /// How many of them lost turns.
    pub examples_cut: usize,
    /// How many turns they lost together.
    pub turns_cut: usize,
    /// How many examples were dropped because they could not be encoded.
    pub dropped: usize,
}

/// What [`crate::ExampleEncoder::encode_all`] did. `Display` prints a table.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EncodeReport {
    /// By task, each that was asked for.
    pub tasks: BTreeMap<Task, TaskReport>,
    /// The first few reasons for dropping an example.
    pub first_errors: Vec<String>,
}

impl EncodeReport {
    /// How many reasons [`EncodeReport::first_errors`] keeps.
    pub const ERRORS_KEPT: usize = 5;

    /// How many examples were dropped, over all tasks.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.tasks.values().fold(0, |sum, task| sum.saturating_add(task.dropped))
    }
}

impl fmt::Display for EncodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>9}  {:>24}  {:>24}  {:>9} {:>9} {:>9}",
            "task",
            "examples",
            "source mean/p50/p99/max",
            "target mean/p50/p99/max",
            "shortened",
            "turns cut",
            "dropped"
        )?;
        let lengths = |l: &Lengths| format!("{:.1}/{}/{}/{}", l.mean, l.p50, l.p99, l.max);
        for (task, report) in &self.tasks {
            writeln!(
                f,
                "{task:<12} {:>9}  {:>24}  {:>24}  {:>9} {:>9} {:>9}",
                report.examples,
                lengths(&report.source),
                lengths(&report.target),
                report.examples_cut,
                report.turns_cut,
                report.dropped
            )?;
        }
        for error in &self.first_errors {
            writeln!(f, "dropped: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let lengths = Lengths::of((1..=200).rev().collect());
        assert_eq!(lengths, Lengths { mean: 100.5, p50: 100, p99: 198, max: 200 });
        assert_eq!(Lengths::of(vec![7]), Lengths { mean: 7.0, p50: 7, p99: 7, max: 7 });
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
        let largest = Lengths::of(vec![usize::MAX; 4]);
        assert_eq!((largest.mean, largest.max), (usize::MAX as f64, usize::MAX));
    }
}
