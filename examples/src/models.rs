//! The models of a run: every training makes a whole model of its own, or an adapter on the one base that all share.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use persona_data::TextTokenizer;
use persona_model::{AdapterId, CausalLm, Limits, LoraConfig, Model, Precision, load_causal_lm};
use tch::{Device, Kind};

use crate::recipe::{LoraRecipe, ModelRecipe, Recipe};
use crate::training::fresh_model;

/// Where a run's models begin. With `model.lora` it holds the base, which is loaded once and never changed.
pub struct Models<'a> {
    recipe: &'a Recipe,
    device: Device,
    /// The base under all adapters; of whole models the one that was loaded, until the first training takes it.
    loaded: Option<Box<dyn CausalLm>>,
    lora: Option<LoraConfig>,
}

/// What a training makes, and what then replies.
pub struct System {
    weights: Weights,
    precision: Precision,
}

enum Weights {
    Whole(Box<dyn CausalLm>),
    Adapter(AdapterId),
}

impl fmt::Debug for Models<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models")
            .field("model", &self.recipe.model)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapter = if let Weights::Adapter(id) = self.weights { Some(id) } else { None };
        f.debug_struct("System")
            .field("adapter", &adapter)
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}

impl System {
    /// The kind of number in which it computes from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }
}

impl<'a> Models<'a> {
    /// Loads what `model.folder` holds, and checks that the adapter fits it; the second value says what was loaded. A fresh
    /// model is made when it is first needed.
    ///
    /// # Errors
    /// Those of [`load_causal_lm`], with the key; targets that the model does not have.
    pub fn load(recipe: &'a Recipe, device: Device) -> Result<(Self, Option<String>)> {
        let ModelRecipe::Folder { folder, lora, .. } = &recipe.model else {
            return Ok((Self { recipe, device, loaded: None, lora: None }, None));
        };
        let kind = recipe.base_kind();
        let (model, report) = load(folder, device, kind)?;
        let mut said = report.to_string();
        let lora = lora.as_ref().map(|lora| {
            said = format!("{said}; held in {kind:?} under adapters");
            check_targets(lora, &*model)?;
            Ok::<_, anyhow::Error>(lora.config().of_base(folder))
        });
        Ok((Self { recipe, device, loaded: Some(model), lora: lora.transpose()? }, Some(said)))
    }

    /// The limits of the loaded model.
    #[must_use]
    pub fn limits(&self) -> Option<Limits> {
        self.loaded.as_ref().map(|model| model.limits())
    }

    /// A system that has learned nothing yet: the starting model, or a fresh adapter. All that are started are alike.
    ///
    /// # Errors
    /// The model's.
    pub fn start(&mut self, tokenizer: &TextTokenizer, precision: Precision) -> Result<System> {
        let (seed, device) = (self.recipe.seed, self.device);
        if let (Some(config), Some(base)) = (&self.lora, &mut self.loaded) {
            let id = base.adapters_mut().add(config.clone(), seed, device).context("`model.lora`")?;
            return Ok(System { weights: Weights::Adapter(id), precision });
        }
        let model = match (self.loaded.take(), &self.recipe.model) {
            (Some(model), _) => model,
            (None, ModelRecipe::Folder { folder, .. }) => load(folder, device, Kind::Float)?.0,
            (None, fresh) => Box::new(fresh_model(fresh, tokenizer, seed, device)?),
        };
        Ok(System { weights: Weights::Whole(model), precision })
    }

    /// A system that goes on from another, which stays as it is: a copy of the model, or of the adapter alone.
    ///
    /// # Errors
    /// The model's.
    pub fn go_on_from(&mut self, system: &System, precision: Precision) -> Result<System> {
        let weights = match &system.weights {
            Weights::Whole(model) => Weights::Whole(model.boxed_copy(Kind::Float)?),
            Weights::Adapter(id) => Weights::Adapter(self.base()?.adapters_mut().copy(*id)?),
        };
        Ok(System { weights, precision })
    }

    /// The model of a system, computing as the system does: a whole one, or the base with the system's adapter, which is
    /// also what training then changes.
    ///
    /// # Errors
    /// The model's, when it does not hold the adapter.
    pub fn choose<'m>(&'m mut self, system: &'m mut System) -> Result<&'m mut (dyn CausalLm + 'static)> {
        let model = match &mut system.weights {
            Weights::Whole(model) => model,
            Weights::Adapter(id) => {
                let base = self.base()?;
                base.adapters_mut().train(Some(*id))?;
                base
            }
        };
        model.set_precision(system.precision);
        Ok(&mut **model)
    }

    fn base(&mut self) -> Result<&mut Box<dyn CausalLm>> {
        match &mut self.loaded {
            Some(base) => Ok(base),
            None => bail!("an adapter without its base: it belongs to the models of another run"),
        }
    }
}

/// Loads a whole model from a folder of a recipe.
fn load(folder: &Path, device: Device, kind: Kind) -> Result<(Box<dyn CausalLm>, persona_model::LoadReport)> {
    let key = || format!("`model.folder`, {}", folder.display());
    if folder.is_dir() && !folder.join("config.json").exists() && folder.join("adapter_config.json").exists()
    {
        bail!("{} holds an adapter; name the folder of a whole model, such as the adapter's base", key());
    }
    load_causal_lm(folder, device, kind).with_context(key)
}

/// Every target has to be on some layer: a misspelled one among others would be passed over.
fn check_targets(lora: &LoraRecipe, model: &dyn Model) -> Result<()> {
    for target in &lora.targets {
        let is = |layer: &str| {
            layer.strip_suffix(target.as_str()).is_some_and(|path| path.is_empty() || path.ends_with('.'))
        };
        let layers = model.adapters();
        if !layers.linear_layers().any(is) {
            let mut known: Vec<&str> =
                layers.linear_layers().filter_map(|layer| layer.rsplit('.').next()).collect();
            known.sort_unstable();
            known.dedup();
            let known = known.join(", ");
            bail!("`model.lora.targets`: this model has no linear layers called `{target}`; it has {known}");
        }
    }
    Ok(())
}
