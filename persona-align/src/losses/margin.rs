//! Losses of the margin `S_c - S_r` of a pair, log-probabilities summed over tokens.

use tch::Tensor;

use super::smoothed;
use crate::error::Result;
use crate::options;

/// DPO (Rafailov et al. 2023, equation 7), TRL's `sigmoid`: `-ls(b margin)`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn sigmoid(margins: &Tensor, beta: f64) -> Result<Tensor> {
    conservative(margins, beta, 0.0)
}

/// Conservative DPO, cDPO (Mitchell 2023, a note on DPO with noisy preferences): labels are wrong with probability
/// `e`: `-(1-e) ls(b margin) - e ls(-b margin)`. TRL had it until 0.28, as `sigmoid` with label smoothing.
///
/// # Errors
/// See [the module](crate::losses).
pub fn conservative(margins: &Tensor, beta: f64, label_smoothing: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::label_smoothing(label_smoothing)?;
    smoothed(&margins.f_mul_scalar(beta)?, label_smoothing)
}

/// Robust DPO (Chowdhury et al. 2024), TRL's `robust`: unbiased where labels are flipped with probability
/// `e`: `(-(1-e) ls(b margin) + e ls(-b margin)) / (1 - 2e)`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn robust(margins: &Tensor, beta: f64, label_smoothing: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::label_smoothing(label_smoothing)?;
    let margins = margins.f_mul_scalar(beta)?;
    let clean = margins.f_log_sigmoid()?.f_mul_scalar(label_smoothing - 1.0)?;
    let flipped = margins.f_neg()?.f_log_sigmoid()?.f_mul_scalar(label_smoothing)?;
    Ok(clean.f_add(&flipped)?.f_div_scalar(1.0 - 2.0 * label_smoothing)?)
}

/// EXO for pairs (Ji et al. 2024, equation 16), TRL's `exo_pair`: the reverse KL divergence from `(1-e, e)` to the
/// policy's preference, `s(x) (ls(x) - ln(1-e)) + s(-x) (ls(-x) - ln e)` with `x = b margin`; `e` is above 0.
///
/// # Errors
/// See [the module](crate::losses).
pub fn exo_pair(margins: &Tensor, beta: f64, label_smoothing: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::label_smoothing_above_zero(label_smoothing)?;
    let x = margins.f_mul_scalar(beta)?;
    let side = |x: &Tensor, log_label: f64| -> Result<Tensor> {
        Ok(x.f_sigmoid()?.f_mul(&x.f_log_sigmoid()?.f_sub_scalar(log_label)?)?)
    };
    let (right, wrong) = (side(&x, (-label_smoothing).ln_1p())?, side(&x.f_neg()?, label_smoothing.ln())?);
    Ok(right.f_add(&wrong)?)
}

/// DiscoPOP (Lu et al. 2024, equation 5), TRL's `discopop`: `(1-m) (-ls(x)) + m exp(-x)` with `x = b margin` and
/// `m = s(x / tau)`; `tau` is 0.05 in the paper.
///
/// # Errors
/// See [the module](crate::losses).
pub fn discopop(margins: &Tensor, beta: f64, tau: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::positive("tau", tau)?;
    let x = margins.f_mul_scalar(beta)?;
    let mix = x.f_div_scalar(tau)?;
    let logistic = x.f_log_sigmoid()?.f_neg()?.f_mul(&super::one_minus_sigmoid(&mix)?)?;
    // The product m exp(-x) as one exponential: apart, its factors are 0 and infinite where x is far below 0.
    let exponential = mix.f_log_sigmoid()?.f_sub(&x)?.f_exp()?;
    Ok(logistic.f_add(&exponential)?)
}

/// The hinge of SLiC-HF (Zhao et al. 2023) and RSO (Liu et al. 2023), TRL's `hinge`: `max(0, 1 - b margin)`.
///
/// # Errors
/// See [the module](crate::losses).
pub fn hinge(margins: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    Ok(margins.f_mul_scalar(-beta)?.f_add_scalar(1.0)?.f_relu()?)
}
