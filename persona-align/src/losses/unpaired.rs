//! Losses of single responses that are known to be desirable or not.

use tch::{Kind, Tensor};

use super::one_minus_sigmoid;
use crate::error::Result;
use crate::options;

/// KTO (Ethayarajh et al. 2024): `1 - s(b (A - z))` of a desirable response and `1 - s(b (z - A))` of
/// one that is not, without weights. `signs` `[B]` is 1 for the desirable and -1 for the others, `kl` is `z`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn kto(log_ratios: &Tensor, signs: &Tensor, kl: f64, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::not_negative("kl", kl)?;
    one_minus_sigmoid(&log_ratios.f_sub_scalar(kl)?.f_mul_scalar(beta)?.f_mul(signs)?)
}

/// The KL divergence `z` of policy from reference that [`kto`] measures gains and losses by: the mean log-ratio of
/// responses that belong to other prompts, `max(0, mean(lp - lref))`, a scalar without a graph.
///
/// # Errors
/// See [the module](crate::losses).
pub fn kl_estimate(policy: &Tensor, reference: &Tensor) -> Result<Tensor> {
    Ok(policy.f_detach()?.f_sub(&reference.f_detach()?)?.f_mean(Kind::Float)?.f_clamp_min(0.0)?)
}

/// APO-zero of single responses (D'Oosterlinck et al. 2024), TRL's `apo_zero_unpaired`: `1 - s(b A)` of a desirable
/// response and `s(b A)` of one that is not. `signs` as in [`kto`].
///
/// # Errors
/// See [the module](crate::losses).
pub fn apo_zero_unpaired(log_ratios: &Tensor, signs: &Tensor, beta: f64) -> Result<Tensor> {
    kto(log_ratios, signs, 0.0, beta)
}
