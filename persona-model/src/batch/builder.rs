//! Rows, collected and checked.

use tch::{Device, Tensor};

use super::{Batch, Context, Limits, Row};
use crate::error::{Error, Result};

/// Collects the rows of a [`Batch`].
#[derive(Debug, Default)]
pub struct BatchBuilder {
    ids: Vec<i64>,
    rows: Vec<Row>,
}

impl BatchBuilder {
    /// Adds a row that stands alone, and returns its index.
    pub fn row(&mut self, ids: &[u32]) -> usize {
        self.push(ids, Context::None, 0)
    }

    /// Adds a row that continues an earlier row of this batch, which may continue another one, and returns its index.
    pub fn continuation(&mut self, of: usize, ids: &[u32]) -> usize {
        let past = self.rows.get(of).map_or(0, |row| row.past + row.len);
        self.push(ids, Context::Row(of), past)
    }

    /// Adds a row that continues what a cache holds (`past` tokens) of one of its rows, and returns its index.
    pub fn cached(&mut self, cache_row: usize, past: usize, ids: &[u32]) -> usize {
        self.push(ids, Context::Cached(cache_row), past)
    }

    /// The index that the first token of the next row will have.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn push(&mut self, ids: &[u32], context: Context, past: usize) -> usize {
        let start = self.ids.len();
        self.ids.extend(ids.iter().map(|&id| i64::from(id)));
        self.rows.push(Row { start, len: ids.len(), context, past });
        self.rows.len() - 1
    }

    /// Checks the rows and puts them on a device.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] and [`Error::TooLong`] with the row; [`Error::Batch`] for no rows, an empty row, and a
    /// continuation of a row that is not there or that continues a cache.
    pub fn build(self, limits: Limits, device: Device) -> Result<Batch> {
        if self.rows.is_empty() {
            return Err(Error::Batch("no rows".to_owned()));
        }
        for (at, row) in self.rows.iter().enumerate() {
            if row.len == 0 {
                return Err(Error::Batch(format!("row {at} has no tokens")));
            }
            for &id in &self.ids[row.start..row.start + row.len] {
                if id as usize >= limits.vocabulary {
                    return Err(Error::Vocabulary { id: id as u32, row: at, vocabulary: limits.vocabulary });
                }
            }
            if let Context::Row(of) = row.context
                && !self.rows.get(of).is_some_and(|row| of < at && !matches!(row.context, Context::Cached(_)))
            {
                return Err(Error::Batch(format!(
                    "row {at} continues row {of}, which must be an earlier row that continues no cache"
                )));
            }
        }
        let ids = Tensor::f_from_slice(&self.ids)?.f_to_device(device)?;
        Batch::lay_out(ids, self.rows, limits.positions, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { vocabulary: 10, positions: 6 };

    #[test]
    fn rows_and_continuations_get_their_positions() {
        let mut builder = BatchBuilder::default();
        let prompt = builder.row(&[1, 2, 3]);
        builder.continuation(prompt, &[4, 5]);
        builder.cached(0, 4, &[6]);
        let batch = builder.build(LIMITS, Device::Cpu).unwrap();
        assert_eq!(Vec::<i64>::try_from(&batch.positions).unwrap(), [0, 1, 2, 3, 4, 4]);
        assert_eq!((batch.tokens(), batch.longest()), (6, 5));
    }

    #[test]
    fn bad_rows_are_named() {
        let build = |rows: &[&[u32]]| Batch::rows_of(rows, LIMITS, Device::Cpu).unwrap_err().to_string();
        assert!(build(&[&[1], &[1, 10]]).contains("token id 10 in row 1"));
        assert!(build(&[&[1; 7]]).contains("7 tokens, the model has 6"));
        assert!(build(&[&[1], &[]]).contains("row 1 has no tokens"));
        assert!(build(&[]).contains("no rows"));
        let mut builder = BatchBuilder::default();
        builder.continuation(3, &[1]);
        assert!(builder.build(LIMITS, Device::Cpu).unwrap_err().to_string().contains("continues row 3"));
    }
}
