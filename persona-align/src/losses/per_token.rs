//! Losses of margins that are means over tokens.

use tch::Tensor;

use super::smoothed;
use crate::error::Result;
use crate::options;

/// IPO (Azar et al. 2023, equation 17), TRL's `ipo`: `(m - 1/(2b))^2`, where `m = S_c/n_c - S_r/n_r` is the margin of
/// means over tokens. The paper does not speak of lengths; its authors confirmed the mean to TRL. The first
/// implementation of DPO's authors takes sums.
///
/// # Errors
/// See [the module](crate::losses).
pub fn ipo(mean_margins: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    Ok(mean_margins.f_sub_scalar(0.5 / beta)?.f_square()?)
}

/// Length-normalised DPO (Lambert et al. 2024, Tulu 3), TRL's `sigmoid_norm`: `-ls(b m)`, where
/// `m = S_c/n_c - S_r/n_r` is the margin of means over tokens.
///
/// # Errors
/// See [the module](crate::losses).
pub fn sigmoid_norm(mean_margins: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    smoothed(&mean_margins.f_mul_scalar(beta)?, 0.0)
}
