//! Mean and standard deviation of a sample.

use serde::Serialize;

use crate::error::{Error, Result};

/// What a t-test needs to know of a sample.
///
/// ```
/// use persona_metrics::stats::Summary;
///
/// let summary = Summary::of(&[1.0, 2.0, 4.0, 5.0])?;
/// assert_eq!((summary.n, summary.mean), (4, 3.0));
/// assert_eq!(summary.standard_deviation, Some((10.0_f64 / 3.0).sqrt()));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Number of values.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// Square root of the sum of squared deviations over n - 1; None where n is 1. Exactly 0 where all values are
    /// equal.
    pub standard_deviation: Option<f64>,
}

impl Summary {
    /// The summary of these values.
    ///
    /// # Errors
    /// No value, a value that is NaN or infinite, or moments beyond the range of f64.
    pub fn of(values: &[f64]) -> Result<Self> {
        finite("sample", values)?;
        let n = values.len() as u64;
        let mean = mean(values);
        let standard_deviation = (n > 1).then(|| standard_deviation(values, mean));
        let summary = Self { n, mean, standard_deviation };
        summary.check()?;
        Ok(summary)
    }

    /// The standard deviation where there is one, once the summary is known to be one of a sample.
    pub(super) fn check(&self) -> Result<Option<f64>> {
        let out_of_range = |value| Err(Error::OutOfRange { metric: "sample", value });
        match self {
            Self { n: 0, .. } => Err(Error::EmptyCorpus { metric: "sample" }),
            Self { mean, .. } if !mean.is_finite() => out_of_range(*mean),
            Self { n: 1, .. } => Ok(None),
            Self { standard_deviation: Some(value), .. } if value.is_finite() && *value >= 0.0 => {
                Ok(Some(*value))
            }
            Self { standard_deviation: Some(value), .. } => out_of_range(*value),
            Self { standard_deviation: None, .. } => Err(Error::Undefined {
                statistic: "sample",
                reason: "a summary of two or more values needs their standard deviation",
            }),
        }
    }
}

/// The mean of at least one value, as the first value plus the mean of the differences from it: equal values then have
/// themselves as their mean, which a plain sum does not guarantee.
pub(super) fn mean(values: &[f64]) -> f64 {
    let first = values.first().copied().unwrap_or(0.0);
    first + values.iter().map(|value| value - first).sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation of at least two values around their mean, with n - 1 in the denominator. Deviations are
/// divided by the largest of them, so that squares neither overflow nor vanish.
pub(super) fn standard_deviation(values: &[f64], mean: f64) -> f64 {
    let largest = values.iter().fold(0.0, |largest: f64, value| largest.max((value - mean).abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let (mut sum, mut squares) = (0.0, 0.0);
    for value in values {
        let deviation = (value - mean) / largest;
        sum += deviation;
        squares += deviation * deviation;
    }
    let n = values.len() as f64;
    // The deviations' own mean is what rounding left.
    largest * ((squares - sum * sum / n).max(0.0) / (n - 1.0)).sqrt()
}

/// The first value that is NaN or infinite is an error, with its index.
pub(super) fn finite(name: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((index, &value)) => Err(Error::OutOfRange { metric: name, value }.at(index)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_do_not_vary() {
        for value in [0.1, 1e300, -3.3e-300, 5e-324] {
            let summary = Summary::of(&[value; 3]).unwrap();
            assert_eq!((summary.mean, summary.standard_deviation), (value, Some(0.0)));
        }
    }

    #[test]
    fn squares_neither_overflow_nor_vanish() {
        for scale in [1e-200, 1.0, 1e200] {
            let summary = Summary::of(&[scale, 2.0 * scale, 3.0 * scale]).unwrap();
            let relative = summary.standard_deviation.unwrap() / scale;
            assert!((relative - 1.0).abs() < 1e-12, "{relative}");
        }
    }

    #[test]
    fn what_is_no_sample() {
        assert!(matches!(Summary::of(&[]), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(Summary::of(&[1.0, f64::NAN]), Err(Error::Example { index: 1, .. })));
        assert!(matches!(Summary::of(&[f64::MAX, -f64::MAX, 0.0]), Err(Error::OutOfRange { .. })));
        assert_eq!(Summary::of(&[3.0]).unwrap().standard_deviation, None);
        for deviation in [None, Some(-1.0), Some(f64::NAN)] {
            assert!(Summary { n: 2, mean: 0.0, standard_deviation: deviation }.check().is_err());
        }
    }
}
