//! What training, scoring and decoding ask of a causal language model.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::adapters::{self, AdapterId, Adapters};
use crate::batch::{Batch, Limits};
use crate::cache::{CacheShape, KvCache};
use crate::config::{self, OtherKeys};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::gpt2::Gpt2;
use crate::llama::Llama;
use crate::parameters::Parameters;
use crate::weights::LoadReport;

/// A causal language model: hidden states first, the head only where somebody asks for it.
pub trait CausalLm {
    /// The vocabulary and the positions.
    fn limits(&self) -> Limits;

    /// The base weights.
    fn parameters(&self) -> &Parameters;

    /// The base weights, to write to.
    fn parameters_mut(&mut self) -> &mut Parameters;

    /// The adapters that the model holds.
    fn adapters(&self) -> &Adapters;

    /// The adapters that the model holds, to add, choose and remove.
    fn adapters_mut(&mut self) -> &mut Adapters;

    /// What training changes: the adapter that [`Adapters::train`] has chosen, or the base weights.
    fn trainable(&self) -> &Parameters {
        self.adapters().trained().unwrap_or_else(|| self.parameters())
    }

    /// What training changes, to write to.
    fn trainable_mut(&mut self) -> &mut Parameters {
        if self.adapters().trained().is_none() {
            return self.parameters_mut();
        }
        match self.adapters_mut().trained_mut() {
            Some(parameters) => parameters,
            None => unreachable!("an adapter is trained"),
        }
    }

    /// Adds an adapter to the base weights for good: the model then computes without an adapter what it computed with
    /// it, at the base's speed, and is saved so. In weights held in bfloat16 the sum is rounded.
    ///
    /// # Errors
    /// [`Error::Adapter`](crate::Error::Adapter) when it is not held; libtorch's.
    fn merge(&mut self, id: AdapterId) -> Result<()> {
        adapters::add_to_base(self.parameters(), self.adapters(), id, 1.0)
    }

    /// Takes a merged adapter out of the base weights again, but for rounding.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    fn unmerge(&mut self, id: AdapterId) -> Result<()> {
        adapters::add_to_base(self.parameters(), self.adapters(), id, -1.0)
    }

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

/// Loads the causal language model of a folder in the Hugging Face layout, whichever it is: `model_type` in its
/// `config.json` says so. Values are cast to `kind`; loading is strict.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for an architecture that this crate does not have, and those of
/// [`load`](crate::load).
pub fn load_causal_lm(folder: &Path, device: Device, kind: Kind) -> Result<(Box<dyn CausalLm>, LoadReport)> {
    let keys: OtherKeys = config::read(folder)?;
    match keys.get("model_type").and_then(|kind| kind.as_str()) {
        Some("gpt2") => boxed(Gpt2::load(folder, device, kind)?),
        Some("llama") => boxed(Llama::load(folder, device, kind)?),
        other => {
            let found = other.map_or_else(|| "is missing".to_owned(), |other| format!("is `{other}`"));
            let reason = format!("{found}; the causal language models here are `gpt2` and `llama`");
            Err(Error::Config { key: "model_type", reason })
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

    fn parameters(&self) -> &Parameters {
        (**self).parameters()
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        (**self).parameters_mut()
    }

    fn adapters(&self) -> &Adapters {
        (**self).adapters()
    }

    fn adapters_mut(&mut self) -> &mut Adapters {
        (**self).adapters_mut()
    }

    fn cache_shape(&self) -> CacheShape {
        (**self).cache_shape()
    }

    fn hidden(&self, batch: &Batch, cache: Option<&mut KvCache>, train: bool) -> Result<Tensor> {
        (**self).hidden(batch, cache, train)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        (**self).logits(hidden)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        (**self).save(folder)
    }

    fn precision(&self) -> Precision {
        (**self).precision()
    }

    fn set_precision(&mut self, precision: Precision) {
        (**self).set_precision(precision);
    }

    fn has_dropout(&self) -> bool {
        (**self).has_dropout()
    }
}
