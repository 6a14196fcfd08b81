//! Losses of each response's own log-ratio, summed over tokens: they see more than the margin.

use tch::Tensor;

use super::one_minus_sigmoid;
use crate::error::Result;
use crate::options;

/// NCA for pairs (Chen et al. 2024, noise contrastive alignment), TRL's `nca_pair`:
/// `-ls(b A_c) - 0.5 ls(-b A_c) - 0.5 ls(-b A_r)`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn nca_pair(chosen: &Tensor, rejected: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    let chosen = chosen.f_mul_scalar(beta)?;
    let against =
        |reward: &Tensor| -> Result<Tensor> { Ok(reward.f_neg()?.f_log_sigmoid()?.f_mul_scalar(0.5)?) };
    let pushed = against(&chosen)?.f_add(&against(&rejected.f_mul_scalar(beta)?)?)?;
    Ok(chosen.f_log_sigmoid()?.f_add(&pushed)?.f_neg()?)
}

/// BCO for pairs (Jung et al. 2024), TRL's `bco_pair`: `-ls(b A_c - shift) - ls(shift - b A_r)`.
///
/// The paper's shift is a running mean of both responses' rewards over the steps before, which TRL kept until 0.28.
/// TRL 1.16 has none, which is `shift = 0`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn bco_pair(chosen: &Tensor, rejected: &Tensor, beta: f64, shift: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::finite("shift", shift)?;
    let chosen = chosen.f_mul_scalar(beta)?.f_sub_scalar(shift)?.f_log_sigmoid()?;
    let rejected = rejected.f_mul_scalar(-beta)?.f_add_scalar(shift)?.f_log_sigmoid()?;
    Ok(chosen.f_add(&rejected)?.f_neg()?)
}

/// SPPO with hard labels (Wu et al. 2024, equation 4.7 with probabilities 1 and 0), TRL's `sppo_hard`:
/// `(A_c - 1/(2b))^2 + (A_r + 1/(2b))^2`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn sppo_hard(chosen: &Tensor, rejected: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    let chosen = chosen.f_sub_scalar(0.5 / beta)?.f_square()?;
    Ok(chosen.f_add(&rejected.f_add_scalar(0.5 / beta)?.f_square()?)?)
}

/// APO-zero (D'Oosterlinck et al. 2024, equation 7), TRL's `apo_zero`: `(1 - s(b A_c)) + s(b A_r)`, for chosen responses
/// that are better than the model's own.
///
/// # Errors
/// See [the module](crate::losses).
pub fn apo_zero(chosen: &Tensor, rejected: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    let chosen = one_minus_sigmoid(&chosen.f_mul_scalar(beta)?)?;
    Ok(chosen.f_add(&rejected.f_mul_scalar(beta)?.f_sigmoid()?)?)
}

/// APO-down (D'Oosterlinck et al. 2024, equation 8), TRL's `apo_down`: `s(b A_c) + (1 - s(b (A_c - A_r)))`, for chosen
/// responses that are worse than the model's own.
///
/// # Errors
/// See [the module](crate::losses).
pub fn apo_down(chosen: &Tensor, rejected: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    let margins = chosen.f_sub(rejected)?.f_mul_scalar(beta)?;
    Ok(chosen.f_mul_scalar(beta)?.f_sigmoid()?.f_add(&one_minus_sigmoid(&margins)?)?)
}
