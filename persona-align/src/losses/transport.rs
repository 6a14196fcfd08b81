//! Alignment by optimal transport: the distribution of the chosen rewards is to dominate that of the rejected ones. The
//! i-th loss belongs to the i-th smallest values of the batch, not to the i-th pair.

use tch::Tensor;

use super::smoothed;
use crate::error::Result;
use crate::options;

/// AOT (Melnyk et al. 2024), TRL's `aot`: `-(1-e) ls(b d) - e ls(-b d)`, where `d` is the difference of the
/// sorted `lp_c - lp_r` and the sorted `lref_c - lref_r`. All pairs of a step belong into one call.
///
/// # Errors
/// See [the module](crate::losses).
pub fn aot(
    policy_margins: &Tensor,
    reference_margins: &Tensor,
    beta: f64,
    label_smoothing: f64,
) -> Result<Tensor> {
    sorted(policy_margins, reference_margins, beta, label_smoothing)
}

/// AOT without pairs (Melnyk et al. 2024), TRL's `aot_unpaired`: as [`aot`], with the sorted `A_c` minus the
/// sorted `A_r`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn aot_unpaired(chosen: &Tensor, rejected: &Tensor, beta: f64, label_smoothing: f64) -> Result<Tensor> {
    sorted(chosen, rejected, beta, label_smoothing)
}

fn sorted(upper: &Tensor, lower: &Tensor, beta: f64, label_smoothing: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::label_smoothing(label_smoothing)?;
    let gaps = upper.f_sort(0, false)?.0.f_sub(&lower.f_sort(0, false)?.0)?;
    smoothed(&gaps.f_mul_scalar(beta)?, label_smoothing)
}
