//! The key-value cache of incremental decoding.

use tch::{Device, Kind, Tensor};

use crate::batch::{Batch, Context};
use crate::error::{Error, Result};

/// Keys and values of every layer for a number of rows, in storage made once and grown in blocks.
///
/// A row's tokens stand from index 0 on, whatever the lengths of its neighbours, so nothing is padded on the left and a
/// row's positions do not depend on the batch.
///
/// # Shapes
/// Per layer, keys and values `[R, H, C, D / H]` for R rows and room for C tokens.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    lengths: Vec<usize>,
    /// How many virtual tokens of a soft prompt each row holds before those that `lengths` counts.
    virtual_tokens: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

/// The cache grows by a multiple of this many tokens.
const BLOCK: usize = 64;

impl KvCache {
    /// An empty cache for `rows` rows with room for `tokens` tokens each; more room is made when it is needed.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn new(shape: CacheShape, rows: usize, tokens: usize, device: Device) -> Result<Self> {
        let room = tokens.div_ceil(BLOCK).max(1) * BLOCK;
        let size = [rows as i64, shape.heads, room as i64, shape.head_size];
        let make = || Tensor::f_zeros(size, (shape.kind, device));
        let layers = (0..shape.layers)
            .map(|_| Ok(LayerCache { keys: make()?, values: make()? }))
            .collect::<Result<_>>()?;
        Ok(Self { layers, lengths: vec![0; rows], virtual_tokens: vec![0; rows] })
    }

    /// How many tokens each row holds. The virtual tokens of a soft prompt are held too, and not counted.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Keeps only these rows, in this order: rows that have ended leave, and nothing more is computed for them.
    ///
    /// # Errors
    /// [`Error::Batch`] for a row that is not there.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        let lengths = rows.iter().map(|&row| self.lengths.get(row).copied()).collect::<Option<Vec<_>>>();
        let Some(lengths) = lengths else {
            return Err(Error::Batch(format!(
                "cache rows {rows:?} asked for, it has {}",
                self.lengths.len()
            )));
        };
        self.virtual_tokens = rows.iter().map(|&row| self.virtual_tokens[row]).collect();
        let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        for layer in &mut self.layers {
            let index = Tensor::f_from_slice(&index)?.f_to_device(layer.keys.device())?;
            layer.keys = layer.keys.f_index_select(0, &index)?;
            layer.values = layer.values.f_index_select(0, &index)?;
        }
        self.lengths = lengths;
        Ok(())
    }

    pub(crate) fn layer(&mut self, index: usize) -> Option<&mut LayerCache> {
        self.layers.get_mut(index)
    }

    /// How many virtual tokens a row holds.
    pub(crate) fn virtual_tokens(&self, row: usize) -> usize {
        self.virtual_tokens.get(row).copied().unwrap_or(0)
    }

    /// Checks that the batch continues this cache, and makes room for its tokens and for the virtual tokens before each
    /// row; none stand before rows beyond that list.
    pub(crate) fn prepare(&mut self, batch: &Batch, virtual_tokens: &[usize]) -> Result<()> {
        let mut seen = vec![false; self.lengths.len()];
        let mut room = 0;
        for (at, row) in batch.rows().iter().enumerate() {
            let Context::Cached(cached) = row.context else {
                return Err(Error::Batch(format!("row {at} has no cache row, but a cache was given")));
            };
            match self.lengths.get(cached) {
                Some(&length) if length == row.past => {}
                Some(&length) => {
                    return Err(Error::Batch(format!(
                        "row {at} continues {} tokens, its cache row {cached} holds {length}",
                        row.past
                    )));
                }
                None => {
                    return Err(Error::Batch(format!(
                        "row {at} asks for cache row {cached} of {}",
                        seen.len()
                    )));
                }
            }
            if std::mem::replace(&mut seen[cached], true) {
                return Err(Error::Batch(format!("cache row {cached} is continued twice")));
            }
            let before = virtual_tokens.get(at).copied().unwrap_or(0);
            self.virtual_tokens[cached] = before;
            room = room.max(before + row.past + row.len);
        }
        for layer in &mut self.layers {
            let have = layer.keys.size4()?.2 as usize;
            if room > have {
                let more = (room - have).div_ceil(BLOCK) * BLOCK;
                layer.keys = layer.keys.f_constant_pad_nd([0, 0, 0, more as i64])?;
                layer.values = layer.values.f_constant_pad_nd([0, 0, 0, more as i64])?;
            }
        }
        Ok(())
    }

    /// Counts the batch's tokens as held, once every layer has stored them.
    pub(crate) fn advance(&mut self, batch: &Batch) {
        for row in batch.rows() {
            if let Context::Cached(cached) = row.context {
                self.lengths[cached] = row.past + row.len;
            }
        }
    }
}

/// What a model's cache looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Number of layers.
    pub layers: usize,
    /// Number of key and value heads H.
    pub heads: i64,
    /// Width of one head.
    pub head_size: i64,
    /// The kind in which keys and values are held.
    pub kind: Kind,
}
