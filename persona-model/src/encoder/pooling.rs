//! From the hidden states of tokens to one vector a row.

use tch::{Kind, Tensor};

use crate::batch::Batch;
use crate::error::{Error, Result};

/// How the hidden states of a row become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens, special tokens included (sentence-transformers' `mean_tokens`).
    Mean,
    /// The first token's (`cls_token`).
    Cls,
    /// The highest value of each feature (`max_tokens`).
    Max,
    /// The sum over all tokens divided by the square root of their number (`mean_sqrt_len_tokens`).
    MeanSqrtLength,
}

impl Pooling {
    /// One vector for each of the batch's B rows: `hidden [N, D]`, result `[B, D]`.
    ///
    /// # Errors
    /// [`Error::Batch`] when `hidden` does not have one row a token; libtorch's.
    pub fn of(self, hidden: &Tensor, batch: &Batch) -> Result<Tensor> {
        let tokens = hidden.size2()?.0;
        if tokens != batch.tokens() as i64 {
            let reason = format!("hidden states of {tokens} tokens for a batch of {}", batch.tokens());
            return Err(Error::Batch(reason));
        }
        let index = |values: Vec<i64>| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(&values)?.f_to_device(hidden.device())?)
        };
        let (reduction, start) = match self {
            Self::Mean => ("mean", 0.0),
            Self::Max => ("max", f64::NEG_INFINITY),
            Self::MeanSqrtLength => ("sum", 0.0),
            Self::Cls => return Ok(hidden.f_index_select(0, &batch.starts()?)?),
        };
        let lens = index(batch.rows().iter().map(|row| row.len as i64).collect())?;
        let hidden = hidden.f_contiguous()?;
        let none = None::<&Tensor>;
        let pooled = Tensor::f_segment_reduce(&hidden, reduction, Some(&lens), none, none, 0, false, start)?;
        if self == Self::MeanSqrtLength {
            return Ok(pooled.f_div(&lens.f_unsqueeze(-1)?.f_to_kind(hidden.kind())?.f_sqrt()?)?);
        }
        Ok(pooled)
    }
}

/// Vectors `[B, D]` divided by their lengths, which count as at least 1e-12.
///
/// # Errors
/// libtorch's.
pub fn unit_length(vectors: &Tensor) -> Result<Tensor> {
    let lengths = vectors.f_norm_scalaropt_dim(2.0, [-1].as_slice(), true)?.f_clamp_min(1e-12)?;
    Ok(vectors.f_div(&lengths)?.f_to_kind(Kind::Float)?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::batch::Limits;

    fn batch() -> Batch {
        let limits = Limits { vocabulary: 9, positions: 9 };
        Batch::rows_of(&[&[1, 2], &[3], &[4, 5, 6]], limits, Device::Cpu).unwrap()
    }

    #[test]
    fn rows_are_pooled_apart() {
        let hidden = Tensor::from_slice2(&[[1., -2.], [3., -4.], [5., 6.], [7., 8.], [-9., 1.], [2., 3.]]);
        let _ = hidden.shallow_clone().set_requires_grad(true);
        let values = |pooling: Pooling| {
            Vec::<f64>::try_from(pooling.of(&hidden, &batch()).unwrap().detach().view(-1)).unwrap()
        };
        assert_eq!(values(Pooling::Mean), [2., -3., 5., 6., 0., 4.]);
        assert_eq!(values(Pooling::Cls), [1., -2., 5., 6., 7., 8.]);
        assert_eq!(values(Pooling::Max), [3., -2., 5., 6., 7., 8.]);
        let root = values(Pooling::MeanSqrtLength);
        let expected = [4. / 2f64.sqrt(), -6. / 2f64.sqrt(), 5., 6., 0., 12. / 3f64.sqrt()];
        assert!(root.iter().zip(expected).all(|(value, expected)| (value - expected).abs() < 1e-12));
        Pooling::Mean.of(&hidden, &batch()).unwrap().sum(Kind::Double).backward();
        let gradient = Vec::<f64>::try_from(hidden.grad().select(1, 0)).unwrap();
        assert_eq!(gradient, [0.5, 0.5, 1., 1. / 3., 1. / 3., 1. / 3.]);
        let short = hidden.detach().narrow(0, 0, 5);
        assert!(Pooling::Max.of(&short, &batch()).unwrap_err().to_string().contains("5 tokens"));
    }

    #[test]
    fn zero_vectors_stay_zero() {
        let unit = unit_length(&Tensor::from_slice2(&[[3.0f32, 4.0], [0.0, 0.0]])).unwrap();
        assert_eq!(Vec::<f32>::try_from(unit.view(-1)).unwrap(), [0.6, 0.8, 0.0, 0.0]);
    }
}
