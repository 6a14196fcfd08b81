//! The key-value cache of incremental decoding.

use tch::{Device, Kind, Tensor};

use crate::batch::{Batch, Context};
use crate::error::{Error, Result};

/// Keys and values of every layer for a number of rows, in storage made once and grown in blocks.
///
/// A row's tokens stand from index 0 on, whatever the lengths of its neighbours, so nothing is padded on the left and a
/// row's positions do not depend on the batch. Several rows may begin with the same tokens, a prompt of which several
/// replies are drawn: it is held once ([`KvCache::hold`]), and each of these rows holds only what comes after it.
///
/// # Shapes
/// Per layer, keys and values `[R, H, C, D / H]` for R rows and room for C tokens, and `[1, H, P, D / H]` for a shared
/// beginning of P tokens.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    lengths: Vec<usize>,
    /// How many virtual tokens of a soft prompt each row holds before those that `lengths` counts.
    virtual_tokens: Vec<usize>,
    /// The text's tokens and the virtual tokens of each shared beginning.
    held: Vec<Option<(usize, usize)>>,
}

/// One layer's part.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
    /// For each row the shared beginning that it continues.
    begun: Vec<Option<usize>>,
    shared: Vec<Option<Shared>>,
}

/// What several rows begin with, `[1, H, P, D / H]`.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
    pub(crate) tokens: usize,
}

/// Tokens that several rows of a cache begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedId(usize);

/// The cache grows by a multiple of this many tokens.
const BLOCK: usize = 64;

impl LayerCache {
    pub(crate) fn new(keys: Tensor, values: Tensor, rows: usize) -> Self {
        Self { keys, values, begun: vec![None; rows], shared: Vec::new() }
    }

    /// The beginning that a row shares with others.
    pub(crate) fn shared(&self, row: usize) -> Option<&Shared> {
        self.shared.get((*self.begun.get(row)?)?)?.as_ref()
    }

    /// How many tokens a row does not hold itself.
    pub(crate) fn shared_tokens(&self, row: usize) -> usize {
        self.shared(row).map_or(0, |shared| shared.tokens)
    }

    /// Whether any row continues a shared beginning.
    pub(crate) fn has_shared(&self) -> bool {
        self.begun.iter().any(Option::is_some)
    }

    /// Applies a change to keys and values alike.
    fn replace(&mut self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
        (self.keys, self.values) = (change(&self.keys)?, change(&self.values)?);
        Ok(())
    }
}

impl KvCache {
    /// An empty cache for `rows` rows with room for `tokens` tokens each; more room is made when it is needed.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn new(shape: CacheShape, rows: usize, tokens: usize, device: Device) -> Result<Self> {
        let room = tokens.div_ceil(BLOCK).max(1) * BLOCK;
        let size = [rows as i64, shape.heads, room as i64, shape.head_size];
        let make = || Tensor::f_zeros(size, (shape.kind, device));
        let layers =
            (0..shape.layers).map(|_| Ok(LayerCache::new(make()?, make()?, rows))).collect::<Result<_>>()?;
        Ok(Self { layers, lengths: vec![0; rows], virtual_tokens: vec![0; rows], held: Vec::new() })
    }

    /// How many tokens each row holds, a shared beginning included. The virtual tokens of a soft prompt are held too, and
    /// not counted.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    fn check(&self, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        let there = self.lengths.len();
        match rows.into_iter().find(|&row| row >= there) {
            Some(row) => Err(Error::Batch(format!("cache row {row} asked for, it has {there}"))),
            None => Ok(()),
        }
    }

    /// Keeps only these rows, in this order: rows that have ended leave, and nothing more is computed for them.
    ///
    /// # Errors
    /// [`Error::Batch`] for a row that is not there.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.check(rows.iter().copied())?;
        let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        for layer in &mut self.layers {
            let index = Tensor::f_from_slice(&index)?.f_to_device(layer.keys.device())?;
            layer.replace(|held| Ok(held.f_index_select(0, &index)?))?;
            layer.begun = rows.iter().map(|&row| layer.begun[row]).collect();
        }
        self.virtual_tokens = rows.iter().map(|&row| self.virtual_tokens[row]).collect();
        self.lengths = rows.iter().map(|&row| self.lengths[row]).collect();
        Ok(())
    }

    /// Empties a row, for another text to take its place.
    ///
    /// # Errors
    /// [`Error::Batch`] for a row that is not there.
    pub fn clear(&mut self, row: usize) -> Result<()> {
        self.check([row])?;
        (self.lengths[row], self.virtual_tokens[row]) = (0, 0);
        for layer in &mut self.layers {
            layer.begun[row] = None;
        }
        Ok(())
    }

    /// Takes over, as a beginning that rows of this cache may share, what a row of another cache of the model holds.
    ///
    /// # Errors
    /// [`Error::Batch`] for a row that is not there, that is empty or that shares its own beginning, and for the cache of
    /// another model; libtorch's.
    pub fn hold(&mut self, other: &Self, row: usize) -> Result<SharedId> {
        other.check([row])?;
        let (length, virtual_tokens) = (other.lengths[row], other.virtual_tokens[row]);
        let tokens = length + virtual_tokens;
        let layers = self.layers.iter().zip(&other.layers);
        let same = layers.clone().all(|(own, other)| {
            let ([_, h, _, w], [_, g, _, v]) = (size(&own.keys), size(&other.keys));
            (h, w) == (g, v) && own.keys.kind() == other.keys.kind()
        });
        if !same || self.layers.len() != other.layers.len() {
            return Err(Error::Batch("a beginning from the cache of another model".to_owned()));
        }
        if length == 0 || other.layers.iter().any(|layer| layer.begun[row].is_some()) {
            let reason = "holds nothing, or shares its own beginning";
            return Err(Error::Batch(format!("cache row {row} {reason}: it cannot be a beginning")));
        }
        let part = |held: &Tensor| -> Result<Tensor> {
            Ok(held.f_narrow(0, row as i64, 1)?.f_narrow(2, 0, tokens as i64)?.f_contiguous()?)
        };
        let shared = layers
            .map(|(_, other)| Ok(Shared { keys: part(&other.keys)?, values: part(&other.values)?, tokens }))
            .collect::<Result<Vec<_>>>()?;
        let id = self.held.iter().position(Option::is_none).unwrap_or(self.held.len());
        for (layer, shared) in self.layers.iter_mut().zip(shared) {
            layer.shared.resize_with(layer.shared.len().max(id + 1), || None);
            layer.shared[id] = Some(shared);
        }
        self.held.resize(self.held.len().max(id + 1), None);
        self.held[id] = Some((length, virtual_tokens));
        Ok(SharedId(id))
    }

    /// Lets an empty row begin with what is shared.
    ///
    /// # Errors
    /// [`Error::Batch`] for a row that is not there or not empty, and a beginning that has been released.
    pub fn attach(&mut self, row: usize, shared: SharedId) -> Result<()> {
        self.check([row])?;
        let Some(Some((length, virtual_tokens))) = self.held.get(shared.0).copied() else {
            return Err(Error::Batch(format!("{shared:?} is not held")));
        };
        if self.lengths[row] > 0 {
            return Err(Error::Batch(format!("cache row {row} holds tokens; clear it first")));
        }
        (self.lengths[row], self.virtual_tokens[row]) = (length, virtual_tokens);
        for layer in &mut self.layers {
            layer.begun[row] = Some(shared.0);
        }
        Ok(())
    }

    /// Gives up a beginning.
    ///
    /// # Errors
    /// [`Error::Batch`] while a row begins with it.
    pub fn release(&mut self, shared: SharedId) -> Result<()> {
        let row =
            self.layers.iter().find_map(|layer| layer.begun.iter().position(|at| *at == Some(shared.0)));
        if let Some(row) = row {
            return Err(Error::Batch(format!("cache row {row} begins with {shared:?}; clear it first")));
        }
        for layer in &mut self.layers {
            if let Some(held) = layer.shared.get_mut(shared.0) {
                *held = None;
            }
        }
        if let Some(held) = self.held.get_mut(shared.0) {
            *held = None;
        }
        Ok(())
    }

    /// Copies rows as `(from, to)`, all at once: where beams go on from each other. Of rows that share their beginning
    /// only what comes after it is copied.
    ///
    /// # Errors
    /// [`Error::Batch`] for a row that is not there; libtorch's.
    pub fn copy(&mut self, rows: &[(usize, usize)]) -> Result<()> {
        self.check(rows.iter().flat_map(|&(from, to)| [from, to]))?;
        let rows: Vec<(usize, usize)> = rows.iter().copied().filter(|(from, to)| from != to).collect();
        let index = |part: fn(&(usize, usize)) -> usize| -> Vec<i64> {
            rows.iter().map(|row| part(row) as i64).collect()
        };
        let (from, to) = (index(|row| row.0), index(|row| row.1));
        for layer in self.layers.iter_mut().filter(|_| !rows.is_empty()) {
            let own = |row: usize| self.lengths[row] + self.virtual_tokens[row] - layer.shared_tokens(row);
            let longest = rows.iter().map(|&(from, _)| own(from)).max().unwrap_or(0) as i64;
            let device = layer.keys.device();
            let from = Tensor::f_from_slice(&from)?.f_to_device(device)?;
            let to = Tensor::f_from_slice(&to)?.f_to_device(device)?;
            for held in [&layer.keys, &layer.values] {
                let mut used = held.f_narrow(2, 0, longest)?;
                let _ = used.f_index_copy_(0, &to, &used.f_index_select(0, &from)?)?;
            }
            let begun: Vec<Option<usize>> = rows.iter().map(|&(from, _)| layer.begun[from]).collect();
            for (&(_, to), begun) in rows.iter().zip(begun) {
                layer.begun[to] = begun;
            }
        }
        let lengths: Vec<(usize, usize)> =
            rows.iter().map(|&(from, _)| (self.lengths[from], self.virtual_tokens[from])).collect();
        for (&(_, to), (length, virtual_tokens)) in rows.iter().zip(lengths) {
            (self.lengths[to], self.virtual_tokens[to]) = (length, virtual_tokens);
        }
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
            let elsewhere = self.layers.first().map_or(0, |layer| layer.shared_tokens(cached));
            room = room.max((before + row.past + row.len).saturating_sub(elsewhere));
        }
        for layer in &mut self.layers {
            let have = layer.keys.size4()?.2 as usize;
            if room > have {
                let more = (room - have).div_ceil(BLOCK) * BLOCK;
                layer.replace(|held| Ok(held.f_constant_pad_nd([0, 0, 0, more as i64])?))?;
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

fn size(tensor: &Tensor) -> [i64; 4] {
    tensor.size().try_into().unwrap_or_default()
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
