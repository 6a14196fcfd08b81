//! Greedy matching of token vectors.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use crate::error::{Error, Result, same_length};

/// Token vectors `[T, D]` of one side with the weight of each token `[T]`.
#[derive(Debug, Clone, Copy)]
pub struct WeightedTokens<'t, A> {
    /// The vectors, of any length.
    pub vectors: ArrayView2<'t, A>,
    /// The weights, finite and at least 0.
    pub weights: &'t [f64],
}

/// Precision, recall and F1 of greedy matching, as in Zhang et al. 2020:
///
/// - precision: the mean over the hypothesis' tokens, by their weights, of the highest cosine with any reference token;
/// - recall: the same with the sides exchanged;
/// - F1: their harmonic mean, 0 where their sum is 0.
///
/// A token of weight 0 can be matched. A side whose weights sum to 0 has no mean, and the result is `None`. Computed in
/// f64; a vector shorter than 1e-12 has the cosine 0 with all others.
///
/// # Errors
/// Weights or vectors of another length on one side than on the other; [`Error::OutOfRange`] for a vector whose length is
/// not finite, and for a weight that is not or is below 0.
pub fn greedy_match<A: Copy + Into<f64>>(
    hypothesis: WeightedTokens<'_, A>,
    reference: WeightedTokens<'_, A>,
) -> Result<Option<[f64; 3]>> {
    let width = "values of a vector of the other side";
    same_length("values of a vector", hypothesis.vectors.ncols(), width, reference.vectors.ncols())?;
    same_length("token vectors", hypothesis.vectors.nrows(), "weights", hypothesis.weights.len())?;
    same_length("token vectors", reference.vectors.nrows(), "weights", reference.weights.len())?;
    let cosines = unit_rows(hypothesis.vectors)?.dot(&unit_rows(reference.vectors)?.t());
    let total = |weights: &[f64]| {
        if let Some(&weight) = weights.iter().find(|weight| !weight.is_finite() || **weight < 0.0) {
            return Err(out_of_range(weight));
        }
        let total = weights.iter().sum::<f64>();
        if total.is_finite() { Ok(total) } else { Err(out_of_range(total)) }
    };
    let totals = (total(hypothesis.weights)?, total(reference.weights)?);
    if totals.0 == 0.0 || totals.1 == 0.0 {
        return Ok(None);
    }
    let mean = |weights: &[f64], total: f64, axis: Axis| {
        let highest =
            |cosines: ArrayView1<'_, f64>| cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let rows = weights.iter().zip(cosines.axis_iter(axis));
        rows.map(|(weight, cosines)| weight * highest(cosines)).sum::<f64>() / total
    };
    let precision = mean(hypothesis.weights, totals.0, Axis(0));
    let recall = mean(reference.weights, totals.1, Axis(1));
    Ok(Some([precision, recall, f1(precision, recall)]))
}

/// The harmonic mean, 0 where the sum is 0.
fn f1(precision: f64, recall: f64) -> f64 {
    let sum = precision + recall;
    if sum == 0.0 { 0.0 } else { 2.0 * precision * recall / sum }
}

/// Each row divided by its length.
fn unit_rows<A: Copy + Into<f64>>(vectors: ArrayView2<'_, A>) -> Result<Array2<f64>> {
    let mut unit = vectors.mapv(Into::into);
    for mut row in unit.rows_mut() {
        let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        if !length.is_finite() {
            return Err(out_of_range(length));
        }
        let length = length.max(1e-12);
        row.mapv_inplace(|value| value / length);
    }
    Ok(unit)
}

fn out_of_range(value: f64) -> Error {
    Error::OutOfRange { metric: "greedy matching", value }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn special_tokens_are_matched_and_weigh_nothing() {
        // The hypothesis' second token is matched best by the reference's first, which weighs nothing.
        let hypothesis = array![[1.0, 0.0], [0.0, 2.0]];
        let reference = array![[0.0, 1.0], [3.0, 0.0], [3.0, 3.0]];
        let score = greedy_match(
            WeightedTokens { vectors: hypothesis.view(), weights: &[0.0, 1.0] },
            WeightedTokens { vectors: reference.view(), weights: &[0.0, 1.0, 3.0] },
        );
        let [precision, recall, f1] = score.unwrap().unwrap();
        assert_eq!(precision, 1.0);
        let expected = (1.0 + 3.0 * 0.5_f64.sqrt()) / 4.0;
        assert!((recall - expected).abs() < 1e-15);
        assert!((f1 - 2.0 * expected / (1.0 + expected)).abs() < 1e-15);
    }

    fn side<'t>(vectors: &'t Array2<f64>, weights: &'t [f64]) -> WeightedTokens<'t, f64> {
        WeightedTokens { vectors: vectors.view(), weights }
    }

    #[test]
    fn numbers_that_are_none_are_an_error() {
        let good = array![[1.0, 0.0], [0.0, 1.0]];
        let refused = |result| matches!(result, Err(Error::OutOfRange { metric: "greedy matching", .. }));
        for value in [f64::NAN, f64::INFINITY, 1e200] {
            let bad = array![[1.0, 0.0], [value, 1.0]];
            let (bad, good) = (side(&bad, &[1.0, 1.0]), side(&good, &[1.0, 1.0]));
            assert!(refused(greedy_match(bad, good)) && refused(greedy_match(good, bad)), "{value}");
        }
        for weights in [[1.0, -0.5], [f64::NAN, 1.0], [1.0, f64::INFINITY], [f64::MAX, f64::MAX]] {
            let (bad, good) = (side(&good, &weights), side(&good, &[1.0, 1.0]));
            assert!(refused(greedy_match(bad, good)) && refused(greedy_match(good, bad)), "{weights:?}");
        }
        let none = Array2::zeros((0, 2));
        assert_eq!(greedy_match(side(&none, &[]), side(&good, &[1.0, 1.0])).unwrap(), None);
    }

    #[test]
    fn weights_of_0_have_no_mean_and_lengths_must_fit() {
        let (one, other) = (array![[1.0f32, 0.0]], array![[0.0f32, 1.0]]);
        let side = |weights| WeightedTokens { vectors: one.view(), weights };
        assert_eq!(greedy_match(side(&[0.0]), side(&[1.0])).unwrap(), None);
        assert_eq!(greedy_match(side(&[1.0]), side(&[0.0])).unwrap(), None);
        assert!(greedy_match(side(&[1.0, 1.0]), side(&[1.0])).is_err());
        let orthogonal = WeightedTokens { vectors: other.view(), weights: &[1.0] };
        assert_eq!(greedy_match(side(&[1.0]), orthogonal).unwrap(), Some([0.0; 3]));
        let narrow = array![[1.0f32]];
        let narrow = WeightedTokens { vectors: narrow.view(), weights: &[1.0] };
        assert!(greedy_match(side(&[1.0]), narrow).is_err());
    }
}
