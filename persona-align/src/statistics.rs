//! What WPO and some metrics read of a token's whole distribution.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::log_probs::pad;

/// Numbers about the distribution that predicts each token. They have no graph, and cost some passes over the logits.
///
/// # Shapes
/// All `[B, T]`, or `[N]` before [`ragged`](Self::ragged).
#[derive(Debug)]
pub struct TokenStatistics {
    log_sum_sq_probs: Tensor,
    entropy: Tensor,
    mean_logits: Tensor,
    top1: Tensor,
}

/// Logits that are looked at together: 64 MiB in float32.
const PART: i64 = 1 << 24;

impl TokenStatistics {
    /// From logits `[..., V]` at the positions that predict `ids [...]`, in float32 whatever the logits are held in.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the shapes agree.
    pub fn from_logits(logits: &Tensor, ids: &Tensor) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let (shape, size) = (ids.size(), logits.size());
        let vocabulary = size.last().copied().unwrap_or(0);
        if size.len() != shape.len() + 1 || !size.starts_with(&shape) || vocabulary == 0 {
            return Err(Error::Shape { what: "logits", found: size, expected: [shape, vec![-1]].concat() });
        }
        let logits = logits.f_detach()?.f_reshape([-1, vocabulary].as_slice())?;
        let rows = logits.size()[0];
        let mut parts: [Vec<Tensor>; 4] = Default::default();
        let mut start = 0;
        // Once for no rows too, so that there is something to join.
        while start < rows || parts[0].is_empty() {
            let len = (PART / vocabulary).clamp(1, (rows - start).max(1)).min(rows - start);
            let part = logits.f_narrow(0, start, len)?.f_to_kind(Kind::Float)?;
            let over = [-1i64];
            let log_probs = part.f_log_softmax(-1, Kind::Float)?;
            parts[0].push(log_probs.f_mul_scalar(2.0)?.f_logsumexp(over.as_slice(), false)?);
            let entropy = log_probs.f_exp()?.f_special_entr()?;
            parts[1].push(entropy.f_sum_dim_intlist(over.as_slice(), false, Kind::Float)?);
            parts[2].push(part.f_mean_dim(over.as_slice(), false, Kind::Float)?);
            parts[3].push(part.f_argmax(-1, false)?);
            start += len;
        }
        let join =
            |parts: &[Tensor]| -> Result<Tensor> { Ok(Tensor::f_cat(parts, 0)?.f_view(shape.as_slice())?) };
        Ok(Self {
            log_sum_sq_probs: join(&parts[0])?,
            entropy: join(&parts[1])?,
            mean_logits: join(&parts[2])?,
            top1: join(&parts[3])?.f_eq_tensor(ids)?.f_to_kind(Kind::Float)?,
        })
    }

    /// Statistics `[N]` of tokens without padding, response after response of `lens` tokens each, as `[B, T]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `lens` add up to N.
    pub fn ragged(&self, lens: &[usize]) -> Result<Self> {
        self.map(&|values: &Tensor| pad("token statistics", values, lens))
    }

    pub(crate) fn map<E>(&self, change: &impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Self, E> {
        Ok(Self {
            log_sum_sq_probs: change(&self.log_sum_sq_probs)?,
            entropy: change(&self.entropy)?,
            mean_logits: change(&self.mean_logits)?,
            top1: change(&self.top1)?,
        })
    }

    pub(crate) fn share(&self) -> Self {
        Self {
            log_sum_sq_probs: self.log_sum_sq_probs.shallow_clone(),
            entropy: self.entropy.shallow_clone(),
            mean_logits: self.mean_logits.shallow_clone(),
            top1: self.top1.shallow_clone(),
        }
    }

    /// `ln sum_v p(v)^2`: the expected probability of a drawn token, as a logarithm.
    pub fn log_sum_sq_probs(&self) -> &Tensor {
        &self.log_sum_sq_probs
    }

    /// The entropy in nats.
    pub fn entropy(&self) -> &Tensor {
        &self.entropy
    }

    /// The mean over the vocabulary of the logits.
    pub fn mean_logits(&self) -> &Tensor {
        &self.mean_logits
    }

    /// 1 where the token is the most probable one.
    pub fn top1(&self) -> &Tensor {
        &self.top1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_distributions() {
        // Uniform over 4; all on the first; a half each on the first two, the others impossible.
        let hole = f32::NEG_INFINITY;
        let logits = Tensor::from_slice(&[1.0f32, 1.0, 1.0, 1.0, 90.0, 0.0, 0.0, 0.0, 2.0, 2.0, hole, hole])
            .view([3, 4]);
        let ids = Tensor::from_slice(&[2i64, 0, 3]);
        let found = TokenStatistics::from_logits(&logits, &ids).unwrap();
        let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor).unwrap();
        let ln = f64::ln;
        approx::assert_relative_eq!(values(found.entropy())[..], [ln(4.0), 0.0, ln(2.0)], epsilon = 1e-6);
        approx::assert_relative_eq!(
            values(found.log_sum_sq_probs())[..],
            [-ln(4.0), 0.0, -ln(2.0)],
            epsilon = 1e-6
        );
        assert_eq!(values(found.mean_logits())[..2], [1.0, 22.5]);
        assert_eq!(values(found.top1()), [0.0, 1.0, 0.0]);
        let padded = found.ragged(&[2, 1]).unwrap();
        approx::assert_relative_eq!(padded.entropy().double_value(&[1, 0]), ln(2.0), epsilon = 1e-6);
        assert!(found.ragged(&[2, 2]).is_err());
        assert!(TokenStatistics::from_logits(&logits, &ids.view([3, 1])).is_err());
    }
}
