//! The losses as functions of tensors.
//!
//! Each gives the loss of every pair, `[B]`, with its graph; nothing is averaged but where it is said.
//! [`PreferenceLoss`](crate::PreferenceLoss), [`ReferenceFreeLoss`](crate::ReferenceFreeLoss) and
//! [`UnpairedLoss`](crate::UnpairedLoss) put them together, check the log-probabilities, and take the mean.
//!
//! # Notation
//! - `lp` and `lref`: the log-probability of a response under policy and reference, in nats, summed over its tokens.
//! - `A = lp - lref`, the log-ratio of a response; `A_c` the chosen one's, `A_r` the rejected one's.
//! - `S`: what a [`Divergence`] makes of `A`; with the reverse KL divergence `S = A`. Margin: `S_c - S_r`.
//! - `n_c`, `n_r`: the number of tokens. `ls` is log-sigmoid, `s` sigmoid, `b` is `beta`, `e` is `label_smoothing`.
//!
//! # Errors
//! [`Error::Option`](crate::Error::Option) for an option out of range, and libtorch's for shapes that do not fit.

mod absolute;
mod divergence;
mod margin;
mod per_token;
mod reference_free;
mod sft;
mod transport;
mod unpaired;

use tch::Tensor;

pub use self::absolute::{apo_down, apo_zero, bco_pair, nca_pair, sppo_hard};
pub use self::divergence::Divergence;
pub use self::margin::{conservative, discopop, exo_pair, hinge, robust, sigmoid};
pub use self::per_token::{ipo, sigmoid_norm};
pub use self::reference_free::{log_odds, orpo, simpo};
pub use self::sft::sft;
pub use self::transport::{aot, aot_unpaired};
pub use self::unpaired::{apo_zero_unpaired, kl_estimate, kto};
use crate::error::Result;

/// `-(1-e) ls(x) - e ls(-x)`.
fn smoothed(x: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let right = x.f_log_sigmoid()?;
    if label_smoothing == 0.0 {
        return Ok(right.f_neg()?);
    }
    let wrong = x.f_neg()?.f_log_sigmoid()?.f_mul_scalar(label_smoothing)?;
    Ok(right.f_mul_scalar(label_smoothing - 1.0)?.f_sub(&wrong)?)
}

/// `1 - s(x)`, without the cancellation.
fn one_minus_sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_neg()?.f_sigmoid()?)
}
