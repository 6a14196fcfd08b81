//! Student's, Welch's and the paired t-test.

use serde::{Deserialize, Serialize, Serializer};

use super::distributions::{outside, t_quantile, t_upper_tail};
use super::sample::{Summary, finite};
use crate::error::{Error, Result, same_length};

const NAME: &str = "t-test";

/// What stands against equal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alternative {
    /// The means differ.
    #[default]
    TwoSided,
    /// The first mean is the lesser.
    Less,
    /// The first mean is the greater.
    Greater,
}

/// Do two samples differ in their mean? Two-sided with an interval of level 0.95 unless set otherwise.
///
/// ```
/// use persona_metrics::stats::{Alternative, TTest};
///
/// let ours = [25.12, 24.9, 25.4];
/// let theirs = [22.03, 21.8, 22.5];
/// let test = TTest::default().student(&ours, &theirs)?;
/// assert_eq!(test.degrees_of_freedom, 4.0);
/// assert!((test.p_value - 2.7314e-4).abs() < 1e-8);
/// let greater = TTest::default().alternative(Alternative::Greater).student(&ours, &theirs)?;
/// assert_eq!(greater.p_value, test.p_value / 2.0);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Samples that do not vary
///
/// Where both samples are constant the standard error is 0. Equal means then leave t = 0 / 0, which is
/// [`Error::Undefined`]. Different means give an infinite statistic, p-values of exactly 0 and 1, and the interval
/// [difference, difference], as scipy does; Welch's degrees of freedom are then 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TTest {
    alternative: Alternative,
    level: f64,
}

impl Default for TTest {
    fn default() -> Self {
        Self { alternative: Alternative::TwoSided, level: 0.95 }
    }
}

/// The outcome of a t-test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TTestResult {
    /// t: the difference over its standard error. Infinite if and only if neither sample varies and their means differ;
    /// serde then writes it as the string "Infinity" or "-Infinity".
    #[serde(serialize_with = "number_or_infinity")]
    pub statistic: f64,
    /// Probability, if the means are equal, of a statistic as far out in the direction of the alternative: 0 to 1.
    pub p_value: f64,
    /// Degrees of freedom of Student's t; not whole for Welch's test.
    pub degrees_of_freedom: f64,
    /// What equal means were tested against.
    pub alternative: Alternative,
    /// Mean of the first sample less mean of the second.
    pub difference: f64,
    /// Standard error of the difference.
    pub standard_error: f64,
    /// Lower end of the two-sided confidence interval of the difference, whatever the alternative.
    pub low: f64,
    /// Upper end of that interval.
    pub high: f64,
    /// Level of the interval.
    pub level: f64,
}

impl TTest {
    /// What equal means are tested against.
    pub fn alternative(mut self, alternative: Alternative) -> Self {
        self.alternative = alternative;
        self
    }

    /// Level of the confidence interval, between 0 and 1.
    pub fn level(mut self, level: f64) -> Self {
        self.level = level;
        self
    }

    /// Student's test: the samples are independent and have one variance, which is pooled; n1 + n2 - 2 degrees of
    /// freedom. One of the samples may be a single value (scipy: `ttest_ind`).
    ///
    /// # Errors
    /// An empty sample, fewer than three values in all, a value that is NaN or infinite, two equal constants, a level
    /// outside (0, 1).
    pub fn student(&self, a: &[f64], b: &[f64]) -> Result<TTestResult> {
        self.student_summaries(&Summary::of(a)?, &Summary::of(b)?)
    }

    /// Welch's test: the samples are independent and may differ in variance; degrees of freedom after Satterthwaite
    /// (scipy: `ttest_ind` with `equal_var=False`).
    ///
    /// # Errors
    /// A sample of fewer than two values, a value that is NaN or infinite, two equal constants, a level outside (0, 1).
    pub fn welch(&self, a: &[f64], b: &[f64]) -> Result<TTestResult> {
        self.welch_summaries(&Summary::of(a)?, &Summary::of(b)?)
    }

    /// The test of paired samples: is the mean of the differences 0? n - 1 degrees of freedom (scipy: `ttest_rel`).
    ///
    /// # Errors
    /// Samples of unequal length or of fewer than two values, a value that is NaN or infinite, differences that are all
    /// 0, a level outside (0, 1).
    pub fn paired(&self, a: &[f64], b: &[f64]) -> Result<TTestResult> {
        same_length("values of one sample", a.len(), "of the other", b.len())?;
        finite(NAME, a)?;
        finite(NAME, b)?;
        at_least(2, a.len() as u64)?;
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let summary = Summary::of(&differences)?;
        let deviation = summary.check()?.unwrap_or(0.0);
        let n = summary.n as f64;
        self.result(summary.mean, deviation / n.sqrt(), deviation == 0.0, n - 1.0)
    }

    /// [`TTest::student`] from means, standard deviations and sizes alone (scipy: `ttest_ind_from_stats`).
    ///
    /// # Errors
    /// As [`TTest::student`]; a summary of no sample.
    pub fn student_summaries(&self, a: &Summary, b: &Summary) -> Result<TTestResult> {
        let deviations = [a.check()?.unwrap_or(0.0), b.check()?.unwrap_or(0.0)];
        at_least(3, a.n.saturating_add(b.n))?;
        let [n_a, n_b] = [a.n as f64, b.n as f64];
        let df = n_a + n_b - 2.0;
        let (scale, [share_a, share_b]) = scaled_squares(deviations);
        let pooled = ((n_a - 1.0) * share_a + (n_b - 1.0) * share_b) / df;
        let error = scale * (pooled * (1.0 / n_a + 1.0 / n_b)).sqrt();
        self.result(a.mean - b.mean, error, scale == 0.0, df)
    }

    /// [`TTest::welch`] from means, standard deviations and sizes alone (scipy: `ttest_ind_from_stats` with
    /// `equal_var=False`).
    ///
    /// # Errors
    /// As [`TTest::welch`]; a summary of no sample.
    pub fn welch_summaries(&self, a: &Summary, b: &Summary) -> Result<TTestResult> {
        let deviations = [a.check()?.unwrap_or(0.0), b.check()?.unwrap_or(0.0)];
        at_least(2, a.n.min(b.n))?;
        let [n_a, n_b] = [a.n as f64, b.n as f64];
        let (scale, [square_a, square_b]) = scaled_squares(deviations);
        let (term_a, term_b) = (square_a / n_a, square_b / n_b);
        let sum = term_a + term_b;
        let df = match scale {
            0.0 => 1.0,
            _ => sum * sum / (term_a * term_a / (n_a - 1.0) + term_b * term_b / (n_b - 1.0)),
        };
        self.result(a.mean - b.mean, scale * sum.sqrt(), scale == 0.0, df)
    }

    /// `constant`: neither sample varies.
    fn result(&self, difference: f64, standard_error: f64, constant: bool, df: f64) -> Result<TTestResult> {
        let upper = outside(self.level)?;
        let statistic = match constant {
            false => difference / standard_error,
            true if difference == 0.0 => {
                return Err(Error::Undefined {
                    statistic: NAME,
                    reason: "the samples are constant and equal, so that t is 0 / 0",
                });
            }
            true => f64::INFINITY.copysign(difference),
        };
        let half_width = if constant { 0.0 } else { t_quantile(upper, df) * standard_error };
        let (low, high) = (difference - half_width, difference + half_width);
        let out_of_range = |value: &&f64| !value.is_finite();
        if let Some(&value) = [low, high].iter().find(out_of_range) {
            return Err(Error::OutOfRange { metric: NAME, value });
        }
        if !constant && !statistic.is_finite() {
            return Err(Error::OutOfRange { metric: NAME, value: statistic });
        }
        let p_value = match self.alternative {
            Alternative::TwoSided => 2.0 * t_upper_tail(statistic.abs(), df),
            Alternative::Less => t_upper_tail(-statistic, df),
            Alternative::Greater => t_upper_tail(statistic, df),
        };
        Ok(TTestResult {
            statistic,
            p_value,
            degrees_of_freedom: df,
            alternative: self.alternative,
            difference,
            standard_error,
            low,
            high,
            level: self.level,
        })
    }
}

/// The larger of two deviations, and the squares of both over its square.
fn scaled_squares([a, b]: [f64; 2]) -> (f64, [f64; 2]) {
    let scale = a.max(b);
    if scale == 0.0 { (0.0, [0.0; 2]) } else { (scale, [(a / scale).powi(2), (b / scale).powi(2)]) }
}

fn at_least(needed: usize, given: u64) -> Result<()> {
    if given >= needed as u64 {
        Ok(())
    } else {
        Err(Error::TooFew { statistic: NAME, what: "values", needed, given: given as usize })
    }
}

/// JSON has no infinities.
fn number_or_infinity<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match *value {
        f64::INFINITY => serializer.serialize_str("Infinity"),
        f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
        value => serializer.serialize_f64(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONES: [f64; 3] = [1.0; 3];
    const TWOS: [f64; 3] = [2.0; 3];

    #[test]
    fn constants_that_differ_have_an_infinite_statistic() {
        let less = TTest::default().alternative(Alternative::Less);
        for (result, df) in [
            (less.student(&ONES, &TWOS), 4.0),
            (less.welch(&ONES, &TWOS), 1.0),
            (less.paired(&ONES, &TWOS), 2.0),
        ] {
            let result = result.unwrap();
            assert_eq!((result.statistic, result.p_value), (f64::NEG_INFINITY, 0.0));
            assert_eq!((result.low, result.high, result.degrees_of_freedom), (-1.0, -1.0, df));
            assert!(serde_json::to_string(&result).unwrap().contains(r#""statistic":"-Infinity""#));
        }
        assert_eq!(less.student(&TWOS, &ONES).unwrap().p_value, 1.0);
    }

    #[test]
    fn constants_that_are_equal_have_none() {
        let test = TTest::default();
        // The mean of three times 0.1 is not 0.1 in floating point.
        let tenths = [0.1; 3];
        for result in [
            test.student(&tenths, &[0.1; 5]),
            test.welch(&ONES, &ONES),
            test.paired(&[1.0, 2.0], &[1.0, 2.0]),
        ] {
            assert!(matches!(result, Err(Error::Undefined { .. })), "{result:?}");
        }
    }

    #[test]
    fn too_few_values_are_errors() {
        let test = TTest::default();
        for result in [test.student(&[1.0], &[2.0]), test.welch(&[1.0], &TWOS), test.paired(&[1.0], &[2.0])] {
            assert!(matches!(result, Err(Error::TooFew { .. })), "{result:?}");
        }
        assert!(matches!(test.paired(&ONES, &[1.0]), Err(Error::LengthMismatch { .. })));
        assert!(matches!(test.student(&[], &ONES), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(test.level(1.0).welch(&[1.0, 2.0], &ONES), Err(Error::NotAProbability { .. })));
    }

    #[test]
    fn the_interval_ends_where_the_p_value_is_one_minus_the_level() {
        let (a, b) = ([0.3, 1.9, 0.7, 1.1], [0.2, 0.9, 2.4]);
        for level in [0.5, 0.95, 0.999] {
            let test = TTest::default().level(level);
            for (result, again) in [
                (test.student(&a, &b).unwrap(), TTest::student as fn(&TTest, &[f64], &[f64]) -> _),
                (test.welch(&a, &b).unwrap(), TTest::welch),
            ] {
                let shifted = a.map(|value| value - result.low);
                assert!((again(&test, &shifted, &b).unwrap().p_value - (1.0 - level)).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn scale_does_not_matter() {
        let (a, b) = ([1.0, 2.5, 3.0], [2.0, 5.0, 4.0, 8.0]);
        let expected = TTest::default().welch(&a, &b).unwrap();
        for scale in [1e-250, 1e250] {
            let result =
                TTest::default().welch(&a.map(|value| value * scale), &b.map(|value| value * scale)).unwrap();
            assert!((result.statistic - expected.statistic).abs() < 1e-12);
            assert!((result.p_value - expected.p_value).abs() < 1e-12);
        }
    }
}
