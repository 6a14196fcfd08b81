//! Losses of the policy's log-probabilities alone.

use tch::Tensor;

use super::smoothed;
use crate::error::Result;
use crate::options;

/// SimPO (Meng et al. 2024, equation 6): `-(1-e) ls(b m - gamma) - e ls(gamma - b m)`, where `m = lp_c/n_c - lp_r/n_r` is
/// the margin of means over tokens. The paper smooths nothing (`e = 0`), and takes `b` from 2 to 10 and `gamma` from 0.3
/// to 1.6.
///
/// # Errors
/// See [the module](crate::losses).
pub fn simpo(mean_margins: &Tensor, beta: f64, gamma: f64, label_smoothing: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    options::not_negative("gamma", gamma)?;
    options::label_smoothing(label_smoothing)?;
    smoothed(&mean_margins.f_mul_scalar(beta)?.f_sub_scalar(gamma)?, label_smoothing)
}

/// The log of the odds of one response over those of the other, of ORPO (Hong et al. 2024, equations 4 and 5):
/// `ln odds_c - ln odds_r` with `odds = p / (1 - p)` and `ln p` the mean log-probability a token, in nats.
///
/// A mean that rounds to 0, a certain response, is taken as the float32 number below: the odds stay finite.
///
/// # Errors
/// See [the module](crate::losses).
pub fn log_odds(chosen_means: &Tensor, rejected_means: &Tensor) -> Result<Tensor> {
    let odds = |means: &Tensor| -> Result<Tensor> {
        let means = means.f_clamp_max(-f64::from(f32::EPSILON))?;
        Ok(means.f_sub(&means.f_expm1()?.f_neg()?.f_log()?)?)
    };
    Ok(odds(chosen_means)?.f_sub(&odds(rejected_means)?)?)
}

/// The odds-ratio term of ORPO (Hong et al. 2024, equation 7): `-b ls(log odds ratio)`, where the paper's lambda is `b`.
/// The whole loss adds the chosen response's negative log-likelihood, a mean over tokens.
///
/// # Errors
/// See [the module](crate::losses).
pub fn orpo(log_odds: &Tensor, beta: f64) -> Result<Tensor> {
    options::positive("beta", beta)?;
    Ok(log_odds.f_log_sigmoid()?.f_mul_scalar(-beta)?)
}
