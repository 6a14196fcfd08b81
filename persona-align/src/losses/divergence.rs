//! f-DPO: other divergences from the reference than the reverse KL.

use tch::Tensor;

use crate::error::Result;
use crate::options;

/// The divergence that holds the policy near its reference (Wang et al. 2023, beyond reverse KL). The score of a response
/// is `S = f'(t)`, where `t = exp(A)` is its probability under the policy over that under the reference.
///
/// Only losses of the margin `S_c - S_r` know divergences: what `f'` leaves out cancels there alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Divergence {
    /// TRL's `reverse_kl`, plain DPO: `S = A`.
    #[default]
    ReverseKl,
    /// TRL's `forward_kl`: `S = 1 - exp(-A)`.
    ForwardKl,
    /// TRL's `js_divergence`: `S = ln 2 + ls(A)`.
    JensenShannon,
    /// TRL's `alpha_divergence`: `S = (exp((a-1) A) - 1) / (a-1)`, the exponent cut at 80, where `a` is the field.
    /// Within 1e-6 of 1 it is the reverse KL, its limit.
    Alpha(f64),
}

impl Divergence {
    /// The scores `[B]` of log-ratios `[B]`.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for an alpha that is not finite.
    pub fn scores(self, log_ratios: &Tensor) -> Result<Tensor> {
        match self {
            Self::ReverseKl => Ok(log_ratios.shallow_clone()),
            Self::ForwardKl => Ok(log_ratios.f_neg()?.f_expm1()?.f_neg()?),
            Self::JensenShannon => Ok(log_ratios.f_log_sigmoid()?.f_add_scalar(std::f64::consts::LN_2)?),
            Self::Alpha(alpha) => {
                options::finite("alpha", alpha)?;
                let power = alpha - 1.0;
                if power.abs() < 1e-6 {
                    return Ok(log_ratios.shallow_clone());
                }
                let exponent = log_ratios.f_mul_scalar(power)?.f_clamp_max(80.0)?;
                Ok(exponent.f_expm1()?.f_div_scalar(power)?)
            }
        }
    }
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ReverseKl => f.write_str("reverse_kl"),
            Self::ForwardKl => f.write_str("forward_kl"),
            Self::JensenShannon => f.write_str("js_divergence"),
            Self::Alpha(alpha) => write!(f, "alpha_divergence({alpha})"),
        }
    }
}
