//! The kinds of ROUGE, and the three numbers of each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Name of these metrics in errors.
pub(super) const ROUGE: &str = "ROUGE";

/// A kind of ROUGE (Lin 2004).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RougeType {
    /// ROUGE-N: n-grams of this order, counted from 1.
    N(u8),
    /// ROUGE-L: the longest common subsequence.
    L,
    /// ROUGE-Lsum: the longest common subsequence of lines, united over the lines of the hypothesis.
    Lsum,
    /// ROUGE-W: as ROUGE-L, but matches in a row weigh more.
    W,
}

/// `ROUGE-1`, `ROUGE-L`, `ROUGE-Lsum`, `ROUGE-W`.
impl fmt::Display for RougeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::N(order) => write!(f, "ROUGE-{order}"),
            Self::L => f.write_str("ROUGE-L"),
            Self::Lsum => f.write_str("ROUGE-Lsum"),
            Self::W => f.write_str("ROUGE-W"),
        }
    }
}

/// What a package is asked for: kinds of ROUGE in the order of its scores.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Types(Vec<RougeType>);

impl Types {
    /// ROUGE-1, ROUGE-2, ROUGE-L.
    pub(super) fn usual() -> Self {
        Self(vec![RougeType::N(1), RougeType::N(2), RougeType::L])
    }

    /// # Errors
    /// No kind, the same kind twice, or one that `package` does not have.
    pub(super) fn new(
        package: &str,
        types: impl IntoIterator<Item = RougeType>,
        has: impl Fn(RougeType) -> bool,
    ) -> Result<Self> {
        let mut chosen = Vec::new();
        for kind in types {
            let problem = if !has(kind) {
                format!("{package} has no {kind}")
            } else if chosen.contains(&kind) {
                format!("{kind} is asked for twice")
            } else {
                chosen.push(kind);
                continue;
            };
            return Err(Error::InvalidSetting { metric: ROUGE, problem });
        }
        if chosen.is_empty() {
            let problem = "no type is asked for; give at least one".to_owned();
            return Err(Error::InvalidSetting { metric: ROUGE, problem });
        }
        Ok(Self(chosen))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = RougeType> + '_ {
        self.0.iter().copied()
    }

    /// Number of scores: three a kind.
    pub(super) fn scores(&self) -> usize {
        3 * self.0.len()
    }

    /// The largest order of n-grams, 0 without any.
    pub(super) fn largest_order(&self) -> usize {
        let order = |kind| if let RougeType::N(order) = kind { usize::from(order) } else { 0 };
        self.iter().map(order).max().unwrap_or_default()
    }

    /// `ROUGE-1 P`, `ROUGE-1 R`, `ROUGE-1 F`, and so on.
    pub(super) fn names(&self) -> Vec<String> {
        self.iter().flat_map(|kind| ["P", "R", "F"].map(|part| format!("{kind} {part}"))).collect()
    }
}

/// `types:1,2,L` in a signature.
impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("types:")?;
        for (place, kind) in self.iter().enumerate() {
            let kind = kind.to_string();
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{}", kind.trim_start_matches("ROUGE-"))?;
        }
        Ok(())
    }
}

/// What the metrics of this module have in common: the mean over the examples of `self.types`' numbers.
macro_rules! mean_of_measures {
    () => {
        const NAME: &'static str = crate::rouge::measure::ROUGE;
        type Sums = crate::MeanSums;

        fn empty(&self) -> crate::MeanSums {
            crate::MeanSums::new(self.types.scores())
        }

        fn names(&self) -> Vec<String> {
            self.types.names()
        }

        fn unit(&self) -> crate::Unit {
            crate::Unit::Share
        }

        fn values(&self, sums: &crate::MeanSums) -> crate::Result<Vec<f64>> {
            sums.means(Self::NAME)
        }
    };
}
pub(super) use mean_of_measures;

/// How much hypothesis and reference have in common, and how much there is of either.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Overlap {
    pub(super) common: f64,
    pub(super) hypothesis: f64,
    pub(super) reference: f64,
}

impl Overlap {
    pub(super) fn of(common: u64, hypothesis: u64, reference: u64) -> Self {
        Self { common: common as f64, hypothesis: hypothesis as f64, reference: reference as f64 }
    }

    /// `common / hypothesis`, or 0 where there is nothing to divide by.
    pub(super) fn precision(&self) -> f64 {
        if self.hypothesis == 0.0 { 0.0 } else { self.common / self.hypothesis }
    }

    /// `common / reference`, or 0 where there is nothing to divide by.
    pub(super) fn recall(&self) -> f64 {
        if self.reference == 0.0 { 0.0 } else { self.common / self.reference }
    }
}

/// Precision, recall and F of one kind of ROUGE.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Measure {
    pub(super) precision: f64,
    pub(super) recall: f64,
    pub(super) f: f64,
}

impl Measure {
    /// The numbers in the order of [`Types::names`].
    pub(super) fn numbers(measures: &[Measure]) -> Vec<f64> {
        measures.iter().flat_map(|measure| [measure.precision, measure.recall, measure.f]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_and_checked() {
        let types = Types::new("test", [RougeType::N(1), RougeType::W, RougeType::Lsum], |_| true).unwrap();
        assert_eq!(types.to_string(), "types:1,W,Lsum");
        assert_eq!(
            types.names()[3..],
            ["ROUGE-W P", "ROUGE-W R", "ROUGE-W F", "ROUGE-Lsum P", "ROUGE-Lsum R", "ROUGE-Lsum F"]
        );
        assert_eq!((types.scores(), types.largest_order()), (9, 1));
        let problem = |types: &[RougeType]| {
            let only_n = |kind| matches!(kind, RougeType::N(1..));
            Types::new("test", types.iter().copied(), only_n).unwrap_err().to_string()
        };
        assert_eq!(problem(&[]), "ROUGE: no type is asked for; give at least one");
        assert_eq!(problem(&[RougeType::L]), "ROUGE: test has no ROUGE-L");
        assert_eq!(problem(&[RougeType::N(0)]), "ROUGE: test has no ROUGE-0");
        assert_eq!(problem(&[RougeType::N(2), RougeType::N(2)]), "ROUGE: ROUGE-2 is asked for twice");
    }
}
