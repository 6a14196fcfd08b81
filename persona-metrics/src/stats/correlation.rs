//! Correlation of two lists of scores.

use serde::{Deserialize, Serialize};

use super::distributions::{normal_two_sided, t_upper_tail};
use super::sample::{finite, mean};
use crate::error::{Error, Result, same_length};

const PEARSON: &str = "Pearson's r";
const SPEARMAN: &str = "Spearman's rho";
const KENDALL: &str = "Kendall's tau-b";
const CONSTANT: &str = "one of the lists is constant";

/// Where a p-value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PValueMethod {
    /// Student's t with n - 2 degrees of freedom.
    StudentT,
    /// The distribution over all permutations.
    Exact,
    /// The normal approximation.
    Normal,
}

/// A correlation coefficient and its test against none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Correlation {
    /// The coefficient, -1 to 1.
    pub coefficient: f64,
    /// Two-sided p-value, 0 to 1.
    pub p_value: f64,
    /// How the p-value was found.
    pub method: PValueMethod,
    /// Number of pairs.
    pub n: usize,
}

/// Pearson's product-moment correlation r. The p-value is that of t = r sqrt((n - 2) / (1 - r^2)), exact where both lists
/// are normal; 0 where |r| is 1, but 1 for two pairs (scipy's `pearsonr`).
///
/// ```
/// use persona_metrics::stats::pearson;
///
/// let correlation = pearson(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0])?;
/// assert!((correlation.coefficient - 0.8).abs() < 1e-15);
/// assert!((correlation.p_value - 0.2).abs() < 1e-12);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// Lists of unequal length, fewer than two pairs, a value that is NaN or infinite, a constant list.
pub fn pearson(a: &[f64], b: &[f64]) -> Result<Correlation> {
    check(PEARSON, a, b, 2)?;
    let coefficient = product_moment(PEARSON, a, b)?;
    Ok(by_student_t(coefficient, a.len()))
}

/// Spearman's rank correlation rho: Pearson's r of the ranks, ties at the mean of their ranks. The p-value is that of
/// t = rho sqrt((n - 2) / (1 - rho^2)), an approximation (scipy's `spearmanr`).
///
/// # Errors
/// Lists of unequal length, fewer than three pairs, a value that is NaN or infinite, a constant list.
pub fn spearman(a: &[f64], b: &[f64]) -> Result<Correlation> {
    check(SPEARMAN, a, b, 3)?;
    let coefficient = product_moment(SPEARMAN, &ranks(a), &ranks(b))?;
    Ok(by_student_t(coefficient, a.len()))
}

/// Kendall's tau-b: (concordant - discordant pairs) / sqrt((pairs not tied in a) (pairs not tied in b)), in O(n log n).
///
/// The p-value is exact where neither list has ties and there are at most 33 pairs, or at most one pair is discordant, or
/// at most one concordant; otherwise it is that of the normal approximation with the variance for ties (scipy's
/// `kendalltau`).
///
/// # Errors
/// Lists of unequal length, fewer than two pairs, a value that is NaN or infinite, a constant list.
pub fn kendall(a: &[f64], b: &[f64]) -> Result<Correlation> {
    check(KENDALL, a, b, 2)?;
    let n = a.len();
    // The sum turns -0 into 0.
    let mut points: Vec<(f64, f64)> = a.iter().zip(b).map(|(a, b)| (a + 0.0, b + 0.0)).collect();
    points.sort_unstable_by(|left, right| left.0.total_cmp(&right.0).then(left.1.total_cmp(&right.1)));
    let ties_a = Ties::of(points.chunk_by(|left, right| left.0 == right.0));
    let ties_both = Ties::of(points.chunk_by(|left, right| left == right));
    let mut column: Vec<f64> = points.into_iter().map(|(_, b)| b).collect();
    let discordant = sort_counting_inversions(&mut column) as f64;
    let ties_b = Ties::of(column.chunk_by(|left, right| left == right));

    let size = n as f64;
    let pairs = size * (size - 1.0) / 2.0;
    if ties_a.pairs == pairs || ties_b.pairs == pairs {
        return Err(Error::Undefined { statistic: KENDALL, reason: CONSTANT });
    }
    let untied = pairs - ties_a.pairs - ties_b.pairs + ties_both.pairs;
    let lead = untied - 2.0 * discordant;
    let coefficient = lead / (pairs - ties_a.pairs).sqrt() / (pairs - ties_b.pairs).sqrt();
    let coefficient = coefficient.clamp(-1.0, 1.0);

    let fewer = discordant.min(pairs - discordant);
    let no_ties = ties_a.pairs == 0.0 && ties_b.pairs == 0.0;
    let (p_value, method) = if no_ties && (n <= 33 || fewer <= 1.0) {
        (exact_p_value(n, fewer as usize), PValueMethod::Exact)
    } else {
        let m = size * (size - 1.0);
        let variance = (m * (2.0 * size + 5.0) - ties_a.weighted - ties_b.weighted) / 18.0
            + 2.0 * ties_a.pairs * ties_b.pairs / m
            + ties_a.triples * ties_b.triples / (9.0 * m * (size - 2.0).max(1.0));
        (normal_two_sided(lead / variance.sqrt()), PValueMethod::Normal)
    };
    Ok(Correlation { coefficient, p_value, method, n })
}

fn check(name: &'static str, a: &[f64], b: &[f64], needed: usize) -> Result<()> {
    same_length("values of one list", a.len(), "of the other", b.len())?;
    finite(name, a)?;
    finite(name, b)?;
    if a.len() < needed {
        return Err(Error::TooFew { statistic: name, what: "pairs", needed, given: a.len() });
    }
    Ok(())
}

fn product_moment(name: &'static str, a: &[f64], b: &[f64]) -> Result<f64> {
    let (a, b) = (centred(name, a)?, centred(name, b)?);
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let coefficient = product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt();
    Ok(coefficient.clamp(-1.0, 1.0))
}

/// Deviations from the mean over the largest of them, so that squares neither overflow nor vanish.
fn centred(name: &'static str, values: &[f64]) -> Result<Vec<f64>> {
    let mean = mean(values);
    if !mean.is_finite() {
        return Err(Error::OutOfRange { metric: name, value: mean });
    }
    let largest = values.iter().fold(0.0, |largest: f64, value| largest.max((value - mean).abs()));
    if largest == 0.0 {
        return Err(Error::Undefined { statistic: name, reason: CONSTANT });
    }
    if !largest.is_finite() {
        return Err(Error::OutOfRange { metric: name, value: largest });
    }
    Ok(values.iter().map(|value| (value - mean) / largest).collect())
}

fn by_student_t(coefficient: f64, n: usize) -> Correlation {
    let df = n as f64 - 2.0;
    let p_value = if n == 2 {
        1.0
    } else {
        let rest = (1.0 - coefficient) * (1.0 + coefficient);
        2.0 * t_upper_tail(coefficient.abs() * (df / rest).sqrt(), df)
    };
    Correlation { coefficient, p_value, method: PValueMethod::StudentT, n }
}

/// Ranks from 1, ties at the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut ascending: Vec<(f64, usize)> = values.iter().map(|value| value + 0.0).zip(0..).collect();
    ascending.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0.0;
    for tied in ascending.chunk_by(|left, right| left.0 == right.0) {
        let count = tied.len() as f64;
        for &(_, index) in tied {
            if let Some(rank) = ranks.get_mut(index) {
                *rank = before + (count + 1.0) / 2.0;
            }
        }
        before += count;
    }
    ranks
}

/// Sums over the groups of t tied values.
#[derive(Default)]
struct Ties {
    /// t (t - 1) / 2
    pairs: f64,
    /// t (t - 1) (t - 2)
    triples: f64,
    /// t (t - 1) (2 t + 5)
    weighted: f64,
}

impl Ties {
    fn of<'p, T: 'p>(groups: impl Iterator<Item = &'p [T]>) -> Self {
        let mut ties = Self::default();
        for group in groups {
            let t = group.len() as f64;
            ties.pairs += t * (t - 1.0) / 2.0;
            ties.triples += t * (t - 1.0) * (t - 2.0);
            ties.weighted += t * (t - 1.0) * (2.0 * t + 5.0);
        }
        ties
    }
}

/// Sorts by merging, and counts the pairs that stood in descending order.
fn sort_counting_inversions(values: &mut [f64]) -> u64 {
    let mut buffer = Vec::with_capacity(values.len());
    let mut inversions = 0;
    let mut width = 1;
    while width < values.len() {
        for block in values.chunks_mut(2 * width) {
            let (left, right) = block.split_at(width.min(block.len()));
            let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
            buffer.clear();
            while let (Some(&low), Some(&high)) = (left.peek(), right.peek()) {
                if high < low {
                    inversions += left.len() as u64;
                    buffer.extend(right.next());
                } else {
                    buffer.extend(left.next());
                }
            }
            buffer.extend(left);
            buffer.extend(right);
            block.copy_from_slice(&buffer);
        }
        width *= 2;
    }
    inversions
}

/// Twice the share of the permutations of n with at most so many inversions, at most 1.
fn exact_p_value(n: usize, inversions: usize) -> f64 {
    let mut shares = vec![0.0; inversions + 1];
    if let Some(none) = shares.first_mut() {
        *none = 1.0;
    }
    // One more element comes to stand in one of `size` places and adds as many inversions as it passes elements.
    for size in 2..=n {
        let next = (0..shares.len()).map(|total| {
            let passed = shares.iter().take(total + 1).skip((total + 1).saturating_sub(size));
            passed.sum::<f64>() / size as f64
        });
        shares = next.collect();
        if shares.iter().all(|&share| share == 0.0) {
            break;
        }
    }
    (2.0 * shares.iter().sum::<f64>()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_ties() {
        assert_eq!(ranks(&[3.0, -0.0, 7.0, 0.0, 3.0, 3.0]), [4.0, 1.5, 6.0, 1.5, 4.0, 4.0]);
    }

    #[test]
    fn inversions_as_counted_by_hand() {
        let mut values = [3.0, 1.0, 2.0, 2.0, 0.0, 5.0, 4.0];
        let expected = (0..7).flat_map(|i| (0..i).map(move |j| (j, i)));
        let expected = expected.filter(|&(j, i)| values[j] > values[i]).count() as u64;
        assert_eq!(sort_counting_inversions(&mut values), expected);
        assert_eq!(values, [0.0, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0]);
    }

    /// Of the 24 permutations of four, 1, 3, 5, 6, 5, 3, 1 have 0 to 6 inversions.
    #[test]
    fn the_exact_distribution() {
        for (inversions, expected) in [(0, 2.0), (1, 8.0), (2, 18.0), (3, 24.0)] {
            assert!((exact_p_value(4, inversions) - expected / 24.0).abs() < 1e-15);
        }
        assert_eq!(exact_p_value(100_000, 1), 0.0);
    }

    #[test]
    fn which_p_value_kendall_has() {
        let ascending: Vec<f64> = (0..40).map(f64::from).collect();
        let mut other = ascending.clone();
        other.swap(3, 4);
        assert_eq!(kendall(&ascending, &other).unwrap().method, PValueMethod::Exact);
        other.swap(7, 8);
        assert_eq!(kendall(&ascending, &other).unwrap().method, PValueMethod::Normal);
        assert_eq!(kendall(&ascending[..33], &other[..33]).unwrap().method, PValueMethod::Exact);
        let tied = kendall(&[1.0, 2.0, 3.0], &[1.0, 2.0, 2.0]).unwrap();
        // scipy 1.17.1: kendalltau([1, 2, 3], [1, 2, 2])
        assert_eq!(tied.method, PValueMethod::Normal);
        assert!((tied.coefficient - 0.816_496_580_927_726).abs() < 1e-14);
        assert!((tied.p_value - 0.220_671_361_919_846_93).abs() < 1e-12);
    }

    /// scipy 1.17.1.
    #[test]
    fn edges() {
        let pair = pearson(&[1.0, 2.0], &[4.0, 3.0]).unwrap();
        assert_eq!((pair.coefficient, pair.p_value), (-1.0, 1.0));
        let line = spearman(&[1.0, 2.0, 3.0], &[1.0, 2.0, 30.0]).unwrap();
        assert_eq!((line.coefficient, line.p_value), (1.0, 0.0));
        let pair = kendall(&[1.0, 2.0], &[3.0, 4.0]).unwrap();
        assert_eq!((pair.coefficient, pair.p_value), (1.0, 1.0));
    }

    #[test]
    fn bad_input_is_an_error() {
        for correlation in [pearson, spearman, kendall] {
            let constant = correlation(&[1.0, 2.0, 3.0], &[0.1, 0.1, 0.1]);
            assert!(matches!(constant, Err(Error::Undefined { .. })), "{constant:?}");
            let nan = correlation(&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0]);
            assert!(matches!(nan, Err(Error::Example { index: 1, .. })), "{nan:?}");
            assert!(matches!(correlation(&[1.0], &[1.0]), Err(Error::TooFew { .. })));
            assert!(matches!(correlation(&[1.0, 2.0], &[1.0]), Err(Error::LengthMismatch { .. })));
        }
        assert!(matches!(spearman(&[1.0, 2.0], &[1.0, 2.0]), Err(Error::TooFew { needed: 3, .. })));
        assert!(matches!(pearson(&[-1e308, 1e308], &[1.0, 2.0]), Err(Error::OutOfRange { .. })));
    }
}
