//! What training, scoring and decoding ask of a causal language model.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::batch::{Batch, Limits};
use crate::cache::{CacheShape, KvCache};
use crate::config::{self, OtherKeys};
use crate::error::Result;
use crate::gpt2::Gpt2;
use crate::llama::Llama;
use crate::model::Model;
use crate::quantized::LoadOptions;
use crate::resize::Resize;
use crate::weights::LoadReport;

/// A causal language model: hidden states first, the head only where somebody asks for it.
pub trait CausalLm: Model {
    /// The vocabulary, and the positions that the active adapter's virtual tokens leave.
    fn limits(&self) -> Limits;

    /// What a cache for this model looks like.
    fn cache_shape(&self) -> CacheShape;

    /// The last hidden states `[N, D]` in float32 of the batch's N tokens. With a cache, rows continue what it holds and
    /// are added to it. The virtual tokens of a soft prompt are computed before a row without a context and before one
    /// that starts its cache, which then holds them; N, `past` and the cache's lengths count the text alone. `train` switches dropout on, drawn from libtorch's generator: seed it first.
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`](crate::Error::Batch) where batch and cache do not belong together, and where rows are
    /// to have the own modules of different adapters; [`Error::TooLong`](crate::Error::TooLong) for a row that virtual
    /// tokens leave no room for.
    fn hidden(&self, batch: &Batch, cache: Option<&mut KvCache>, train: bool) -> Result<Tensor> {
        self.hidden_at(batch, None, cache, train)
    }

    /// As [`hidden`](Self::hidden), of the tokens at some of the batch's places alone: `at [M]`, integers, gives `[M, D]`.
    /// Of the others the last layer computes keys and values only, which scores and prompts of decoding save by.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden); libtorch's for a place that is not there.
    fn hidden_at(
        &self,
        batch: &Batch,
        at: Option<&Tensor>,
        cache: Option<&mut KvCache>,
        train: bool,
    ) -> Result<Tensor>;

    /// The logits `[M, V]` in float32 at M hidden states `[M, D]`, by the active adapter's own head where it has one.
    ///
    /// # Errors
    /// libtorch's.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// Gives the embeddings, and the head where it is not tied to them, a row for each of `vocabulary` tokens. Adapters
    /// stay; their own embeddings are resized likewise. For the time of the call there is room for two models. Parameters
    /// are new tensors afterwards, without gradients: do this before training begins.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for another direction than `how` says, for giving up a token that the
    /// configuration names, and for a size that is no vocabulary; libtorch's. The model is then as it was.
    fn resize_embeddings(&mut self, vocabulary: usize, how: Resize) -> Result<()>;

    /// An empty cache for `rows` rows with room for `tokens` tokens each.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    fn cache(&self, rows: usize, tokens: usize) -> Result<KvCache> {
        KvCache::new(self.cache_shape(), rows, tokens, self.device())
    }
}

/// Loads the causal language model of a folder in the Hugging Face layout, whichever it is: `model_type` in its
/// `config.json` says so. Values are cast to `kind`; loading is strict.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for an architecture that this crate does not have, and those of
/// [`load`](crate::load).
pub fn load_causal_lm(folder: &Path, device: Device, kind: Kind) -> Result<(Box<dyn CausalLm>, LoadReport)> {
    load_causal_lm_with(folder, device, kind.into())
}

/// As [`load_causal_lm`], with the linear layers of the blocks in NF4 where the options say so.
///
/// # Errors
/// As [`load_causal_lm`], and [`Error::Quantized`](crate::Error::Quantized) for weights that are not finite.
pub fn load_causal_lm_with(
    folder: &Path,
    device: Device,
    options: LoadOptions,
) -> Result<(Box<dyn CausalLm>, LoadReport)> {
    let keys: OtherKeys = config::read(folder)?;
    match keys.get("model_type").and_then(|kind| kind.as_str()) {
        Some("gpt2") => boxed(Gpt2::load_with(folder, device, options)?),
        Some("llama") => boxed(Llama::load_with(folder, device, options)?),
        other => {
            Err(config::unknown_model_type(other, "the causal language models here are `gpt2` and `llama`"))
        }
    }
}

fn boxed<M: CausalLm + 'static>((model, report): (M, LoadReport)) -> Result<(Box<dyn CausalLm>, LoadReport)> {
    Ok((Box::new(model), report))
}

impl<M: CausalLm + ?Sized> CausalLm for Box<M> {
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn cache_shape(&self) -> CacheShape {
        (**self).cache_shape()
    }

    fn hidden_at(
        &self,
        batch: &Batch,
        at: Option<&Tensor>,
        cache: Option<&mut KvCache>,
        train: bool,
    ) -> Result<Tensor> {
        (**self).hidden_at(batch, at, cache, train)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        (**self).logits(hidden)
    }

    fn resize_embeddings(&mut self, vocabulary: usize, how: Resize) -> Result<()> {
        (**self).resize_embeddings(vocabulary, how)
    }
}
