//! What training and saving ask of any model.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::adapters::{self, AdapterId, Adapters, Base, Site};
use crate::batch::Batch;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::recompute::{self, Recompute};
use crate::resize::Resize;

/// What every model holds beside its layers: the base weights, the adapters on them, and the kind of the products.
#[derive(Debug)]
pub struct ModelState {
    pub(crate) parameters: Parameters,
    pub(crate) adapters: Adapters,
    pub(crate) precision: Precision,
    pub(crate) recompute: Recompute,
}

impl ModelState {
    /// Weights, and the linear layers that adapters may sit on.
    pub(crate) fn new(parameters: Parameters, sites: Vec<Site>) -> Self {
        Self {
            parameters,
            adapters: Adapters::new(sites),
            precision: Precision::Fp32,
            recompute: Recompute::default(),
        }
    }

    /// Notes where a causal model has its embeddings and its head.
    pub(crate) fn over(mut self, base: Base) -> Self {
        self.adapters = self.adapters.over(base);
        self
    }

    /// Takes over precision and adapters of the same model before its embeddings were resized.
    pub(crate) fn take_over(&mut self, old: &mut Self, how: Resize, deviation: f64) -> Result<()> {
        self.precision = old.precision;
        self.recompute.on.set(old.recompute.on.get());
        self.adapters.take_over(&mut old.adapters, how, deviation)
    }

    /// The kind of the products: weights that are held in bfloat16 are computed with in bfloat16.
    pub(crate) fn compute_kind(&self) -> Kind {
        if self.parameters.kind() == Kind::BFloat16 { Kind::BFloat16 } else { self.precision.kind() }
    }

    /// The kind that attention computes with, and that a cache holds: float32 on the CPU.
    pub(crate) fn attention_kind(&self) -> Kind {
        if self.parameters.device() == Device::Cpu { Kind::Float } else { self.compute_kind() }
    }
}

/// A model: weights, the adapters beside them, and how both are kept.
pub trait Model {
    /// Weights, adapters and precision.
    fn state(&self) -> &ModelState;

    /// Weights, adapters and precision, to write to.
    fn state_mut(&mut self) -> &mut ModelState;

    /// The base weights.
    fn parameters(&self) -> &Parameters {
        &self.state().parameters
    }

    /// The base weights, to write to.
    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.state_mut().parameters
    }

    /// The adapters that the model holds.
    fn adapters(&self) -> &Adapters {
        &self.state().adapters
    }

    /// The adapters that the model holds, to add, choose and remove.
    fn adapters_mut(&mut self) -> &mut Adapters {
        &mut self.state_mut().adapters
    }

    /// What training changes: the adapter that [`Adapters::train`] has chosen, or the base weights.
    fn trainable(&self) -> &Parameters {
        self.adapters().trained().unwrap_or_else(|| self.parameters())
    }

    /// What training changes, to write to.
    fn trainable_mut(&mut self) -> &mut Parameters {
        let state = self.state_mut();
        state.adapters.trained_mut().unwrap_or(&mut state.parameters)
    }

    /// A hash of everything that the model computes with: base weights, and the active adapter.
    ///
    /// # Errors
    /// libtorch's.
    fn fingerprint(&self) -> Result<String> {
        let base = self.parameters().fingerprint()?;
        let adapters = self.adapters();
        let Some(id) = adapters.active() else { return Ok(base) };
        Ok(format!("{base} {}", adapters.get(id)?.fingerprint()?))
    }

    /// Adds an adapter to the base weights for good: the model then computes without an adapter what it computed with
    /// it, at the base's speed, and is saved so. In weights held in bfloat16 the sum is rounded. The adapter's own
    /// modules (`modules_to_save`) take the place of the base's.
    ///
    /// # Errors
    /// [`Error::Adapter`](crate::Error::Adapter) when it is not held; [`Error::Quantized`](crate::Error::Quantized) where
    /// it sits on a weight in NF4; [`Error::Config`](crate::Error::Config) for a soft prompt, and for own modules that a
    /// base with tied embeddings cannot hold; libtorch's.
    fn merge(&mut self, id: AdapterId) -> Result<()> {
        adapters::add_to_base(self.parameters(), self.adapters(), id, 1.0)
    }

    /// Takes a merged adapter out of the base weights again, but for rounding.
    ///
    /// # Errors
    /// As [`merge`](Self::merge); [`Error::Config`](crate::Error::Config) for an adapter with own modules, whose
    /// predecessors are gone.
    fn unmerge(&mut self, id: AdapterId) -> Result<()> {
        adapters::add_to_base(self.parameters(), self.adapters(), id, -1.0)
    }

    /// Writes the model in the Hugging Face layout: `config.json` and `model.safetensors`, each whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), disk full above all; files that were there before stay.
    fn save(&self, folder: &Path) -> Result<()>;

    /// The kind of number in which products are computed.
    fn precision(&self) -> Precision {
        self.state().precision
    }

    /// Chooses the kind of number in which products are computed from now on.
    fn set_precision(&mut self, precision: Precision) {
        self.state_mut().precision = precision;
    }

    /// Whether a forward pass in training draws from libtorch's generator.
    fn has_dropout(&self) -> bool;

    /// How many blocks [`block`](Self::block) computes; 0 for a model without gradient checkpointing.
    fn blocks(&self) -> usize {
        0
    }

    /// One of the model's blocks, with dropout where `train` is true: from its input `[N, D]` to its output `[N, D]`. With
    /// a `source`, a block of a decoder that reads it: behind the N states of the batch's tokens stand those of the
    /// source's, as the encoder gave them, which go through unchanged.
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`](crate::Error::Batch) for a block that is not there.
    fn block(
        &self,
        layer: usize,
        _x: &Tensor,
        _batch: &Batch,
        _source: Option<&Batch>,
        _train: bool,
    ) -> Result<Tensor> {
        Err(Error::Batch(format!("no block {layer}")))
    }

    /// Switches gradient checkpointing (Chen et al. 2016) on or off: a forward pass that records gradients keeps the
    /// blocks' inputs alone, until [`gradients`](Self::gradients) computes the blocks again. It costs a third more products
    /// and keeps one `[N, D]` a block in float32. Dropout is drawn from other places of the generator than without. A pass
    /// whose gradients nobody asks for belongs under [`tch::no_grad`], where nothing is kept.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a model that does not have it.
    fn set_gradient_checkpointing(&mut self, on: bool) -> Result<()> {
        if on && self.blocks() == 0 {
            let reason = "this model does not say what its blocks are (`Model::block`)".to_owned();
            return Err(Error::Config { key: "gradient_checkpointing", reason });
        }
        self.state().recompute.on.set(on);
        Ok(())
    }

    /// Whether gradient checkpointing is on.
    fn gradient_checkpointing(&self) -> bool {
        self.state().recompute.on.get()
    }

    /// The gradients of a scalar loss with respect to the leaves of [`trainable`](Self::trainable), in their order; None
    /// where the loss does not depend on one. The graph of the loss is used up. Under gradient checkpointing this is the
    /// only way to them: libtorch's own backward pass would end at the last block.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    fn gradients(&self, loss: &Tensor) -> Result<Vec<Option<Tensor>>> {
        recompute::gradients(self, loss)
    }

    /// The device of the parameters.
    fn device(&self) -> Device {
        self.parameters().device()
    }
}

macro_rules! forwarded {
    ($($pointer:ty),*) => {$(
        impl<M: Model + ?Sized> Model for $pointer {
            fn state(&self) -> &ModelState {
                (**self).state()
            }

            fn state_mut(&mut self) -> &mut ModelState {
                (**self).state_mut()
            }

            fn save(&self, folder: &Path) -> Result<()> {
                (**self).save(folder)
            }

            fn has_dropout(&self) -> bool {
                (**self).has_dropout()
            }

            fn blocks(&self) -> usize {
                (**self).blocks()
            }

            fn block(
                &self,
                layer: usize,
                x: &Tensor,
                batch: &Batch,
                source: Option<&Batch>,
                train: bool,
            ) -> Result<Tensor> {
                (**self).block(layer, x, batch, source, train)
            }
        }
    )*};
}

// An objective may borrow the model that it trains.
forwarded!(Box<M>, &mut M);
