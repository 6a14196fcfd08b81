//! What training, scoring and decoding ask of a causal language model.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::adapters;
use crate::batch::{Batch, Limits};
use crate::cache::{CacheShape, KvCache};
use crate::config::{self, OtherKeys};
use crate::error::{Error, Result};
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

    /// A copy of this model with storage of its own, held in `kind`, without its adapters: a policy that begins where its
    /// reference stays. Weights in NF4 are shared.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    fn boxed_copy(&self, kind: Kind) -> Result<Box<dyn CausalLm>>;

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

/// Loads a causal language model for use: a folder of [`load_causal_lm`], or a PEFT folder (one with an
/// `adapter_config.json`), whose adapter is then active. Its base is the model in the same folder, where `config.json` and
/// weights lie beside the adapter, and else that of the folder which its `base_model_name_or_path` names, a relative one
/// from the working directory. The report is of both.
///
/// # Errors
/// As [`load_causal_lm_with`] and [`Adapters::load`](crate::Adapters::load); [`Error::Config`] where the adapter names no
/// base, or one that is no folder here.
pub fn load_with_adapter(
    folder: &Path,
    device: Device,
    options: LoadOptions,
) -> Result<(Box<dyn CausalLm>, LoadReport)> {
    if !folder.join("adapter_config.json").exists() {
        return load_causal_lm_with(folder, device, options);
    }
    let holds = |name: &str| folder.join(name).exists();
    let whole = holds("model.safetensors") || holds("model.safetensors.index.json");
    let base = if whole && holds("config.json") { folder.to_path_buf() } else { base_of(folder)? };
    let (mut model, mut report) = load_causal_lm_with(&base, device, options)?;
    let (id, adapter) = model.adapters_mut().load(folder, device)?;
    model.adapters_mut().activate(Some(id))?;
    report.extend(adapter);
    Ok((model, report))
}

/// The folder of the base that an adapter names.
fn base_of(folder: &Path) -> Result<PathBuf> {
    let keys: OtherKeys = adapters::read_config(folder)?;
    let fail = |reason: String| Err(Error::Config { key: adapters::BASE, reason });
    let Some(base) = keys.get(adapters::BASE).and_then(|base| base.as_str()) else {
        return fail(format!("{}: the adapter names no base; give it the base's folder", folder.display()));
    };
    if !Path::new(base).is_dir() {
        let reason = format!(
            "{}: the adapter's base is `{base}`, which is no folder here; start the program where the path begins, or \
             write the folder's into adapter_config.json",
            folder.display()
        );
        return fail(reason);
    }
    Ok(PathBuf::from(base))
}

fn boxed<M: CausalLm + 'static>((model, report): (M, LoadReport)) -> Result<(Box<dyn CausalLm>, LoadReport)> {
    Ok((Box::new(model), report))
}

macro_rules! forwarded {
    ($($pointer:ty),*) => {$(
        impl<M: CausalLm + ?Sized> CausalLm for $pointer {
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

            fn boxed_copy(&self, kind: Kind) -> Result<Box<dyn CausalLm>> {
                (**self).boxed_copy(kind)
            }
        }
    )*};
}

forwarded!(Box<M>, &mut M);
