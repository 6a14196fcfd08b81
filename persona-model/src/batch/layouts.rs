//! Batches from padded and packed ids, and values padded again.

use tch::{Device, Kind, Tensor};

use super::{Batch, BatchBuilder, Limits};
use crate::error::{Error, Result};

impl Batch {
    /// The rows of padded ids `[B, T]`, on the left, the right, or both sides, as collators make them: where the mask
    /// `[B, T]` is 0 there is padding, whatever id stands there.
    ///
    /// # Errors
    /// [`Error::Batch`] for shapes that differ; as [`BatchBuilder::build`].
    pub fn from_padded(ids: &Tensor, attention_mask: &Tensor, limits: Limits) -> Result<Self> {
        let (shape, other) = (ids.size(), attention_mask.size());
        let &[_, width] = shape.as_slice() else {
            return Err(Error::Batch(format!("padded ids are [B, T], not {shape:?}")));
        };
        if shape != other {
            return Err(Error::Batch(format!("ids {shape:?} and their mask {other:?} differ in shape")));
        }
        let flat =
            |x: &Tensor| -> Result<Vec<i64>> { Ok(x.f_to_kind(Kind::Int64)?.f_reshape([-1])?.try_into()?) };
        let (values, seen) = (flat(ids)?, flat(attention_mask)?);
        let mut builder = BatchBuilder::default();
        let width = width.max(1) as usize;
        for (at, (row, seen)) in values.chunks(width).zip(seen.chunks(width)).enumerate() {
            let kept = row.iter().zip(seen).filter(|(_, seen)| **seen != 0);
            let row: Option<Vec<u32>> = kept.map(|(&id, _)| u32::try_from(id).ok()).collect();
            let row =
                row.ok_or_else(|| Error::Batch(format!("row {at} holds an id below 0 or beyond 32 bits")))?;
            builder.row(&row);
        }
        builder.build(limits, ids.device())
    }

    /// Several examples that were packed into one row: `lengths` says how many tokens each has. They do not see each
    /// other, and each begins at position 0.
    ///
    /// # Errors
    /// [`Error::Batch`] unless the lengths add up to the number of ids; as [`BatchBuilder::build`].
    pub fn from_packed(ids: &[u32], lengths: &[usize], limits: Limits, device: Device) -> Result<Self> {
        let mut builder = BatchBuilder::default();
        let mut rest = ids;
        for &length in lengths {
            let (example, others) = rest.split_at(length.min(rest.len()));
            builder.row(example);
            rest = others;
        }
        let sum = lengths.iter().fold(0_usize, |sum, &length| sum.saturating_add(length));
        if sum != ids.len() {
            return Err(Error::Batch(format!("lengths of {sum} tokens in all for {} packed ids", ids.len())));
        }
        builder.build(limits, device)
    }

    /// Values of the batch's tokens, `[N, ...]`, as `[B, T, ...]` with T the longest row; padding stands on the right and
    /// holds `fill`.
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`] when the values are not one a token.
    pub fn pad(&self, values: &Tensor, fill: f64) -> Result<Tensor> {
        let tokens = self.tokens() as i64;
        if values.size().first() != Some(&tokens) {
            return Err(Error::Batch(format!("values of shape {:?} for {tokens} tokens", values.size())));
        }
        let width = self.rows.iter().map(|row| row.len).max().unwrap_or(0) as i64;
        let places: Vec<i64> = self
            .rows
            .iter()
            .zip(0_i64..)
            .flat_map(|(row, at)| (0..row.len as i64).map(move |t| at * width + t))
            .collect();
        let mut shape = values.size();
        let places = Tensor::f_from_slice(&places)?.f_to_device(values.device())?;
        shape.splice(0..1, [self.rows.len() as i64 * width]);
        let padded = Tensor::f_full(shape.as_slice(), fill, (values.kind(), values.device()))?;
        let padded = padded.f_index_copy(0, &places, values)?;
        shape.splice(0..1, [self.rows.len() as i64, width]);
        Ok(padded.f_view(shape.as_slice())?)
    }
}
