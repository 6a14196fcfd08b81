//! The likelihood of the chosen responses themselves.

use tch::Tensor;

use crate::error::Result;

/// The negative log-likelihood of the chosen responses as a mean over all their tokens, TRL's `sft`; with DPO it is iterative RPO
/// (Pang et al. 2024, there divided by each response's length). Each pair's share is `-lp_c / tokens_per_pair`, so that
/// the mean over pairs is the mean over tokens. `tokens_per_pair` is the mean length of the chosen responses of the step.
///
/// # Errors
/// See [the module](crate::losses).
pub fn sft(chosen: &Tensor, tokens_per_pair: f64) -> Result<Tensor> {
    crate::options::positive("tokens_per_pair", tokens_per_pair)?;
    Ok(chosen.f_div_scalar(-tokens_per_pair)?)
}
