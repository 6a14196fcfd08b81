//! Log-probabilities as the losses take them.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// Log-probabilities of the tokens of B responses.
///
/// # Shapes
/// `log_probs` and `mask` are `[B, T]`; the mask is 1 at tokens of the response (its end included) and 0 at prompt and
/// padding.
#[derive(Debug)]
pub struct TokenLogProbs {
    log_probs: Tensor,
    mask: Tensor,
}

impl TokenLogProbs {
    /// Takes log-probabilities and their mask.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both are `[B, T]`.
    pub fn new(log_probs: Tensor, mask: Tensor) -> Result<Self> {
        if log_probs.dim() != 2 {
            let expected = vec![-1, -1];
            return Err(Error::Shape { what: "token log-probabilities", found: log_probs.size(), expected });
        }
        same_shape("mask", &mask, &log_probs)?;
        Ok(Self { log_probs: log_probs.f_to_kind(Kind::Float)?, mask: mask.f_to_kind(Kind::Float)? })
    }

    /// From logits: `logits [B, T, V]` at the positions that predict `ids [B, T]`, already shifted by one, in float32
    /// whatever the logits are held in.
    ///
    /// # Errors
    /// [`Error::Shape`], and libtorch's for ids outside the vocabulary.
    pub fn from_logits(logits: &Tensor, ids: &Tensor, mask: Tensor) -> Result<Self> {
        let expected = [ids.size(), vec![-1]].concat();
        if logits.dim() != 3 || logits.size()[..2] != ids.size()[..] {
            return Err(Error::Shape { what: "logits", found: logits.size(), expected });
        }
        let logits = logits.f_to_kind(Kind::Float)?;
        let picked = logits.f_gather(-1, &ids.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
        Self::new(picked.f_sub(&logits.f_logsumexp([-1].as_slice(), false)?)?, mask)
    }

    /// The log-probability of each response, summed over its tokens: `[B]`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn sums(&self) -> Result<Tensor> {
        // Not a product: what stands at masked positions may be infinite.
        let kept = self.log_probs.f_where_self(&self.mask.f_gt(0.5)?, &self.log_probs.f_zeros_like()?)?;
        Ok(kept.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float)?)
    }

    /// The number of tokens of each response: `[B]`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn lengths(&self) -> Result<Tensor> {
        Ok(self.mask.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float)?)
    }
}

/// Summed log-probabilities of chosen and rejected responses under one model, in nats.
///
/// # Shapes
/// Both `[B]`, the i-th of each belonging to the i-th pair.
#[derive(Debug)]
pub struct PairLogProbs {
    pub(crate) chosen: Tensor,
    pub(crate) rejected: Tensor,
}

impl PairLogProbs {
    /// From sums `[B]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both are vectors of one length.
    pub fn from_sums(chosen: Tensor, rejected: Tensor) -> Result<Self> {
        if chosen.dim() != 1 {
            return Err(Error::Shape {
                what: "chosen log-probabilities",
                found: chosen.size(),
                expected: vec![-1],
            });
        }
        same_shape("rejected log-probabilities", &rejected, &chosen)?;
        Ok(Self { chosen: chosen.f_to_kind(Kind::Float)?, rejected: rejected.f_to_kind(Kind::Float)? })
    }

    /// From tokens, summed over each response.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many chosen as rejected responses.
    pub fn from_tokens(chosen: &TokenLogProbs, rejected: &TokenLogProbs) -> Result<Self> {
        Self::from_sums(chosen.sums()?, rejected.sums()?)
    }

    /// The number of pairs B.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.chosen.numel()
    }

    /// The chosen responses' sums, `[B]`.
    pub fn chosen(&self) -> &Tensor {
        &self.chosen
    }

    /// The rejected responses' sums, `[B]`.
    pub fn rejected(&self) -> &Tensor {
        &self.rejected
    }
}

pub(crate) fn same_shape(what: &'static str, found: &Tensor, expected: &Tensor) -> Result<()> {
    if found.size() == expected.size() {
        return Ok(());
    }
    Err(Error::Shape { what, found: found.size(), expected: expected.size() })
}
