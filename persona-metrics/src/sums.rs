//! What mergeable statistics are made of: sums that do not depend on the order.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::metric::Sums;

/// A sum of real numbers that is the same in whatever order and grouping the terms are added.
///
/// Fixed point: multiples of 2^-64 in 128 bits, so that integer addition is the only operation. A term is rounded by
/// at most 2^-65; the sum may reach 2^63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "(i64, u64)", into = "(i64, u64)")]
pub(crate) struct ExactSum(i128);

impl ExactSum {
    /// 2^64, exact in f64.
    const ONE: f64 = 18_446_744_073_709_551_616.0;

    /// Adds a term; a NaN, an infinity or a sum beyond the range is [`Error::OutOfRange`] under the metric's name.
    pub(crate) fn add(&mut self, metric: &'static str, term: f64) -> Result<()> {
        let out_of_range = Error::OutOfRange { metric, value: term };
        let scaled = (term * Self::ONE).round();
        // The cast is exact below 2^127; above, it would saturate.
        if !scaled.is_finite() || scaled.abs() >= Self::ONE * Self::ONE / 2.0 {
            return Err(out_of_range);
        }
        self.0 = self.0.checked_add(scaled as i128).ok_or(out_of_range)?;
        Ok(())
    }

    pub(crate) fn merge(&mut self, metric: &'static str, other: &Self) -> Result<()> {
        let sum = self.0.checked_add(other.0);
        self.0 = sum.ok_or(Error::OutOfRange { metric, value: self.value() + other.value() })?;
        Ok(())
    }

    pub(crate) fn value(&self) -> f64 {
        self.0 as f64 / Self::ONE
    }
}

/// High and low half: not every serde format has 128-bit integers.
impl From<ExactSum> for (i64, u64) {
    fn from(sum: ExactSum) -> Self {
        ((sum.0 >> 64) as i64, sum.0 as u64)
    }
}

impl From<(i64, u64)> for ExactSum {
    fn from((high, low): (i64, u64)) -> Self {
        Self((i128::from(high) << 64) | i128::from(low))
    }
}

/// How many references the hypotheses have: fewest and most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ReferenceRange(Option<(usize, usize)>);

impl ReferenceRange {
    pub(crate) fn add(&mut self, references: usize) {
        self.merge(&Self(Some((references, references))));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0 = match (self.0, other.0) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (range, None) | (None, range) => range,
        };
    }

    /// `|refs:1`, or `|refs:1-3` where the number varies; empty where there are no references.
    pub(crate) fn signature(&self) -> String {
        match self.0 {
            None => String::new(),
            Some((fewest, most)) if fewest == most => format!("|refs:{fewest}"),
            Some((fewest, most)) => format!("|refs:{fewest}-{most}"),
        }
    }
}

/// Sums of values that are averaged over the examples: the mean of a sentence-level score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeanSums {
    examples: u64,
    sums: Vec<ExactSum>,
}

impl MeanSums {
    /// No example of `values` values each.
    pub fn new(values: usize) -> Self {
        Self { examples: 0, sums: vec![ExactSum::default(); values] }
    }

    /// Adds one example's values. There have to be as many as [`MeanSums::new`] was told.
    ///
    /// # Errors
    /// A NaN or an infinity, or another number of values. Nothing is added then.
    pub fn push(&mut self, metric: &'static str, values: &[f64]) -> Result<()> {
        same_length("values of an example", values.len(), "sums", self.sums.len())?;
        let mut sums = self.sums.clone();
        for (sum, &value) in sums.iter_mut().zip(values) {
            sum.add(metric, value)?;
        }
        self.sums = sums;
        self.examples = self.examples.saturating_add(1);
        Ok(())
    }

    /// The means over the examples.
    ///
    /// # Errors
    /// No example was added.
    pub fn means(&self, metric: &'static str) -> Result<Vec<f64>> {
        if self.examples == 0 {
            return Err(Error::EmptyCorpus { metric });
        }
        Ok(self.sums.iter().map(|sum| sum.value() / self.examples as f64).collect())
    }
}

impl Sums for MeanSums {
    fn add(&mut self, other: &Self) -> Result<()> {
        same_length("sums", self.sums.len(), "sums", other.sums.len())?;
        let mut sums = self.sums.clone();
        for (into, from) in sums.iter_mut().zip(&other.sums) {
            into.merge("mean", from)?;
        }
        self.sums = sums;
        self.examples = self.examples.saturating_add(other.examples);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_sums_do_not_depend_on_the_order() {
        let terms = [1e15, 0.1, -1e15, 0.2, 1.0 / 3.0, 1e-18, 7e-3];
        let sum = |terms: &mut dyn Iterator<Item = &f64>| {
            let mut sum = ExactSum::default();
            terms.for_each(|&term| sum.add("test", term).unwrap());
            sum
        };
        let forward = sum(&mut terms.iter());
        assert_eq!(forward, sum(&mut terms.iter().rev()));
        assert!((forward.value() - (0.1 + 0.2 + 1.0 / 3.0 + 7e-3)).abs() < 1e-15);
    }

    #[test]
    fn exact_sums_round_trip_and_keep_their_range() {
        for term in [-3.75, 0.0, 1.0 / 3.0, 4e18] {
            let mut sum = ExactSum::default();
            sum.add("test", term).unwrap();
            assert_eq!(sum.value(), term);
            let json = serde_json::to_string(&sum).unwrap();
            assert_eq!(serde_json::from_str::<ExactSum>(&json).unwrap(), sum);
        }
        for term in [f64::NAN, f64::INFINITY, 1e19, -1e300] {
            assert!(ExactSum::default().add("test", term).is_err(), "{term}");
        }
        let mut full = ExactSum::default();
        full.add("test", 6e18).unwrap();
        let other = full;
        assert!(full.merge("test", &other).is_err());
    }

    #[test]
    fn means_refuse_what_is_no_number_and_stay_as_they_were() {
        let mut sums = MeanSums::new(2);
        assert!(sums.means("test").is_err());
        sums.push("test", &[1.0, 0.5]).unwrap();
        assert!(sums.push("test", &[2.0, f64::NAN]).is_err());
        assert!(sums.push("test", &[2.0]).is_err());
        sums.push("test", &[2.0, 0.0]).unwrap();
        assert_eq!(sums.means("test").unwrap(), [1.5, 0.25]);
    }
}
