//! Kappas: agreement on categories beyond what chance gives.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};

const FLEISS: &str = "Fleiss' kappa";
const RANDOLPH: &str = "Randolph's kappa";
const COHEN: &str = "Cohen's kappa";
/// What makes a kappa 0 / 0.
const ONE_CATEGORY: &str = "all ratings fall into one category, so that chance alone agrees fully";

/// A kappa and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Kappa {
    /// (observed - expected) / (1 - expected): 1 for full agreement, 0 for what chance gives, at least -1 for kappas of
    /// two raters.
    pub value: f64,
    /// Observed agreement, 0 to 1.
    pub observed: f64,
    /// Agreement expected by chance, 0 to 1.
    pub expected: f64,
}

impl Kappa {
    fn new(observed: f64, expected: f64) -> Self {
        Self { value: (observed - expected) / (1.0 - expected), observed, expected }
    }
}

/// How many raters put each subject into each of `categories` categories, from each subject's list of ratings: the table
/// that [`fleiss_kappa`] and [`randolph_kappa`] take.
///
/// # Errors
/// A rating that is no category (counted from 0); the subject is named.
pub fn category_counts<R: AsRef<[usize]>>(ratings: &[R], categories: usize) -> Result<Vec<Vec<u32>>> {
    let count = |(subject, ratings): (usize, &R)| {
        let mut counts = vec![0_u32; categories];
        for &rating in ratings.as_ref() {
            let out_of_range = || Error::IndexOutOfRange { index: rating, len: categories }.at(subject);
            *counts.get_mut(rating).ok_or_else(out_of_range)? += 1;
        }
        Ok(counts)
    };
    ratings.iter().enumerate().map(count).collect()
}

/// Fleiss' kappa (1971; statsmodels' `fleiss_kappa`). The table has a row a subject and a column a category and counts
/// raters, r of them for every subject, not necessarily the same ones.
///
/// Observed is the mean over subjects of (sum of squared counts - r) / (r (r - 1)); expected is the sum of the squared
/// shares of the categories.
///
/// ```
/// use persona_metrics::stats::{category_counts, fleiss_kappa};
///
/// let ratings = [[0, 0, 1], [1, 1, 1], [2, 2, 2]];
/// let kappa = fleiss_kappa(&category_counts(&ratings, 3)?)?;
/// assert!((kappa.value - 17.0 / 26.0).abs() < 1e-12);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// No subject, rows of unequal length, subjects with unequal numbers of ratings or fewer than two, all ratings in one
/// category.
pub fn fleiss_kappa<R: AsRef<[u32]>>(table: &[R]) -> Result<Kappa> {
    let agreement = Agreement::of(FLEISS, table)?;
    let all: f64 = agreement.columns.iter().sum();
    if agreement.columns.contains(&all) {
        return Err(Error::Undefined { statistic: FLEISS, reason: ONE_CATEGORY });
    }
    let expected = agreement.columns.iter().map(|column| (column / all).powi(2)).sum();
    Ok(Kappa::new(agreement.observed, expected))
}

/// Randolph's free-marginal kappa (2005): as [`fleiss_kappa`], with an expected agreement of one over the number of
/// columns, those that nobody chose included (statsmodels' `fleiss_kappa` with `method="randolph"`).
///
/// # Errors
/// As [`fleiss_kappa`], but all ratings may be in one category if there is another.
pub fn randolph_kappa<R: AsRef<[u32]>>(table: &[R]) -> Result<Kappa> {
    let agreement = Agreement::of(RANDOLPH, table)?;
    if agreement.columns.len() < 2 {
        return Err(Error::Undefined { statistic: RANDOLPH, reason: ONE_CATEGORY });
    }
    Ok(Kappa::new(agreement.observed, 1.0 / agreement.columns.len() as f64))
}

/// What both kappas of a table need.
struct Agreement {
    observed: f64,
    columns: Vec<f64>,
}

impl Agreement {
    fn of<R: AsRef<[u32]>>(name: &'static str, table: &[R]) -> Result<Self> {
        let first = table.first().ok_or(Error::EmptyCorpus { metric: name })?.as_ref();
        let total = |row: &[u32]| row.iter().map(|&count| f64::from(count)).sum::<f64>();
        let raters = total(first);
        let mut columns = vec![0.0; first.len()];
        let mut agreeing = 0.0;
        for (subject, row) in table.iter().map(AsRef::as_ref).enumerate() {
            let fits = || {
                same_length("categories of a subject", row.len(), "of the first", first.len())?;
                same_length("ratings of a subject", total(row) as usize, "of the first", raters as usize)
            };
            fits().map_err(|error| error.at(subject))?;
            for (column, &count) in columns.iter_mut().zip(row) {
                let count = f64::from(count);
                *column += count;
                agreeing += count * (count - 1.0);
            }
        }
        if raters < 2.0 {
            let given = raters as usize;
            return Err(Error::TooFew { statistic: name, what: "ratings of a subject", needed: 2, given });
        }
        Ok(Self { observed: agreeing / (table.len() as f64 * raters * (raters - 1.0)), columns })
    }
}

/// How far apart two categories are for Cohen's kappa, by their places i and j in the order of the categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KappaWeights {
    /// Any two are equally far apart.
    #[default]
    None,
    /// |i - j|
    Linear,
    /// (i - j)^2
    Quadratic,
}

/// Cohen's kappa of two raters (1960; weighted 1968; scikit-learn's `cohen_kappa_score`).
///
/// With weights w, kappa is 1 less the sum of w over the pairs of ratings, divided by its expectation for the two raters'
/// own marginals. [`Kappa::observed`] and [`Kappa::expected`] are 1 less those means of w, on a scale where the largest w
/// is 1.
///
/// The categories are the labels that occur, in their order. On an ordered scale of which some step was never used,
/// weighted kappas need [`cohen_kappa_on_scale`].
///
/// ```
/// use persona_metrics::stats::{KappaWeights, cohen_kappa};
///
/// let (a, b) = (["yes", "yes", "no", "no"], ["yes", "no", "no", "no"]);
/// assert_eq!(cohen_kappa(&a, &b, KappaWeights::None)?.value, 0.5);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// Lists of unequal length, no rating, all ratings of both raters in one category.
pub fn cohen_kappa<L: Ord>(a: &[L], b: &[L], weights: KappaWeights) -> Result<Kappa> {
    let mut labels: Vec<&L> = a.iter().chain(b).collect();
    labels.sort_unstable();
    labels.dedup();
    cohen(a, b, labels.len(), |label| labels.binary_search(&label).ok(), weights)
}

/// [`cohen_kappa`] where the categories and their order are given, whether or not all of them occur (scikit-learn's
/// argument `labels`).
///
/// # Errors
/// As [`cohen_kappa`]; a rating that is not on the scale, named by its index in its list.
pub fn cohen_kappa_on_scale<L: PartialEq>(
    scale: &[L],
    a: &[L],
    b: &[L],
    weights: KappaWeights,
) -> Result<Kappa> {
    cohen(a, b, scale.len(), |label| scale.iter().position(|step| step == label), weights)
}

fn cohen<L>(
    a: &[L],
    b: &[L],
    categories: usize,
    place: impl Fn(&L) -> Option<usize>,
    weights: KappaWeights,
) -> Result<Kappa> {
    same_length("ratings of one rater", a.len(), "of the other", b.len())?;
    if a.is_empty() {
        return Err(Error::EmptyCorpus { metric: COHEN });
    }
    let (mut count_a, mut count_b) = (vec![0_u64; categories], vec![0_u64; categories]);
    let mut observed = 0.0;
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        let off_scale =
            || Error::Undefined { statistic: COHEN, reason: "a rating is not on the scale" }.at(index);
        let i = place(a).ok_or_else(off_scale)?;
        let j = place(b).ok_or_else(off_scale)?;
        observed += weights.of(i, j);
        for (counts, place) in [(&mut count_a, i), (&mut count_b, j)] {
            if let Some(count) = counts.get_mut(place) {
                *count += 1;
            }
        }
    }
    let n = a.len() as u64;
    if count_a.iter().zip(&count_b).any(|(&a, &b)| a == n && b == n) {
        return Err(Error::Undefined { statistic: COHEN, reason: ONE_CATEGORY });
    }
    let largest = weights.of(0, categories - 1) * n as f64;
    let (observed, expected) = (observed / largest, weights.expected(&count_a, &count_b) / largest);
    Ok(Kappa { value: 1.0 - observed / expected, observed: 1.0 - observed, expected: 1.0 - expected })
}

impl KappaWeights {
    fn of(self, i: usize, j: usize) -> f64 {
        match self {
            KappaWeights::None => f64::from(u8::from(i != j)),
            KappaWeights::Linear => i.abs_diff(j) as f64,
            KappaWeights::Quadratic => (i.abs_diff(j) as f64).powi(2),
        }
    }

    /// The sum over i and j of w(i, j) a(i) b(j) / n, in one pass over the categories.
    fn expected(self, a: &[u64], b: &[u64]) -> f64 {
        let n = a.iter().sum::<u64>() as f64;
        let counts = a.iter().zip(b).map(|(&a, &b)| (a as f64, b as f64));
        match self {
            KappaWeights::None => counts.map(|(a, b)| a * (n - b)).sum::<f64>() / n,
            // |i - j| counts the steps between i and j: those with one rating on either side.
            KappaWeights::Linear => {
                let (mut below_a, mut below_b) = (0.0, 0.0);
                let steps = counts.map(|(a, b)| {
                    below_a += a;
                    below_b += b;
                    below_a * (n - below_b) + below_b * (n - below_a)
                });
                steps.sum::<f64>() / n
            }
            // Two variances and the square between the means.
            KappaWeights::Quadratic => {
                let (mean_a, deviation_a) = places(a, n);
                let (mean_b, deviation_b) = places(b, n);
                deviation_a + deviation_b + n * (mean_a - mean_b).powi(2)
            }
        }
    }
}

/// Mean of the places, and the sum of their squared deviations from it.
fn places(counts: &[u64], n: f64) -> (f64, f64) {
    let places = || counts.iter().enumerate().map(|(place, &count)| (place as f64, count as f64));
    let mean = places().map(|(place, count)| place * count).sum::<f64>() / n;
    (mean, places().map(|(place, count)| (place - mean).powi(2) * count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    /// The example in Fleiss (1971) as reprinted in textbooks: ten subjects, fourteen raters, five categories.
    #[test]
    fn fleiss_textbook_example() {
        let table = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ];
        let kappa = fleiss_kappa(&table).unwrap();
        assert!((kappa.observed - 0.378).abs() < 5e-4 && (kappa.expected - 0.213).abs() < 5e-4);
        assert!((kappa.value - 0.210).abs() < 5e-4);
        assert_eq!(randolph_kappa(&table).unwrap().expected, 0.2);
    }

    #[test]
    fn one_category_has_no_kappa_but_randolphs() {
        let table = [[3, 0], [3, 0]];
        assert!(matches!(fleiss_kappa(&table), Err(Error::Undefined { .. })));
        assert_eq!(randolph_kappa(&table).unwrap().value, 1.0);
        assert!(matches!(randolph_kappa(&[[3], [3]]), Err(Error::Undefined { .. })));
        let same = cohen_kappa(&[1, 1], &[1, 1], KappaWeights::Linear);
        assert!(matches!(same, Err(Error::Undefined { .. })));
    }

    #[test]
    fn tables_that_are_none() {
        let empty: [[u32; 2]; 0] = [];
        assert!(matches!(fleiss_kappa(&empty), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(fleiss_kappa(&[[1, 0], [0, 1]]), Err(Error::TooFew { given: 1, .. })));
        assert!(matches!(fleiss_kappa(&[[2, 0], [2, 1]]), Err(Error::Example { index: 1, .. })));
        assert!(matches!(fleiss_kappa(&[vec![2, 0], vec![2]]), Err(Error::Example { index: 1, .. })));
        assert!(matches!(category_counts(&[vec![0], vec![2]], 2), Err(Error::Example { index: 1, .. })));
        assert_eq!(category_counts(&[[0, 2, 2]], 3).unwrap(), [[1, 0, 2]]);
    }

    /// The sums over all pairs of categories that the formulas in one pass stand for.
    #[test]
    fn expected_weights_are_the_double_sums() {
        let (a, b) = ([3_u64, 0, 5, 1, 2], [1_u64, 4, 0, 0, 6]);
        for weights in [KappaWeights::None, KappaWeights::Linear, KappaWeights::Quadratic] {
            let mut sum = 0.0;
            for (i, &a) in a.iter().enumerate() {
                for (j, &b) in b.iter().enumerate() {
                    sum += weights.of(i, j) * (a * b) as f64;
                }
            }
            near(weights.expected(&a, &b), sum / 11.0);
        }
    }

    #[test]
    fn a_step_that_nobody_used_changes_weighted_kappas() {
        let (a, b) = ([1, 1, 5, 5, 4], [1, 5, 5, 4, 4]);
        let scale = [1, 2, 3, 4, 5];
        let plain = cohen_kappa(&a, &b, KappaWeights::None).unwrap();
        assert_eq!(cohen_kappa_on_scale(&scale, &a, &b, KappaWeights::None).unwrap(), plain);
        // Observed distances 0, 4, 0, 1, 0; over all 25 pairs of a rating of each they sum to 45.
        let linear = cohen_kappa_on_scale(&scale, &a, &b, KappaWeights::Linear).unwrap();
        near(linear.value, 1.0 - 5.0 / (45.0 / 5.0));
        // Without 2 and 3 they are 0, 2, 0, 1, 0 and 23.
        near(cohen_kappa(&a, &b, KappaWeights::Linear).unwrap().value, 1.0 - 3.0 / (23.0 / 5.0));
        let off = cohen_kappa_on_scale(&scale, &[1, 6], &[1, 2], KappaWeights::Linear);
        assert!(matches!(off, Err(Error::Example { index: 1, .. })));
    }

    #[test]
    fn lists_that_do_not_fit() {
        assert!(matches!(cohen_kappa(&[1], &[1, 2], KappaWeights::None), Err(Error::LengthMismatch { .. })));
        assert!(matches!(cohen_kappa::<u8>(&[], &[], KappaWeights::None), Err(Error::EmptyCorpus { .. })));
    }
}
