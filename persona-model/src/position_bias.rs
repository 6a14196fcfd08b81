//! The relative position bias of T5 (Raffel et al. 2020): a learned number per head for each bucket of distances.

use tch::{Device, Kind, Tensor};

use crate::batch::{Batch, Row};
use crate::error::Result;

/// The table of a stack, which all its layers share.
///
/// Near distances have a bucket each, far ones share buckets that widen with their logarithm, and all from the largest
/// distance on share the last. A bidirectional table has half of its buckets for keys after the query; in any other
/// table those keys are not seen.
pub(crate) struct RelativeBias {
    /// `[buckets, H]`.
    table: Tensor,
    /// The bucket of each distance up to the largest, in one direction.
    buckets: Tensor,
    /// The buckets of one direction, where there are two.
    after: Option<i64>,
}

/// The shape of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buckets {
    /// Buckets of one direction, at least 2.
    pub(crate) one_way: i64,
    /// The distance from which on all share a bucket: more than half of `one_way`.
    pub(crate) max_distance: i64,
    pub(crate) bidirectional: bool,
}

impl Buckets {
    /// The bucket of each distance from 0 to `longest`, without direction: with b buckets, distance d has bucket d below
    /// b / 2, and `b / 2 + log(d / (b / 2)) / log(max_distance / (b / 2)) b / 2` after it, rounded down and below b.
    fn of_distances(self, longest: i64) -> Result<Tensor> {
        let exact = self.one_way / 2;
        let near = Tensor::f_arange(exact.min(longest + 1), (Kind::Int64, Device::Cpu))?;
        if longest < exact {
            return Ok(near);
        }
        // In float32 and in this order, as the weights were trained: another rounding moves a distance between buckets.
        let far = Tensor::f_arange_start(exact, longest + 1, (Kind::Float, Device::Cpu))?;
        let far = far.f_div_scalar(exact)?.f_log()?;
        let far = far.f_div_scalar((self.max_distance as f64 / exact as f64).ln())?;
        let far = far.f_mul_scalar(self.one_way - exact)?.f_to_kind(Kind::Int64)?;
        let far = far.f_add_scalar(exact)?.f_clamp_max(self.one_way - 1)?;
        Ok(Tensor::f_cat(&[near, far], 0)?)
    }
}

impl RelativeBias {
    /// With a table `[buckets, H]`, for rows of up to `positions` tokens.
    pub(crate) fn new(table: Tensor, shape: Buckets, positions: usize) -> Result<Self> {
        let longest = shape.max_distance.min(positions as i64);
        let buckets = shape.of_distances(longest)?.f_to_device(table.device())?;
        Ok(Self { table, buckets, after: shape.bidirectional.then_some(shape.one_way) })
    }

    /// The bias of every row of a batch, held in `kind`.
    pub(crate) fn of_batch(&self, batch: &Batch, kind: Kind) -> Result<PositionBias> {
        let (device, longest) = (batch.device(), batch.longest() as i64);
        if batch.is_step() {
            let keys = Tensor::f_arange(longest, (Kind::Int64, device))?;
            let values = self.at(&keys.f_sub(&batch.positions.f_unsqueeze(1)?)?.f_view(-1)?)?;
            let values = values.f_view([-1, longest, values.size2()?.1])?.f_transpose(1, 2)?;
            return Ok(PositionBias {
                values: values.f_unsqueeze(2)?.f_to_kind(kind)?.f_contiguous()?,
                first: 0,
            });
        }
        let first = batch.rows().iter().map(|row| row.past).min().unwrap_or(0);
        // One number for each offset of key and query; the windows on them, from the last query to the first, are the
        // queries' rows.
        let queries = longest - first as i64;
        let offsets = Tensor::f_arange_start(1 - longest, queries, (Kind::Int64, device))?;
        let windows = self.at(&offsets)?.f_tr()?.f_to_kind(kind)?.f_unfold(1, longest, 1)?;
        Ok(PositionBias { values: windows.f_flip([1])?.f_unsqueeze(0)?, first })
    }

    /// The numbers `[U, H]` for keys that stand this many places after their queries, `[U]`.
    fn at(&self, offsets: &Tensor) -> Result<Tensor> {
        let after = offsets.f_gt(0)?;
        let distances = offsets.f_abs()?.f_clamp_max(self.buckets.numel() as i64 - 1)?;
        let buckets = self.buckets.f_index_select(0, &distances)?;
        let buckets = match self.after {
            Some(start) => buckets.f_add(&after.f_to_kind(Kind::Int64)?.f_mul_scalar(start)?)?,
            None => buckets,
        };
        let values = Tensor::f_embedding(&self.table, &buckets, -1, false, false)?.f_to_kind(Kind::Float)?;
        if self.after.is_some() {
            return Ok(values);
        }
        Ok(values.f_masked_fill(&after.f_unsqueeze(1)?, f64::NEG_INFINITY)?)
    }
}

/// What is added to the products of queries and keys in every layer of a stack, for one batch.
pub(crate) struct PositionBias {
    /// `[1, H, Q, K]` for the longest row; for a step of decoding `[R, H, 1, K]`, a line a row.
    values: Tensor,
    /// The position of the first query.
    first: usize,
}

impl PositionBias {
    /// A row's part, `[1, H, len, past + len]`: the bias depends on the distance alone.
    pub(crate) fn of_row(&self, row: &Row) -> Result<Tensor> {
        let rows = self.values.f_narrow(2, (row.past - self.first) as i64, row.len as i64)?;
        Ok(rows.f_narrow(3, 0, (row.past + row.len) as i64)?)
    }

    /// All rows of a step of decoding, `[R, H, 1, K]`.
    pub(crate) fn of_steps(&self) -> Tensor {
        self.values.shallow_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Limits};

    const LIMITS: Limits = Limits { vocabulary: 9, positions: 400 };

    /// A table whose numbers are the buckets, for one head.
    fn bias(bidirectional: bool) -> RelativeBias {
        let one_way = if bidirectional { 16 } else { 32 };
        let table = Tensor::arange(32, (Kind::Float, Device::Cpu)).unsqueeze(1);
        RelativeBias::new(table, Buckets { one_way, max_distance: 128, bidirectional }, 400).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<Vec<f64>> {
        Vec::<Vec<f64>>::try_from(tensor.squeeze_dim(0).squeeze_dim(0)).unwrap()
    }

    #[test]
    fn near_distances_have_their_own_buckets_and_far_ones_share() {
        let bidirectional = bias(true);
        let of =
            |offset: i64| bidirectional.at(&Tensor::from_slice(&[offset])).unwrap().double_value(&[0, 0]);
        // 8 near buckets, then from 8 on two for each doubling, the last from 91 on.
        let before = [(0, 0.0), (-7, 7.0), (-8, 8.0), (-11, 8.0), (-12, 9.0), (-16, 10.0), (-63, 13.0)];
        for (offset, bucket) in
            before.into_iter().chain([(-90, 14.0), (-91, 15.0), (-128, 15.0), (-399, 15.0)])
        {
            assert_eq!(of(offset), bucket, "{offset}");
            if offset < 0 {
                assert_eq!(of(-offset), 16.0 + bucket, "{}", -offset);
            }
        }
        let causal = bias(false);
        let of = |offset: i64| causal.at(&Tensor::from_slice(&[offset])).unwrap().double_value(&[0, 0]);
        assert_eq!([of(0), of(-15), of(-16), of(-128), of(-300)], [0.0, 15.0, 16.0, 31.0, 31.0]);
        assert_eq!(of(1), f64::NEG_INFINITY);
    }

    #[test]
    fn rows_and_steps_are_parts_of_one_square() {
        let batch = Batch::rows_of(&[&[1; 3], &[1; 2]], LIMITS, Device::Cpu).unwrap();
        let square = bias(true).of_batch(&batch, Kind::Float).unwrap();
        let rows = numbers(&square.of_row(&batch.rows()[0]).unwrap());
        assert_eq!(rows, [[0.0, 17.0, 18.0], [1.0, 0.0, 17.0], [2.0, 1.0, 0.0]]);
        assert_eq!(numbers(&square.of_row(&batch.rows()[1]).unwrap()), [[0.0, 17.0], [1.0, 0.0]]);

        let cached = |rows: &[(usize, &[u32])]| {
            let mut builder = BatchBuilder::default();
            for (at, (past, ids)) in rows.iter().enumerate() {
                builder.cached(at, *past, ids);
            }
            builder.build(LIMITS, Device::Cpu).unwrap()
        };
        let no = f64::NEG_INFINITY;
        let chunk = cached(&[(2, &[1, 1]), (1, &[1])]);
        let square = bias(false).of_batch(&chunk, Kind::Float).unwrap();
        assert_eq!(
            numbers(&square.of_row(&chunk.rows()[0]).unwrap()),
            [[2.0, 1.0, 0.0, no], [3.0, 2.0, 1.0, 0.0]]
        );
        assert_eq!(numbers(&square.of_row(&chunk.rows()[1]).unwrap()), [[1.0, 0.0]]);
        let steps = bias(false).of_batch(&cached(&[(2, &[1]), (1, &[1])]), Kind::Float).unwrap().of_steps();
        assert_eq!(steps.size(), [2, 1, 1, 3]);
        assert_eq!(Vec::<f64>::try_from(steps.view(-1)).unwrap(), [2.0, 1.0, 0.0, 1.0, 0.0, no]);
    }
}
