//! Krippendorff's alpha.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};

const NAME: &str = "Krippendorff's alpha";

/// Level of measurement: how far apart two values v and w are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlphaScale {
    /// 1 where they differ.
    Nominal,
    /// The square of the number of ratings between them, those at v and at w counted half.
    Ordinal,
    /// (v - w)^2
    Interval,
    /// ((v - w) / (v + w))^2, for values that are not negative.
    Ratio,
}

/// Krippendorff's alpha and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Alpha {
    /// 1 - observed / expected: 1 for full agreement, 0 for what chance gives, below 0 for disagreement beyond chance.
    pub value: f64,
    /// Mean distance of two ratings of one unit.
    pub observed: f64,
    /// Mean distance of any two ratings.
    pub expected: f64,
    /// Ratings of units that at least two raters rated; the others do not enter.
    pub ratings: usize,
}

/// Krippendorff's alpha of any number of raters with missing ratings (2004; Python's `krippendorff` 0.9).
///
/// A row holds one rater's ratings of all units. None is a rating that is missing, and so is NaN, which tables of numbers
/// mark it with; rows of plain `f64` are taken too.
///
/// The expected distance takes time in the square of the number of different values.
///
/// ```
/// use persona_metrics::stats::{AlphaScale, krippendorff_alpha};
///
/// let raters = [
///     [Some(1.0), Some(2.0), Some(3.0), None],
///     [Some(1.0), Some(2.0), Some(3.0), Some(4.0)],
///     [None, Some(2.0), Some(3.0), None],
/// ];
/// assert_eq!(krippendorff_alpha(&raters, AlphaScale::Ordinal)?.value, 1.0);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// Rows of unequal length, an infinite rating (the rater is named), a negative rating on the ratio scale, no unit with two
/// ratings, no two different values in such units.
pub fn krippendorff_alpha<R, T>(raters: &[R], scale: AlphaScale) -> Result<Alpha>
where
    R: AsRef<[T]>,
    T: Copy + Into<Option<f64>>,
{
    let (units, values) = pairable(raters, scale)?;
    let mut counts = vec![0.0; values.len()];
    let mut ratings = 0_usize;
    for &place in units.iter().flatten() {
        ratings += 1;
        if let Some(count) = counts.get_mut(place) {
            *count += 1.0;
        }
    }
    if ratings == 0 {
        return Err(Error::Undefined { statistic: NAME, reason: "no unit was rated twice" });
    }
    if values.len() < 2 {
        let reason = "all ratings are equal, so that none disagree even by chance";
        return Err(Error::Undefined { statistic: NAME, reason });
    }
    let points = Points::of(scale, &values, &counts);
    let n = ratings as f64;

    let mut observed = 0.0;
    for unit in &units {
        let mut sum = 0.0;
        for (index, &v) in unit.iter().enumerate() {
            sum += unit.iter().take(index).map(|&w| points.distance(v, w)).sum::<f64>();
        }
        observed += 2.0 * sum / (unit.len() as f64 - 1.0);
    }
    let mut expected = 0.0;
    for (v, count) in counts.iter().enumerate() {
        let below = counts.iter().enumerate().take(v);
        expected += 2.0 * count * below.map(|(w, other)| other * points.distance(v, w)).sum::<f64>();
    }
    let (observed, expected) = (observed / n, expected / (n * (n - 1.0)));
    let value = 1.0 - observed / expected;
    match [observed, expected, value].iter().find(|number| !number.is_finite()) {
        Some(&value) => Err(Error::OutOfRange { metric: NAME, value }),
        None => Ok(Alpha { value, observed, expected, ratings }),
    }
}

/// The units with two ratings or more, as places in the ascending list of the different values that they hold.
fn pairable<R, T>(raters: &[R], scale: AlphaScale) -> Result<(Vec<Vec<usize>>, Vec<f64>)>
where
    R: AsRef<[T]>,
    T: Copy + Into<Option<f64>>,
{
    let first = raters.first().ok_or(Error::EmptyCorpus { metric: NAME })?.as_ref();
    let mut units = vec![Vec::new(); first.len()];
    for (rater, row) in raters.iter().map(AsRef::as_ref).enumerate() {
        same_length("units of a rater", row.len(), "of the first", first.len())
            .map_err(|error| error.at(rater))?;
        for (unit, &rating) in units.iter_mut().zip(row) {
            let Some(value) = rating.into().filter(|value| !value.is_nan()) else { continue };
            if value.is_infinite() {
                return Err(Error::OutOfRange { metric: NAME, value }.at(rater));
            }
            if scale == AlphaScale::Ratio && value < 0.0 {
                let reason = "a rating on the ratio scale is negative";
                return Err(Error::Undefined { statistic: NAME, reason }.at(rater));
            }
            // The sum turns -0 into 0.
            unit.push(value + 0.0);
        }
    }
    units.retain(|unit| unit.len() > 1);
    let mut values: Vec<f64> = units.concat();
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
    let place = |value: f64| values.partition_point(|&other| other < value);
    let units = units.into_iter().map(|unit| unit.into_iter().map(place).collect()).collect();
    Ok((units, values))
}

/// Where each value lies on its scale.
struct Points {
    scale: AlphaScale,
    points: Vec<f64>,
}

impl Points {
    fn of(scale: AlphaScale, values: &[f64], counts: &[f64]) -> Self {
        let mut below = 0.0;
        let middle = |count: &f64| {
            below += count;
            below - count / 2.0
        };
        let points = match scale {
            AlphaScale::Ordinal => counts.iter().map(middle).collect(),
            _ => values.to_vec(),
        };
        Self { scale, points }
    }

    fn distance(&self, v: usize, w: usize) -> f64 {
        match (v == w, self.points.get(v), self.points.get(w)) {
            (false, Some(v), Some(w)) => match self.scale {
                AlphaScale::Nominal => 1.0,
                AlphaScale::Ordinal | AlphaScale::Interval => (v - w).powi(2),
                AlphaScale::Ratio => ((v - w) / (v + w)).powi(2),
            },
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALES: [AlphaScale; 4] =
        [AlphaScale::Nominal, AlphaScale::Ordinal, AlphaScale::Interval, AlphaScale::Ratio];

    /// Krippendorff's own example (2011, "Computing Krippendorff's Alpha-Reliability", section C).
    #[test]
    fn krippendorffs_example() {
        const X: f64 = f64::NAN;
        let raters = [
            [1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 4.0, 1.0, 2.0, X, X, X],
            [1.0, 2.0, 3.0, 3.0, 2.0, 2.0, 4.0, 1.0, 2.0, 5.0, X, 3.0],
            [X, 3.0, 3.0, 3.0, 2.0, 3.0, 4.0, 2.0, 2.0, 5.0, 1.0, X],
            [1.0, 2.0, 3.0, 3.0, 2.0, 4.0, 4.0, 1.0, 2.0, 5.0, 1.0, X],
        ];
        for (scale, expected) in SCALES.into_iter().zip([0.743, 0.815, 0.849, 0.797]) {
            let alpha = krippendorff_alpha(&raters, scale).unwrap();
            assert!((alpha.value - expected).abs() < 5e-4, "{scale:?}: {alpha:?}");
            assert_eq!(alpha.ratings, 40);
        }
    }

    #[test]
    fn what_has_no_alpha() {
        for scale in SCALES {
            let equal = krippendorff_alpha(&[[1.0, 1.0], [1.0, 1.0]], scale);
            assert!(matches!(equal, Err(Error::Undefined { .. })), "{equal:?}");
            let once = krippendorff_alpha(&[[Some(1.0), None], [None, Some(2.0)]], scale);
            assert!(matches!(once, Err(Error::Undefined { .. })), "{once:?}");
            let infinite = krippendorff_alpha(&[[1.0], [f64::INFINITY]], scale);
            assert!(matches!(infinite, Err(Error::Example { index: 1, .. })), "{infinite:?}");
            let uneven = krippendorff_alpha(&[vec![1.0, 2.0], vec![1.0]], scale);
            assert!(matches!(uneven, Err(Error::Example { index: 1, .. })), "{uneven:?}");
            let nobody: [[f64; 1]; 0] = [];
            assert!(matches!(krippendorff_alpha(&nobody, scale), Err(Error::EmptyCorpus { .. })));
        }
    }

    #[test]
    fn the_ratio_scale_starts_at_zero() {
        let negative = krippendorff_alpha(&[[1.0, 1.0], [-1.0, 2.0]], AlphaScale::Ratio);
        assert!(matches!(negative, Err(Error::Example { index: 1, .. })), "{negative:?}");
        // -0 is 0, and two zeros agree.
        let zeros = krippendorff_alpha(&[[0.0, 1.0], [-0.0, 1.0]], AlphaScale::Ratio).unwrap();
        assert_eq!(zeros.value, 1.0);
    }
}
