//! The delete-one jackknife.

use serde::Serialize;

use super::distributions::{normal_quantile, outside};
use super::sample::{finite, mean, standard_deviation};
use crate::error::{Error, Result};

const NAME: &str = "jackknife";

/// What the jackknife says of a score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Jackknife {
    /// The score of the whole corpus.
    pub value: f64,
    /// Estimate of the score's bias, (n - 1) (mean of the leave-one-out values - value). The interval is not corrected
    /// for it.
    pub bias: f64,
    /// Square root of (n - 1) / n times the sum of squared deviations of the leave-one-out values from their mean.
    pub standard_error: f64,
    /// Lower end of the interval: the value less z standard errors, z from the normal distribution.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Level of the interval.
    pub level: f64,
}

/// Standard error and normal interval of a score, from the scores of the corpus without each of its examples.
///
/// A bootstrap corpus repeats examples, which lowers Distinct and Entropy by itself, so that a bootstrap interval may
/// miss the score. The jackknife repeats nothing. It needs a score that is a smooth function of the examples (means,
/// shares, entropies; not medians).
///
/// ```
/// use persona_metrics::stats::jackknife;
///
/// // The mean of 1, 2, 6, and the means without each of them: the classic standard error.
/// let interval = jackknife(3.0, &[4.0, 3.5, 1.5], 0.95)?;
/// assert!((interval.standard_error - (7.0_f64 / 3.0).sqrt()).abs() < 1e-12);
/// assert_eq!(interval.bias, 0.0);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// Fewer than two leave-one-out values, a value that is NaN or infinite, a level outside (0, 1).
pub fn jackknife(value: f64, leave_one_out: &[f64], level: f64) -> Result<Jackknife> {
    let z = normal_quantile(outside(level)?);
    if leave_one_out.len() < 2 {
        let given = leave_one_out.len();
        return Err(Error::TooFew { statistic: NAME, what: "leave-one-out values", needed: 2, given });
    }
    finite(NAME, leave_one_out)?;
    let n = leave_one_out.len() as f64;
    let centre = mean(leave_one_out);
    // With n - 1 in its denominator, the variance is to be multiplied by (n - 1)^2 / n.
    let standard_error = standard_deviation(leave_one_out, centre) * (n - 1.0) / n.sqrt();
    let bias = (n - 1.0) * (centre - value);
    let (low, high) = (value - z * standard_error, value + z * standard_error);
    match [value, bias, standard_error, low, high].iter().find(|number| !number.is_finite()) {
        Some(&value) => Err(Error::OutOfRange { metric: NAME, value }),
        None => Ok(Jackknife { value, bias, standard_error, low, high, level }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variance with n in the denominator is biased by -1 / n of itself; the jackknife finds exactly that.
    #[test]
    fn the_bias_of_the_plain_variance() {
        let variance = |values: &[f64]| {
            let centre = mean(values);
            values.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / values.len() as f64
        };
        let values = [1.0, 2.0, 4.0, 8.0, 9.0];
        let without = |left_out: usize| -> Vec<f64> {
            values
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != left_out)
                .map(|(_, &value)| value)
                .collect()
        };
        let leave_one_out: Vec<f64> = (0..values.len()).map(|index| variance(&without(index))).collect();
        let result = jackknife(variance(&values), &leave_one_out, 0.9).unwrap();
        assert!((result.value - result.bias - variance(&values) * 5.0 / 4.0).abs() < 1e-12);
        assert!((result.high - result.value - 1.644_853_626_951_472 * result.standard_error).abs() < 1e-12);
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(matches!(jackknife(1.0, &[1.0], 0.95), Err(Error::TooFew { given: 1, .. })));
        assert!(matches!(jackknife(1.0, &[1.0, f64::NAN], 0.95), Err(Error::Example { index: 1, .. })));
        assert!(matches!(jackknife(f64::NAN, &[1.0, 2.0], 0.95), Err(Error::OutOfRange { .. })));
        assert!(matches!(jackknife(1.0, &[1.0, 2.0], 95.0), Err(Error::NotAProbability { .. })));
    }
}
