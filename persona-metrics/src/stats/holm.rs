//! Holm's correction for several tests.

use crate::error::{Error, Result};

/// Adjusted p-values of several tests, in the order given: with them, rejecting where the adjusted value is at most
/// alpha keeps the chance of any false rejection at alpha, whatever the dependence between the tests.
///
/// The i-th smallest of m p-values becomes the largest of (m - j + 1) p(j) over j <= i, at most 1 (Holm 1979; R's
/// `p.adjust(method = "holm")`, statsmodels' `multipletests`). No adjusted value is below its own p-value, and the
/// order is kept.
///
/// ```
/// use persona_metrics::stats::holm;
///
/// assert_eq!(holm(&[0.0625, 0.25, 0.03125])?, [0.125, 0.25, 0.09375]);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
///
/// # Errors
/// No p-value, or one that is NaN or outside 0 to 1; its index is named.
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>> {
    if p_values.is_empty() {
        return Err(Error::EmptyCorpus { metric: "Holm's correction" });
    }
    if let Some((index, &value)) =
        p_values.iter().enumerate().find(|(_, value)| !(0.0..=1.0).contains(*value))
    {
        return Err(Error::NotAProbability { name: "a p-value", value }.at(index));
    }
    let mut ascending: Vec<(f64, usize)> = p_values.iter().copied().zip(0..).collect();
    ascending.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, (p_value, index)) in ascending.into_iter().enumerate() {
        largest = largest.max((p_values.len() - rank) as f64 * p_value).min(1.0);
        if let Some(adjusted) = adjusted.get_mut(index) {
            *adjusted = largest;
        }
    }
    Ok(adjusted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R: p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.9), "holm").
    #[test]
    fn a_worked_example() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005, 0.9]).unwrap();
        for (value, expected) in adjusted.iter().zip([0.04, 0.09, 0.09, 0.025, 0.9]) {
            assert!((value - expected).abs() < 1e-15, "{adjusted:?}");
        }
    }

    #[test]
    fn what_is_no_p_value() {
        assert!(matches!(holm(&[]), Err(Error::EmptyCorpus { .. })));
        for value in [f64::NAN, -1e-300, 1.5, f64::INFINITY] {
            assert!(matches!(holm(&[0.5, value]), Err(Error::Example { index: 1, .. })), "{value}");
        }
        assert_eq!(holm(&[-0.0, 1.0]).unwrap(), [0.0, 1.0]);
    }
}
