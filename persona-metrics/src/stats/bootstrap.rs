//! Bootstrap of one system's scores, and of two systems on the same examples.

use serde::Serialize;

use super::distributions::outside;
use super::draws::{Draws, Resample, columns, examples, examples_of_each, scores};
use super::sample::{mean, standard_deviation};
use crate::error::{Error, Result, same_length};

const BOOTSTRAP: &str = "bootstrap";
const PAIRED: &str = "paired bootstrap";

/// A score and how far it may lie off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BootstrapInterval {
    /// The score of the corpus itself.
    pub value: f64,
    /// Lower end of the percentile interval, the (1 - level) / 2 quantile of the resampled scores, interpolated linearly
    /// between order statistics (numpy's `percentile`).
    pub low: f64,
    /// Upper end of the percentile interval.
    pub high: f64,
    /// Standard deviation of the resampled scores, with one less than their number in the denominator.
    pub standard_error: f64,
    /// Level of the interval.
    pub level: f64,
    /// Number of resampled corpora.
    pub trials: usize,
}

/// Percentile interval and standard error of each score of a corpus (Efron 1979).
///
/// Not for Distinct and Entropy: repeated examples lower them; see [`jackknife`](super::jackknife()).
///
/// ```
/// use persona_metrics::stats::{Draws, bootstrap};
///
/// let accuracies = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
/// let interval = bootstrap(accuracies.as_slice(), &Draws::seeded(1000, 1), 0.95)?[0];
/// assert_eq!(interval.value, 0.75);
/// assert!(interval.low >= 0.25 && interval.high <= 1.0);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// An empty corpus, fewer than two trials, rows that do not fit the corpus, a level outside (0, 1), a score that is NaN
/// or infinite or has no value for one of the corpora (the trial is named).
pub fn bootstrap<C: Resample + ?Sized>(
    corpus: &C,
    draws: &Draws<'_>,
    level: f64,
) -> Result<Vec<BootstrapInterval>> {
    let upper = outside(level)?;
    let examples = examples(BOOTSTRAP, corpus)?;
    let all: Vec<u32> = (0..examples).collect();
    let values = scores(BOOTSTRAP, corpus, &all)?;
    let trials = draws.0.map(BOOTSTRAP, examples, |row| scores(BOOTSTRAP, corpus, row))?;
    if trials.len() < 2 {
        return Err(Error::TooFew { statistic: BOOTSTRAP, what: "trials", needed: 2, given: trials.len() });
    }
    let columns = columns(trials.iter(), values.len())?;
    let intervals = values.into_iter().zip(columns).map(|(value, mut column)| {
        let standard_error = finite(BOOTSTRAP, standard_deviation(&column, mean(&column)))?;
        column.sort_by(f64::total_cmp);
        let (low, high) = (quantile(&column, upper), quantile(&column, 1.0 - upper));
        Ok(BootstrapInterval { value, low, high, standard_error, level, trials: trials.len() })
    });
    intervals.collect()
}

/// One system's score over the resampled corpora, as sacrebleu reports it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ResampledScore {
    /// The score of the corpus itself.
    pub value: f64,
    /// Mean of the resampled scores.
    pub mean: f64,
    /// Half the distance between two of the n ordered resampled scores: k-th lowest to k-th highest, where k - 1 =
    /// floor(n (1 - level) / 2) of them lie outside on either side.
    pub half_width: f64,
}

/// Two systems over the same resampled corpora, for one score.
///
/// A higher score counts as better. Where lower is better (perplexity), read `wins_a` as B's wins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedBootstrap {
    /// The first system.
    pub a: ResampledScore,
    /// The second system.
    pub b: ResampledScore,
    /// B's score less A's.
    pub difference: f64,
    /// Lower end of the percentile interval of the difference, as in [`BootstrapInterval`].
    pub low: f64,
    /// Upper end of that interval.
    pub high: f64,
    /// Share of the resampled corpora on which A's score is the higher; ties are nobody's.
    pub wins_a: f64,
    /// Share of the resampled corpora on which B's score is the higher.
    pub wins_b: f64,
    /// Koehn (2004), one-sided: 1 - `wins_b`, small if B is better than A.
    pub p_koehn: f64,
    /// sacrebleu 2.6, two-sided: with d the resampled differences and m the mean of their sizes,
    /// (number of |d| - m above |difference|, plus 1) / (trials + 1).
    pub p_sacrebleu: f64,
    /// Level of the intervals.
    pub level: f64,
    /// Number of resampled corpora.
    pub trials: usize,
}

/// Compares two systems on the same examples, over the same resampled corpora: one result a score.
///
/// `both` holds the examples of both systems, first all of A's, then all of B's in the same order (see
/// [`joined`](super::joined), [`Examples::joined`](crate::Examples::joined)). Rows draw the n examples of one system.
///
/// ```
/// use persona_metrics::stats::{Draws, joined, paired_bootstrap};
///
/// let a = [0.2, 0.5, 0.1, 0.4, 0.3];
/// let b = [0.3, 0.7, 0.2, 0.4, 0.6];
/// let test = paired_bootstrap(joined(&a, &b)?.as_slice(), &Draws::seeded(1000, 1), 0.95)?[0];
/// assert!(test.difference > 0.0 && test.p_koehn < 0.01);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// An empty corpus or an odd number of examples, no trial, rows that do not fit, a level outside (0, 1), a score that is
/// NaN or infinite or has no value for one of the corpora (the trial is named).
pub fn paired_bootstrap<C: Resample + ?Sized>(
    both: &C,
    draws: &Draws<'_>,
    level: f64,
) -> Result<Vec<PairedBootstrap>> {
    let upper = outside(level)?;
    let examples = examples_of_each(PAIRED, both)?;
    let pair = |indexes: &[u32]| {
        let of_b: Vec<u32> = indexes.iter().map(|index| index + examples).collect();
        Ok((scores(PAIRED, both, indexes)?, scores(PAIRED, both, &of_b)?))
    };
    let all: Vec<u32> = (0..examples).collect();
    let (values_a, values_b) = pair(&all)?;
    same_length("scores of one system", values_a.len(), "of the other", values_b.len())?;
    let trials = draws.0.map(PAIRED, examples, pair)?;
    let columns_a = columns(trials.iter().map(|(a, _)| a), values_a.len())?;
    let columns_b = columns(trials.iter().map(|(_, b)| b), values_a.len())?;
    let systems_a = values_a.into_iter().zip(columns_a);
    let systems_b = values_b.into_iter().zip(columns_b);
    systems_a.zip(systems_b).map(|(a, b)| compare(a, b, level, upper)).collect()
}

/// A system is its score and its resampled scores.
fn compare(
    (value_a, trials_a): (f64, Vec<f64>),
    (value_b, trials_b): (f64, Vec<f64>),
    level: f64,
    upper: f64,
) -> Result<PairedBootstrap> {
    let trials = trials_a.len();
    let share = |count: usize| count as f64 / trials as f64;
    let difference = finite(PAIRED, value_b - value_a)?;
    let mut differences: Vec<f64> = trials_a.iter().zip(&trials_b).map(|(a, b)| b - a).collect();
    let sizes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let centre = finite(PAIRED, mean(&sizes))?;
    let extreme = sizes.iter().filter(|&&size| size - centre > difference.abs()).count();
    let won_by = |winner: &[f64], other: &[f64]| winner.iter().zip(other).filter(|(w, o)| w > o).count();
    let (wins_a, wins_b) = (won_by(&trials_a, &trials_b), won_by(&trials_b, &trials_a));
    differences.sort_by(f64::total_cmp);
    Ok(PairedBootstrap {
        a: ResampledScore::new(value_a, trials_a, upper)?,
        b: ResampledScore::new(value_b, trials_b, upper)?,
        difference,
        low: quantile(&differences, upper),
        high: quantile(&differences, 1.0 - upper),
        wins_a: share(wins_a),
        wins_b: share(wins_b),
        p_koehn: share(trials - wins_b),
        p_sacrebleu: (extreme + 1) as f64 / (trials + 1) as f64,
        level,
        trials,
    })
}

impl ResampledScore {
    fn new(value: f64, mut trials: Vec<f64>, upper: f64) -> Result<Self> {
        let mean = finite(PAIRED, mean(&trials))?;
        trials.sort_by(f64::total_cmp);
        let last = trials.len().saturating_sub(1);
        // The share is not exact: 200 trials leave out 5 on either side, not 4.999.
        let left_out = ((trials.len() as f64 * upper + 1e-9) as usize).min(last / 2);
        let at = |index: usize| trials.get(index).copied().unwrap_or(value);
        let half_width = finite(PAIRED, (at(last - left_out) - at(left_out)) / 2.0)?;
        Ok(Self { value, mean, half_width })
    }
}

/// Quantile of ordered values, interpolated linearly between the two nearest (Hyndman and Fan's type 7).
fn quantile(ordered: &[f64], share: f64) -> f64 {
    let position = share * ordered.len().saturating_sub(1) as f64;
    let below = position as usize;
    match (ordered.get(below), ordered.get(below + 1)) {
        (Some(&low), Some(&high)) if low < high => low + (position - below as f64) * (high - low),
        (Some(&only), _) => only,
        (None, _) => 0.0,
    }
}

fn finite(name: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(Error::OutOfRange { metric: name, value }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f64; 6] = [0.1, 0.9, 0.4, 0.4, 0.7, 0.2];

    #[test]
    fn quantiles_as_numpy() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 1.0), 4.0);
        assert_eq!(quantile(&[5.0], 0.3), 5.0);
    }

    /// For a mean, the standard error tends to the population's deviation over the square root of n.
    #[test]
    fn the_standard_error_of_a_mean() {
        let interval = bootstrap(VALUES.as_slice(), &Draws::seeded(20_000, 5), 0.9).unwrap()[0];
        let population = standard_deviation(&VALUES, mean(&VALUES)) * (5.0_f64 / 6.0).sqrt();
        assert!((interval.standard_error * 6.0_f64.sqrt() / population - 1.0).abs() < 0.02);
        assert!((interval.value - 0.45).abs() < 1e-15);
        let wider = bootstrap(VALUES.as_slice(), &Draws::seeded(20_000, 5), 0.99).unwrap()[0];
        assert!(wider.low < interval.low && interval.high < wider.high);
    }

    #[test]
    fn a_paired_comparison_by_hand() {
        let both = [1.0, 2.0, 3.0, 1.0, 4.0, 3.0];
        let rows = [vec![0, 1, 2], vec![0, 0, 2], vec![1, 1, 1], vec![2, 1, 0]];
        let test = paired_bootstrap(both.as_slice(), &Draws::given(&rows), 0.5).unwrap()[0];
        // Differences 2/3, 0, 2, 2/3: the mean of their sizes is 5/6, and 2 - 5/6 is above 2/3.
        assert!((test.difference - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!((test.wins_a, test.wins_b, test.p_koehn), (0.0, 0.75, 0.25));
        assert_eq!(test.p_sacrebleu, 2.0 / 5.0);
        // A's means 5/3, 2, 2, 2: one of four lies outside on either side.
        assert_eq!((test.a.value, test.a.half_width), (2.0, 0.0));
        assert!((test.a.mean - 23.0 / 12.0).abs() < 1e-15, "{}", test.a.mean);
        assert_eq!(test.trials, 4);
    }

    #[test]
    fn bad_input_is_an_error() {
        let draws = Draws::seeded(10, 1);
        let empty: [f64; 0] = [];
        assert!(matches!(bootstrap(empty.as_slice(), &draws, 0.95), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(paired_bootstrap(empty.as_slice(), &draws, 0.95), Err(Error::EmptyCorpus { .. })));
        let odd = paired_bootstrap([1.0, 2.0, 3.0].as_slice(), &draws, 0.95);
        assert!(matches!(odd, Err(Error::LengthMismatch { .. })));
        let nan = bootstrap([1.0, f64::NAN].as_slice(), &draws, 0.95);
        assert!(matches!(nan, Err(Error::OutOfRange { .. })));
        for trials in [0, 1] {
            let few = bootstrap(VALUES.as_slice(), &Draws::seeded(trials, 1), 0.95);
            assert!(matches!(few, Err(Error::TooFew { .. })));
        }
        assert!(matches!(bootstrap(VALUES.as_slice(), &draws, 95.0), Err(Error::NotAProbability { .. })));
    }

    /// A corpus whose score exists for the whole but not for every draw.
    struct Fragile;

    impl Resample for Fragile {
        fn len(&self) -> usize {
            3
        }

        fn scores_of(&self, indexes: &[u32]) -> Result<Vec<f64>> {
            match indexes {
                [0, 1, 2] => Ok(vec![1.0]),
                [0, 0, 0] => Ok(vec![1.0, 2.0]),
                _ => Ok(vec![f64::INFINITY]),
            }
        }
    }

    #[test]
    fn the_trial_without_a_score_is_named() {
        let rows = [vec![0, 1, 2], vec![0, 1, 1], vec![2, 2, 2]];
        let error = bootstrap(&Fragile, &Draws::given(&rows), 0.95);
        assert!(matches!(error, Err(Error::Trial { trial: 1, .. })), "{error:?}");
        let rows = [vec![0, 1, 2], vec![0, 0, 0]];
        let error = bootstrap(&Fragile, &Draws::given(&rows), 0.95);
        assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
    }
}
