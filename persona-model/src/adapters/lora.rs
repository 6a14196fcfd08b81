//! One LoRA: its low-rank matrices for each linear layer that it sits on, and its own embeddings where it has any.

use std::collections::BTreeSet;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::{LoraConfig, Targets, is_named};
use super::{Base, Module, write_folder};
use crate::error::{Error, Result};
use crate::layers::Layout;
use crate::parameters::{Init, ParameterSpec, Parameters};
use crate::resize::Resize;
use crate::weights::{self, LoadReport, TensorName};

/// A linear layer of a model, as adapters see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// The module's path in the checkpoint.
    pub(crate) module: String,
    pub(crate) inputs: i64,
    pub(crate) outputs: i64,
    pub(crate) layout: Layout,
}

/// A LoRA that is held beside a model.
#[derive(Debug)]
pub struct Lora {
    config: LoraConfig,
    parameters: Parameters,
    /// Embeddings and head of a resized base, which PEFT saves with the adapter. They are not trained.
    frozen: Option<Parameters>,
    /// For each linear layer of the model, in the model's order.
    sites: Vec<Option<LowRank>>,
    own: Option<OwnModules>,
    /// The tensor of the head, where it is the adapter's own embedding under a second name.
    tied_head: Option<String>,
    /// Whether the model is a causal language model.
    causal: bool,
}

/// What a LoRA adds to one linear layer.
#[derive(Debug)]
pub(crate) struct LowRank {
    /// `[r, in]`.
    pub(crate) a: Tensor,
    /// `[out, r]`.
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
}

/// What a LoRA computes with in place of the base's weights, each `[V, D]`.
#[derive(Debug)]
pub(crate) struct OwnModules {
    pub(crate) embedding: Option<Tensor>,
    pub(crate) head: Option<Tensor>,
}

/// PEFT's prefix before the module's path.
const PREFIX: &str = "base_model.model.";

fn bare(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The modules that a configuration saves, and whether the head is the embedding under a second name.
fn saved<'b>(config: &LoraConfig, base: Option<&'b Base>) -> Result<(Vec<&'b Module>, bool)> {
    let names = config.modules_to_save.as_deref().unwrap_or_default();
    let known: Vec<&Module> = base.map(Base::modules).into_iter().flatten().collect();
    let is = |module: &Module, name: &str| is_named(&module.path, name);
    let known_as = |name: &String| known.iter().any(|module| is(module, name));
    if let Some(name) = names.iter().find(|name| !known_as(name)) {
        let paths: Vec<&str> = known.iter().map(|module| module.path.as_str()).collect();
        let reason =
            format!("`{name}` cannot be saved with an adapter here; what can is [{}]", paths.join(", "));
        return Err(Error::Config { key: "modules_to_save", reason });
    }
    let tied = config.ensure_weight_tying && base.is_some_and(|base| base.tied) && !names.is_empty();
    let wanted = |module: &&Module| names.iter().any(|name| is(module, name));
    let modules =
        if tied { known.into_iter().take(1).collect() } else { known.into_iter().filter(wanted).collect() };
    Ok((modules, tied))
}

/// The error for targets that no linear layer matches.
fn no_site(targets: &str, sites: &[Site]) -> Error {
    let known: BTreeSet<&str> = sites.iter().filter_map(|site| site.module.rsplit('.').next()).collect();
    let known: Vec<&str> = known.into_iter().collect();
    let reason =
        format!("{targets} is on no linear layer of this model, whose layers are {}", known.join(", "));
    Error::Config { key: "target_modules", reason }
}

/// Every target name is on some layer: a misspelled one among others would be passed over.
fn check_names(config: &LoraConfig, sites: &[Site]) -> Result<()> {
    let Targets::Names(names) = &config.target_modules else { return Ok(()) };
    let on_none = |name: &&String| !sites.iter().any(|site| is_named(&site.module, name));
    names.iter().find(on_none).map_or(Ok(()), |name| Err(no_site(&format!("`{name}`"), sites)))
}

/// The shapes of an adapter for these layers: low-rank matrices, then saved modules.
fn specs(config: &LoraConfig, sites: &[Site], saved: &[&Module]) -> Result<Vec<ParameterSpec>> {
    config.validate()?;
    let mut specs = Vec::new();
    for site in sites {
        if config.is_target(&site.module)? {
            let rank = config.rank(&site.module)? as i64;
            // Kaiming's bound with slope sqrt(5): one over the root of the inputs.
            let bound = (site.inputs as f64).powf(-0.5);
            let spec = |matrix: &str, shape: [i64; 2], init| ParameterSpec {
                name: format!("{}.lora_{matrix}.weight", site.module),
                shape: shape.to_vec(),
                init,
            };
            specs.push(spec("A", [rank, site.inputs], Init::Uniform(bound)));
            specs.push(spec("B", [site.outputs, rank], Init::Zeros));
        }
    }
    if specs.is_empty() {
        return Err(no_site(&serde_json::to_string(&config.target_modules).unwrap_or_default(), sites));
    }
    specs.extend(saved.iter().map(|module| module.spec()));
    Ok(specs)
}

impl Lora {
    /// A fresh adapter, which changes nothing yet: A uniform as `nn.Linear` starts, drawn from `seed`, B zero, saved
    /// modules as the base has them.
    pub(super) fn new(
        config: LoraConfig,
        sites: &[Site],
        base: Option<&Base>,
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        check_names(&config, sites)?;
        let (saved, _) = saved(&config, base)?;
        let parameters = Parameters::new(specs(&config, sites, &saved)?, seed, device, Kind::Float)?;
        let _no_grad = tch::no_grad_guard();
        for module in saved {
            if let Some(copy) = parameters.get(&module.weight_name()) {
                copy.shallow_clone().f_copy_(&module.weight)?;
            }
        }
        Self::assemble(config, parameters, None, sites, base)
    }

    fn assemble(
        config: LoraConfig,
        parameters: Parameters,
        frozen: Option<Parameters>,
        sites: &[Site],
        base: Option<&Base>,
    ) -> Result<Self> {
        let low_rank = |site: &Site| -> Result<Option<LowRank>> {
            let get = |matrix: &str| parameters.get(&format!("{}.lora_{matrix}.weight", site.module));
            let (Some(a), Some(b)) = (get("A"), get("B")) else { return Ok(None) };
            let scale = config.scale(&site.module)?;
            Ok(Some(LowRank { a: a.shallow_clone(), b: b.shallow_clone(), scale }))
        };
        let sites = sites.iter().map(low_rank).collect::<Result<_>>()?;
        let (_, tied) = saved(&config, base)?;
        let (mut own, mut tied_head) = (None, None);
        if let Some(base) = base {
            let find =
                |module: &Module, of: &Parameters| of.get(&module.weight_name()).map(Tensor::shallow_clone);
            let held = |module: &Module| {
                find(module, &parameters).or_else(|| frozen.as_ref().and_then(|frozen| find(module, frozen)))
            };
            let embedding = held(&base.embedding);
            let mut head = held(&base.head);
            if tied {
                head = embedding.as_ref().map(Tensor::shallow_clone);
                tied_head = Some(base.head.weight_name());
            } else if base.tied && head.is_none() && find(&base.embedding, &parameters).is_none() {
                // The resized base's own embedding, which its head shares.
                head = embedding.as_ref().map(Tensor::shallow_clone);
            }
            let any = embedding.is_some() || head.is_some();
            own = any.then_some(OwnModules { embedding, head });
        }
        Ok(Self { config, parameters, frozen, sites, own, tied_head, causal: base.is_some() })
    }

    /// Reads a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, with exactly the tensors that the
    /// configuration asks for, and the embeddings and head of a resized base where they lie there.
    pub(super) fn load(
        folder: &Path,
        sites: &[Site],
        base: Option<&Base>,
        device: Device,
    ) -> Result<(Self, LoadReport)> {
        let config = LoraConfig::from_folder(folder)?;
        let (saved, tied) = saved(&config, base)?;
        let specs = specs(&config, sites, &saved)?;
        let file = folder.join("adapter_model.safetensors");
        let shapes = weights::shapes(&file)?;
        let modules: Vec<&Module> = base.map(Base::modules).into_iter().flatten().collect();
        let of = |name: &str| modules.iter().find(|module| module.weight_name() == bare(name));
        for (name, shape) in &shapes {
            if let (Some(module), Some(&rows)) = (of(name), shape.first())
                && rows as usize != module.rows()
            {
                let (file_rows, model) = (rows as usize, module.rows());
                return Err(Error::EmbeddingRows {
                    path: file,
                    tensor: name.clone(),
                    file: file_rows,
                    model,
                });
            }
        }
        let is_saved = |module: &Module| saved.iter().any(|saved| saved.path == module.path);
        let is_frozen = |name: &str| !tied && of(name).is_some_and(|module| !is_saved(module));
        // PEFT writes a saved module of a resized base three times over.
        let is_copy = |name: &str| {
            let module = |end: &str| bare(name).strip_suffix(end);
            let path = module(".modules_to_save.weight").or_else(|| module(".original_module.weight"));
            path.is_some_and(|path| saved.iter().any(|saved| saved.path == path))
                || (tied && of(name).is_some_and(|module| !is_saved(module)))
        };
        let trained = |name: &str| {
            if is_frozen(name) || is_copy(name) {
                TensorName::Ignored
            } else {
                TensorName::Parameter(bare(name).to_owned())
            }
        };
        let (parameters, mut report) = weights::load_new(&file, specs, device, Kind::Float, &trained)?;
        let frozen: Vec<_> =
            shapes.keys().filter(|name| is_frozen(name)).filter_map(|name| Some(of(name)?.spec())).collect();
        let frozen = if frozen.is_empty() {
            None
        } else {
            let name = |name: &str| {
                if is_frozen(name) {
                    TensorName::Parameter(bare(name).to_owned())
                } else {
                    TensorName::Ignored
                }
            };
            let (frozen, more) = weights::load_new(&file, frozen, device, Kind::Float, &name)?;
            report.loaded += more.loaded;
            report.cast.extend(more.cast);
            report.ignored.retain(|name| !is_frozen(name));
            Some(frozen)
        };
        Ok((Self::assemble(config, parameters, frozen, sites, base)?, report))
    }

    /// The same adapter with storage of its own.
    pub(super) fn copy(&self, sites: &[Site], base: Option<&Base>) -> Result<Self> {
        let frozen = self.frozen.as_ref().map(|frozen| frozen.copy(Kind::Float)).transpose()?;
        Self::assemble(self.config.clone(), self.parameters.copy(Kind::Float)?, frozen, sites, base)
    }

    /// The same adapter for a base whose embeddings have been resized.
    pub(super) fn resized(&self, sites: &[Site], base: &Base, how: Resize, deviation: f64) -> Result<Self> {
        let resized = |parameters: &Parameters| {
            let spec = |spec: &ParameterSpec| {
                let module = base.modules().into_iter().find(|module| module.weight_name() == spec.name);
                module.map_or_else(|| spec.clone(), Module::spec)
            };
            parameters.resized(parameters.specs().iter().map(spec).collect(), how, deviation)
        };
        let frozen = self.frozen.as_ref().map(resized).transpose()?;
        Self::assemble(self.config.clone(), resized(&self.parameters)?, frozen, sites, Some(base))
    }

    /// Writes a PEFT folder, each file whole or not at all. [`Adapters::save`](super::Adapters::save) adds the embeddings
    /// of a base that was resized.
    ///
    /// # Errors
    /// [`Error::Io`]; what was there before stays.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_with(folder, &[])
    }

    /// Writes a PEFT folder with the weights of some of the base's modules.
    pub(super) fn save_with(&self, folder: &Path, modules: &[&Module]) -> Result<()> {
        let mut tensors = Vec::new();
        let mut add = |name: &str, tensor: &Tensor| {
            tensors.push((format!("{PREFIX}{name}"), tensor.shallow_clone()));
        };
        for parameters in [Some(&self.parameters), self.frozen.as_ref()].into_iter().flatten() {
            parameters.specs().iter().zip(parameters.leaves()).for_each(|(spec, leaf)| add(&spec.name, leaf));
        }
        if let (Some(name), Some(head)) =
            (&self.tied_head, self.own.as_ref().and_then(|own| own.head.as_ref()))
        {
            add(name, head);
        }
        modules.iter().for_each(|module| add(&module.weight_name(), &module.weight));
        let mut rest = vec![("bias", "none".into())];
        // A null there is PEFT's own: an adapter of no task in particular.
        if self.causal && !self.config.other.contains_key("task_type") {
            rest.push(("task_type", "CAUSAL_LM".into()));
        }
        write_folder(folder, &self.config, "LORA", &rest, &tensors)
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// What is trained: the low-rank matrices by module, `PATH.lora_A.weight` and `PATH.lora_B.weight`, and the copies of
    /// `modules_to_save`, `PATH.weight`.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    pub(super) fn frozen(&self) -> Option<&Parameters> {
        self.frozen.as_ref()
    }

    pub(super) fn own(&self) -> Option<&OwnModules> {
        self.own.as_ref()
    }

    pub(crate) fn at(&self, site: usize) -> Option<&LowRank> {
        self.sites.get(site)?.as_ref()
    }
}
