//! What training and saving ask of any model.

use std::path::Path;

use tch::Device;

use crate::adapters::{self, AdapterId, Adapters};
use crate::device::Precision;
use crate::error::Result;
use crate::parameters::Parameters;

/// A model: weights, the adapters beside them, and how both are kept.
pub trait Model {
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

    /// A hash of everything that the model computes with: base weights, and the active adapter.
    ///
    /// # Errors
    /// libtorch's.
    fn fingerprint(&self) -> Result<String> {
        let base = self.parameters().fingerprint()?;
        let adapters = self.adapters();
        let Some(id) = adapters.active() else { return Ok(base) };
        let lora = adapters.get(id)?;
        let config = serde_json::to_string(lora.config()).unwrap_or_default();
        Ok(format!("{base} {} {config}", lora.parameters().fingerprint()?))
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
}

impl<M: Model + ?Sized> Model for Box<M> {
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
