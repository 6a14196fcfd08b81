//! What training, scoring and decoding ask of a causal language model.

use std::path::Path;

use tch::{Device, Tensor};

use crate::batch::{Batch, Limits};
use crate::cache::{CacheShape, KvCache};
use crate::device::Precision;
use crate::error::Result;
use crate::parameters::Parameters;

/// A causal language model: hidden states first, the head only where somebody asks for it.
pub trait CausalLm {
    /// The vocabulary and the positions.
    fn limits(&self) -> Limits;

    /// The parameters.
    fn parameters(&self) -> &Parameters;

    /// The parameters, to write to.
    fn parameters_mut(&mut self) -> &mut Parameters;

    /// What a cache for this model looks like.
    fn cache_shape(&self) -> CacheShape;

    /// The last hidden states `[N, D]` in float32 of the batch's N tokens. With a cache, rows continue what it holds and
    /// are added to it. `train` switches dropout on, drawn from libtorch's generator: seed it first.
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`](crate::Error::Batch) where batch and cache do not belong together.
    fn hidden(&self, batch: &Batch, cache: Option<&mut KvCache>, train: bool) -> Result<Tensor>;

    /// The logits `[M, V]` in float32 at M hidden states `[M, D]`.
    ///
    /// # Errors
    /// libtorch's.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// Writes the model in the Hugging Face layout: `config.json` and `model.safetensors`, each whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), disk full above all; files that were there before stay.
    fn save(&self, folder: &Path) -> Result<()>;

    /// The kind of number in which products are computed.
    fn precision(&self) -> Precision;

    /// Chooses the kind of number in which products are computed from now on.
    fn set_precision(&mut self, precision: Precision);

    /// Whether a forward pass in training draws from libtorch's generator.
    fn has_dropout(&self) -> bool;

    /// The device of the parameters.
    fn device(&self) -> Device {
        self.parameters().device()
    }

    /// An empty cache for `rows` rows with room for `tokens` tokens each.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    fn cache(&self, rows: usize, tokens: usize) -> Result<KvCache> {
        KvCache::new(self.cache_shape(), rows, tokens, self.device())
    }
}
