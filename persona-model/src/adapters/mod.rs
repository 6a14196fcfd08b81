//! Adapters beside a model, LoRAs and soft prompts: several are held at once, and each row of a batch is computed with
//! its own.

mod config;
mod input;
mod lora;
mod plan;
mod prompt;

use std::cell::RefCell;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

pub(crate) use self::config::{BASE, read as read_config};
pub use self::config::{Layers, LoraConfig, Targets};
pub use self::lora::Lora;
use self::lora::OwnModules;
pub(crate) use self::lora::Site;
pub(crate) use self::plan::Plan;
use self::plan::Stack;
pub use self::prompt::{PromptStart, SoftPrompt, SoftPromptConfig};
use crate::batch::Batch;
use crate::config::OtherKeys;
use crate::error::{Error, Result};
use crate::layers::Layout;
use crate::parameters::{Init, ParameterSpec, Parameters};
use crate::resize::Resize;
use crate::weights::{self, LoadReport};

/// An adapter that a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(u32);

/// One adapter, of either kind.
#[derive(Debug)]
pub enum Adapter {
    /// Low-rank matrices on linear layers.
    Lora(Box<Lora>),
    /// Virtual tokens before every text.
    SoftPrompt(SoftPrompt),
}

impl Adapter {
    /// What training changes.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        match self {
            Self::Lora(lora) => lora.parameters(),
            Self::SoftPrompt(prompt) => prompt.parameters(),
        }
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        match self {
            Self::Lora(lora) => lora.parameters_mut(),
            Self::SoftPrompt(prompt) => prompt.parameters_mut(),
        }
    }

    /// Writes a PEFT folder of what the adapter holds.
    ///
    /// # Errors
    /// [`Error::Io`]; what was there before stays.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match self {
            Self::Lora(lora) => lora.save(folder),
            Self::SoftPrompt(prompt) => prompt.save(folder),
        }
    }

    /// The LoRA, where it is one.
    #[must_use]
    pub fn lora(&self) -> Option<&Lora> {
        if let Self::Lora(lora) = self { Some(lora) } else { None }
    }

    /// The soft prompt, where it is one.
    #[must_use]
    pub fn soft_prompt(&self) -> Option<&SoftPrompt> {
        if let Self::SoftPrompt(prompt) = self { Some(prompt) } else { None }
    }

    /// A hash of everything that the adapter computes with.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let (frozen, config) = match self {
            Self::Lora(lora) => (lora.frozen(), serde_json::to_string(lora.config())),
            Self::SoftPrompt(prompt) => (None, serde_json::to_string(prompt.config())),
        };
        let mut fingerprint = self.parameters().fingerprint()?;
        if let Some(frozen) = frozen {
            fingerprint = format!("{fingerprint} {}", frozen.fingerprint()?);
        }
        Ok(format!("{fingerprint} {}", config.unwrap_or_default()))
    }
}

/// What adapters of a causal model have to know of it beside its linear layers.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) embedding: Module,
    pub(crate) head: Module,
    /// Whether embedding and head are one tensor.
    pub(crate) tied: bool,
    pub(crate) layers: usize,
    pub(crate) positions: usize,
}

/// A module with a weight `[V, D]`.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its path in the checkpoint.
    pub(crate) path: String,
    pub(crate) weight: Tensor,
}

impl Base {
    fn modules(&self) -> [&Module; 2] {
        [&self.embedding, &self.head]
    }

    fn vocabulary(&self) -> usize {
        self.embedding.rows()
    }

    fn width(&self) -> usize {
        self.embedding.weight.size().get(1).map_or(0, |&width| width as usize)
    }
}

impl Module {
    pub(crate) fn new(path: &str, weight: &Tensor) -> Self {
        Self { path: path.to_owned(), weight: weight.shallow_clone() }
    }

    fn rows(&self) -> usize {
        self.weight.size().first().map_or(0, |&rows| rows as usize)
    }

    fn weight_name(&self) -> String {
        format!("{}.weight", self.path)
    }

    fn spec(&self) -> ParameterSpec {
        ParameterSpec { name: self.weight_name(), shape: self.weight.size(), init: Init::Zeros }
    }
}

/// The adapters that a model holds. The base weights are one, whatever is added, chosen or removed here.
///
/// Rows of a batch are computed with the adapter that the batch names for them
/// ([`Batch::with_adapters`](crate::Batch::with_adapters)), all others with the active one.
#[derive(Debug, Default)]
pub struct Adapters {
    sites: Vec<Site>,
    base: Option<Base>,
    /// Whether the base's embeddings have been resized since the model was made or loaded.
    resized: bool,
    held: Vec<(AdapterId, Adapter)>,
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

    /// The same for a causal model, whose embeddings and head adapters may have copies of.
    pub(crate) fn over(mut self, base: Base) -> Self {
        self.base = Some(base);
        self
    }

    fn base(&self) -> Result<&Base> {
        let reason = "this model has no place for soft prompts; causal language models have".to_owned();
        self.base.as_ref().ok_or(Error::Config { key: "peft_type", reason })
    }

    /// Adds a fresh LoRA, which changes nothing until it is trained. A is drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] for settings out of range, a target name that is on no linear layer, a pattern that matches none,
    /// and `modules_to_save` that are not embeddings or head.
    pub fn add(&mut self, mut config: LoraConfig, seed: u64, device: Device) -> Result<AdapterId> {
        if let Some(task) = self.task {
            config.other.entry("task_type").or_insert_with(|| task.into());
        }
        let lora = Lora::new(config, &self.sites, self.base.as_ref(), seed, device)?;
        Ok(self.hold(Adapter::Lora(Box::new(lora))))
    }

    /// Adds a fresh soft prompt. While it is active, the model has so many positions fewer for text.
    ///
    /// # Errors
    /// [`Error::Config`] for settings out of range, a prompt that leaves no room for text, and a model that is not
    /// causal; [`Error::Vocabulary`] for start tokens that the model does not have.
    pub fn add_soft_prompt(
        &mut self,
        config: SoftPromptConfig,
        start: PromptStart<'_>,
        device: Device,
    ) -> Result<AdapterId> {
        let prompt = SoftPrompt::new(config, start, self.base()?, device)?;
        Ok(self.hold(Adapter::SoftPrompt(prompt)))
    }

    /// Loads a PEFT folder, of a LoRA or of a soft prompt (`peft_type` says which). The model and the adapters that it
    /// holds stay as they are when anything does not fit.
    ///
    /// Where PEFT saved the embeddings of a resized base with a LoRA, they are used while it is active; the base keeps
    /// its own.
    ///
    /// # Errors
    /// As [`LoraConfig::from_folder`], [`SoftPromptConfig::validate`] and [`load`](crate::load): missing and unexpected
    /// tensors and other shapes, which an adapter of another base has, are listed. [`Error::EmbeddingRows`] where the
    /// folder's embeddings are for another vocabulary.
    pub fn load(&mut self, folder: &Path, device: Device) -> Result<(AdapterId, LoadReport)> {
        let keys: OtherKeys = read_config(folder)?;
        let (adapter, report) = if keys.get("peft_type").and_then(Value::as_str) == Some("PROMPT_TUNING") {
            let (prompt, report) = SoftPrompt::load(folder, self.base()?, device)?;
            (Adapter::SoftPrompt(prompt), report)
        } else {
            let (lora, report) = Lora::load(folder, &self.sites, self.base.as_ref(), device)?;
            (Adapter::Lora(Box::new(lora)), report)
        };
        Ok((self.hold(adapter), report))
    }

    /// Adds a copy of an adapter with storage of its own: a policy that goes on from an adapter which stays its reference.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held; libtorch's.
    pub fn copy(&mut self, id: AdapterId) -> Result<AdapterId> {
        let copy = match self.get(id)? {
            Adapter::Lora(lora) => Adapter::Lora(Box::new(lora.copy(&self.sites, self.base.as_ref())?)),
            Adapter::SoftPrompt(prompt) => Adapter::SoftPrompt(prompt.copy()?),
        };
        Ok(self.hold(copy))
    }

    /// The paths of the linear layers that a LoRA may sit on, in the model's order.
    pub fn linear_layers(&self) -> impl Iterator<Item = &str> {
        self.sites.iter().map(|site| site.module.as_str())
    }

    /// Writes an adapter as a PEFT folder. Where the model's embeddings have been resized since it was made or loaded,
    /// they and the head are written with a LoRA that has none of its own, as PEFT does
    /// (`save_embedding_layers="auto"`). A soft prompt is written alone.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held; [`Error::Io`], and what was there before stays.
    pub fn save(&self, id: AdapterId, folder: &Path) -> Result<()> {
        let adapter = self.get(id)?;
        let (Adapter::Lora(lora), Some(base)) = (adapter, self.base.as_ref().filter(|_| self.resized)) else {
            return adapter.save(folder);
        };
        let own = lora.own();
        let held = [own.and_then(|own| own.embedding.as_ref()), own.and_then(|own| own.head.as_ref())];
        let rest = base.modules().into_iter().zip(held).filter(|(_, own)| own.is_none());
        lora.save_with(folder, &rest.map(|(module, _)| module).collect::<Vec<_>>())
    }

    fn hold(&mut self, adapter: Adapter) -> AdapterId {
        let id = AdapterId(self.next);
        self.next += 1;
        self.held.push((id, adapter));
        self.stack.take();
        id
    }

    /// The adapter of an id.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held.
    pub fn get(&self, id: AdapterId) -> Result<&Adapter> {
        let found = self.held.iter().find(|(held, _)| *held == id);
        found.map(|(_, adapter)| adapter).ok_or(Error::Adapter(id))
    }

    /// The LoRA of an id; None where the id is a soft prompt's.
    fn lora(&self, id: AdapterId) -> Result<Option<&Lora>> {
        Ok(self.get(id)?.lora())
    }

    /// The active adapter's own embedding and head, where it has any.
    fn own_modules(&self) -> Option<&OwnModules> {
        self.get(self.active?).ok()?.lora()?.own()
    }

    /// The adapters that are held, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = AdapterId> {
        self.held.iter().map(|(id, _)| *id)
    }

    /// Removes an adapter, and gives it back. Where it was active, none is from then on.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is not held.
    pub fn remove(&mut self, id: AdapterId) -> Result<Adapter> {
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
        self.get(self.trained?).ok().map(Adapter::parameters)
    }

    pub(crate) fn trained_mut(&mut self) -> Option<&mut Parameters> {
        let id = self.trained?;
        self.stack.take();
        let held = self.held.iter_mut().find(|(held, _)| *held == id);
        held.map(|(_, adapter)| adapter.parameters_mut())
    }

    /// Whether a forward pass in training draws dropout here.
    pub(crate) fn has_dropout(&self) -> bool {
        let lora = self.active.and_then(|id| self.get(id).ok()?.lora());
        lora.is_some_and(|lora| lora.config().lora_dropout > 0.0)
    }

    pub(crate) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Takes over the adapters of the same model before its embeddings were resized. On an error `old` is as it was.
    pub(crate) fn take_over(&mut self, old: &mut Self, how: Resize, deviation: f64) -> Result<()> {
        let mut resized = Vec::with_capacity(old.held.len());
        for (_, adapter) in &old.held {
            let lora = adapter.lora().filter(|lora| lora.own().is_some()).zip(self.base.as_ref());
            resized
                .push(lora.map(|(lora, base)| lora.resized(&self.sites, base, how, deviation)).transpose()?);
        }
        self.held = std::mem::take(&mut old.held);
        for ((_, held), resized) in self.held.iter_mut().zip(resized) {
            if let Some(lora) = resized {
                *held = Adapter::Lora(Box::new(lora));
            }
        }
        (self.next, self.active, self.trained, self.resized) = (old.next, old.active, old.trained, true);
        Ok(())
    }

    /// Which adapter computes which tokens of a batch.
    pub(crate) fn plan(&self, batch: &Batch, train: bool) -> Result<Plan<'_>> {
        Plan::new(self, batch, |row| row.len, train)
    }

    /// Which adapter computes which of a batch's tokens at some places; with the places.
    pub(crate) fn plan_at(&self, batch: &Batch, at: Tensor, train: bool) -> Result<(Plan<'_>, Tensor)> {
        Ok((Plan::at(self, batch, &at, train)?, at))
    }

    /// Which adapter computes which rows of a batch, where each is one vector.
    pub(crate) fn row_plan(&self, batch: &Batch, train: bool) -> Result<Plan<'_>> {
        Plan::new(self, batch, |_| 1, train)
    }
}

/// Writes a PEFT folder: the configuration with the keys that every adapter has, and the tensors. `rest` are keys that
/// are written where the configuration lacks them.
fn write_folder(
    folder: &Path,
    config: &impl Serialize,
    peft_type: &str,
    rest: &[(&str, Value)],
    tensors: &[(String, Tensor)],
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let path = folder.join("adapter_config.json");
    let mut config = serde_json::to_value(config).map_err(Error::json(&path))?;
    config["peft_type"] = peft_type.into();
    config["inference_mode"] = true.into();
    for (key, value) in rest {
        if config.get(key).is_none_or(Value::is_null) {
            config[key] = value.clone();
        }
    }
    let text = serde_json::to_vec_pretty(&config).map_err(Error::json(&path))?;
    weights::write_with_config((&folder.join("adapter_model.safetensors"), tensors), (&path, &text))
}

/// Adds an adapter times a factor to the base weights; its own modules take the place of the base's.
pub(crate) fn add_to_base(
    parameters: &Parameters,
    adapters: &Adapters,
    id: AdapterId,
    factor: f64,
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let Adapter::Lora(lora) = adapters.get(id)? else {
        let reason = "a soft prompt adds tokens, not weights: it cannot be merged".to_owned();
        return Err(Error::Config { key: "peft_type", reason });
    };
    for (at, site) in adapters.sites().iter().enumerate() {
        let name = format!("{}.weight", site.module);
        if lora.at(at).is_some() && parameters.quantized().contains_key(&name) {
            let reason = "is in NF4, which an adapter cannot be added to: keep the adapter beside it, or load the \
                          weights in float, merge there, and quantise what is saved";
            return Err(Error::Quantized { tensor: name, reason: reason.to_owned() });
        }
    }
    let own = lora.own().zip(adapters.base.as_ref());
    if let Some((own, base)) = own {
        let fail = |reason: &str| Err(Error::Config { key: "modules_to_save", reason: reason.to_owned() });
        if factor < 0.0 {
            return fail("what the base had in their place was not kept; load the base again");
        }
        let one = match (&own.embedding, &own.head) {
            (Some(embedding), Some(head)) => embedding.f_equal(head)?,
            _ => false,
        };
        if base.tied && !one {
            return fail(
                "the base ties head and embedding, which are two with this adapter; it cannot be merged",
            );
        }
        for (module, own) in [(&base.embedding, &own.embedding), (&base.head, &own.head)] {
            if let Some(own) = own {
                module.weight.shallow_clone().f_copy_(own)?;
            }
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
