//! Approximate randomisation.

use serde::Serialize;

use super::draws::{Resample, Swaps, columns, examples_of_each, scores};
use crate::error::{Error, Result, same_length};

const NAME: &str = "approximate randomisation";

/// Differences of scores within this share of the larger score are equal: a sum in another order is rounded differently.
const ROUNDING: f64 = 1e-12;

/// Could the difference of two systems be chance, for one score?
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ApproximateRandomisation {
    /// The first system's score.
    pub value_a: f64,
    /// The second system's score.
    pub value_b: f64,
    /// B's score less A's.
    pub difference: f64,
    /// (number of trials whose difference is at least as large in size, plus 1) / (trials + 1): two-sided, above 0 and
    /// at most 1.
    pub p_value: f64,
    /// Number of trials.
    pub trials: usize,
}

/// Tests whether two systems differ on the same examples by swapping their outputs, each example with probability 1/2
/// (Noreen 1989; Riezler and Maxwell 2005): one result a score.
///
/// `both` holds the examples of both systems, first all of A's, then all of B's in the same order (see
/// [`joined`](super::joined), [`Examples::joined`](crate::Examples::joined)). No example is repeated, so that the test
/// suits Distinct and Entropy too. sacrebleu counts only trials whose difference is strictly larger.
///
/// ```
/// use persona_metrics::stats::{Swaps, approximate_randomisation, joined};
///
/// let a = [0.2, 0.5, 0.1, 0.4, 0.3, 0.2, 0.5, 0.3];
/// let b = [0.3, 0.7, 0.2, 0.4, 0.6, 0.4, 0.6, 0.5];
/// let test = approximate_randomisation(joined(&a, &b)?.as_slice(), &Swaps::seeded(1000, 1))?[0];
/// // Two of the 128 ways to sign the seven differences are as extreme.
/// assert!((test.p_value - 2.0 / 128.0).abs() < 0.01);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// An empty corpus or an odd number of examples, no trial, rows that do not fit, a score that is NaN or infinite or has no
/// value in one of the trials (which is named).
pub fn approximate_randomisation<C: Resample + ?Sized>(
    both: &C,
    swaps: &Swaps<'_>,
) -> Result<Vec<ApproximateRandomisation>> {
    let examples = examples_of_each(NAME, both)?;
    let all: Vec<u32> = (0..examples).collect();
    let values_a = scores(NAME, both, &all)?;
    let of_b: Vec<u32> = (examples..2 * examples).collect();
    let values_b = scores(NAME, both, &of_b)?;
    same_length("scores of one system", values_a.len(), "of the other", values_b.len())?;

    let trial = |row: &[bool]| {
        let side = |swapped: bool| -> Vec<u32> {
            (0..)
                .zip(row)
                .map(|(index, &swap)| if swap == swapped { index } else { index + examples })
                .collect()
        };
        // What did not swap stays with A.
        let (a, b) = (scores(NAME, both, &side(false))?, scores(NAME, both, &side(true))?);
        same_length("scores of one system", a.len(), "of the other", b.len())?;
        Ok(b.iter().zip(&a).map(|(b, a)| b - a).collect::<Vec<f64>>())
    };
    let trials = swaps.0.map(NAME, examples, trial)?;
    let columns = columns(trials.iter(), values_a.len())?;
    let systems = values_a.into_iter().zip(values_b);
    let tests = systems.zip(columns).map(|((value_a, value_b), differences)| {
        let difference = value_b - value_a;
        if !difference.is_finite() {
            return Err(Error::OutOfRange { metric: NAME, value: difference });
        }
        let least = difference.abs() - ROUNDING * value_a.abs().max(value_b.abs());
        let extreme = differences.iter().filter(|difference| difference.abs() >= least).count();
        let p_value = (extreme + 1) as f64 / (trials.len() + 1) as f64;
        Ok(ApproximateRandomisation { value_a, value_b, difference, p_value, trials: trials.len() })
    });
    tests.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_by_hand() {
        // Differences 0.1, 0.2, 0.7.
        let both = [0.1, 0.2, 0.3, 0.2, 0.4, 1.0];
        let rows = [vec![false; 3], vec![true; 3], vec![true, false, false], vec![false, false, true]];
        let test = approximate_randomisation(both.as_slice(), &Swaps::given(&rows)).unwrap()[0];
        // The first two are as large as the difference itself up to rounding, the others are not.
        assert_eq!(test.p_value, 3.0 / 5.0);
        assert!((test.difference - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(test.trials, 4);
    }

    #[test]
    fn systems_that_are_equal_do_not_differ() {
        let both = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3];
        let test = approximate_randomisation(both.as_slice(), &Swaps::seeded(99, 1)).unwrap()[0];
        assert_eq!(test.p_value, 1.0);
    }

    #[test]
    fn bad_input_is_an_error() {
        let swaps = Swaps::seeded(5, 1);
        let empty: [f64; 0] = [];
        assert!(matches!(
            approximate_randomisation(empty.as_slice(), &swaps),
            Err(Error::EmptyCorpus { .. })
        ));
        let odd = approximate_randomisation([1.0].as_slice(), &swaps);
        assert!(matches!(odd, Err(Error::LengthMismatch { .. })));
        let none = approximate_randomisation([1.0, 2.0].as_slice(), &Swaps::seeded(0, 1));
        assert!(matches!(none, Err(Error::TooFew { .. })));
        let rows = [vec![true, false]];
        let long = approximate_randomisation([1.0, 2.0].as_slice(), &Swaps::given(&rows));
        assert!(matches!(long, Err(Error::Trial { trial: 0, .. })));
    }
}
