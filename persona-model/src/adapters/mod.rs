//! LoRA adapters beside a model: several are held at once, and each row of a batch is computed with its own.

mod config;
mod lora;
mod plan;

use std::cell::RefCell;
use std::path::Path;

use tch::{Device, Kind};

pub use self::config::{Layers, LoraConfig, Targets};
pub use self::lora::Lora;
pub(crate) use self::lora::Site;
pub(crate) use self::plan::Plan;
use self::plan::Stack;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::layers::Layout;
use crate::parameters::Parameters;
use crate::weights::LoadReport;

/// An adapter that a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(u32);

/// The adapters that a model holds. The base weights are one, whatever is added, chosen or removed here.
///
/// Rows of a batch are computed with the adapter that the batch names for them
/// ([`Batch::with_adapters`](crate::Batch::with_adapters)), all others with the active one.
#[derive(Debug, Default)]
pub struct Adapters {
    sites: Vec<Site>,
    held: Vec<(AdapterId, Lora)>,
    next: u32,
    active: Option<AdapterId>,
    trained: Option<AdapterId>,
    /// The matrices of several adapters in one, for batches that mix them; made when first needed.
    stack: RefCell<Option<Stack>>,
    /// PEFT's name of what the model does, where that is not causal language modelling.
    task: Option<&'static str>,
}

impl Adapters {
    pub(crate) fn new(sites: Vec<Site>) -> Self {
        Self { sites, ..Self::default() }
    }

    /// Fresh adapters are saved with PEFT's `task_type` of this name.
    pub(crate) fn set_task(&mut self, task: &'static str) {
        self.task = Some(task);
    }

    /// Adds a fresh adapter, which changes nothing until it is trained. A is drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] for settings out of range or targets that match no linear layer.
    pub fn add(&mut self, mut config: LoraConfig, seed: u64, device: Device) -> Result<AdapterId> {
        if let Some(task) = self.task {
            config.other.entry("task_type").or_insert_with(|| task.into());
        }
        let lora = Lora::new(config, &self.sites, seed, device)?;
        Ok(self.hold(lora))
    }

    /// Loads a PEFT folder. The model and the adapters that it holds stay as they are when anything does not fit.
    ///
    /// # Errors
    /// As [`LoraConfig::from_folder`] and [`load`](crate::load): missing and unexpected tensors and other shapes, which
    /// an adapter of another base has, are listed.
    pub fn load(&mut self, folder: &Path, device: Device) -> Result<(AdapterId, LoadReport)> {
        let (lora, report) = Lora::load(folder, &self.sites, device)?;
        Ok((self.hold(lora), report))
    }

    fn hold(&mut self, lora: Lora) -> AdapterId {
        let id = AdapterId(self.next);
        self.next += 1;
        self.held.push((id, lora));
        self.stack.take();
        id
    }

    /// The adapter of an id.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held.
    pub fn get(&self, id: AdapterId) -> Result<&Lora> {
        let found = self.held.iter().find(|(held, _)| *held == id);
        found.map(|(_, lora)| lora).ok_or(Error::Adapter(id))
    }

    /// The adapters that are held, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = AdapterId> {
        self.held.iter().map(|(id, _)| *id)
    }

    /// Removes an adapter, and gives it back. Where it was active, none is from then on.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held.
    pub fn remove(&mut self, id: AdapterId) -> Result<Lora> {
        let at = self.held.iter().position(|(held, _)| *held == id).ok_or(Error::Adapter(id))?;
        self.active = self.active.filter(|active| *active != id);
        self.trained = self.trained.filter(|trained| *trained != id);
        self.stack.take();
        Ok(self.held.remove(at).1)
    }

    /// Chooses the adapter for rows that name none; `None` is the base alone.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held.
    pub fn activate(&mut self, id: Option<AdapterId>) -> Result<()> {
        id.map(|id| self.get(id).map(drop)).transpose()?;
        self.active = id;
        Ok(())
    }

    /// The active adapter.
    #[must_use]
    pub fn active(&self) -> Option<AdapterId> {
        self.active
    }

    /// Chooses the adapter that training changes, and makes it the active one; `None` trains the base itself.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held.
    pub fn train(&mut self, id: Option<AdapterId>) -> Result<()> {
        self.activate(id)?;
        self.trained = id;
        Ok(())
    }

    /// The parameters that training changes, where that is an adapter.
    pub(crate) fn trained(&self) -> Option<&Parameters> {
        self.get(self.trained?).ok().map(Lora::parameters)
    }

    pub(crate) fn trained_mut(&mut self) -> Option<&mut Parameters> {
        let id = self.trained?;
        self.stack.take();
        let held = self.held.iter_mut().find(|(held, _)| *held == id);
        held.map(|(_, lora)| lora.parameters_mut())
    }

    /// Whether a forward pass in training draws dropout here.
    pub(crate) fn has_dropout(&self) -> bool {
        self.active.and_then(|id| self.get(id).ok()).is_some_and(|lora| lora.config().lora_dropout > 0.0)
    }

    pub(crate) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Which adapter computes which tokens of a batch.
    pub(crate) fn plan(&self, batch: &Batch, train: bool) -> Result<Plan<'_>> {
        Plan::new(self, batch, |row| row.len, train)
    }

    /// Which adapter computes which rows of a batch, where each is one vector.
    pub(crate) fn row_plan(&self, batch: &Batch, train: bool) -> Result<Plan<'_>> {
        Plan::new(self, batch, |_| 1, train)
    }
}

/// Adds an adapter times a factor to the base weights.
pub(crate) fn add_to_base(
    parameters: &Parameters,
    adapters: &Adapters,
    id: AdapterId,
    factor: f64,
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let lora = adapters.get(id)?;
    for (at, site) in adapters.sites().iter().enumerate() {
        let name = format!("{}.weight", site.module);
        if lora.at(at).is_some() && parameters.quantized().contains_key(&name) {
            let reason = "is in NF4, which an adapter cannot be added to: keep the adapter beside it, or load the \
                          weights in float, merge there, and quantise what is saved";
            return Err(Error::Quantized { tensor: name, reason: reason.to_owned() });
        }
    }
    for (at, site) in adapters.sites().iter().enumerate() {
        let (Some(low_rank), Some(weight)) =
            (lora.at(at), parameters.get(&format!("{}.weight", site.module)))
        else {
            continue;
        };
        let product = low_rank.b.f_mm(&low_rank.a)?.f_mul_scalar(factor * low_rank.scale)?;
        let product = if site.layout == Layout::InOut { product.f_tr()? } else { product };
        let sum = weight.f_to_kind(Kind::Float)?.f_add(&product.f_to_device(weight.device())?)?;
        weight.shallow_clone().f_copy_(&sum)?;
    }
    Ok(())
}
