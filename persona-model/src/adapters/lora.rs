//! One LoRA: its low-rank matrices for each linear layer that it sits on.

use std::collections::BTreeSet;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::LoraConfig;
use crate::error::{Error, Result};
use crate::layers::Layout;
use crate::parameters::{Init, ParameterSpec, Parameters};
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
    /// For each linear layer of the model, in the model's order.
    sites: Vec<Option<LowRank>>,
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

/// PEFT's prefix before the module's path.
const PREFIX: &str = "base_model.model.";

impl Lora {
    /// A fresh adapter, which changes nothing yet: A uniform as `nn.Linear` starts, drawn from `seed`, B zero.
    pub(super) fn new(config: LoraConfig, sites: &[Site], seed: u64, device: Device) -> Result<Self> {
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
            let known: BTreeSet<&str> =
                sites.iter().filter_map(|site| site.module.rsplit('.').next()).collect();
            let known: Vec<&str> = known.into_iter().collect();
            let reason = format!(
                "{} is on no linear layer of this model, whose layers are {}",
                serde_json::to_string(&config.target_modules).unwrap_or_default(),
                known.join(", ")
            );
            return Err(Error::Config { key: "target_modules", reason });
        }
        let parameters = Parameters::new(specs, seed, device, Kind::Float)?;
        let low_rank = |site: &Site| -> Result<Option<LowRank>> {
            let get = |matrix: &str| parameters.get(&format!("{}.lora_{matrix}.weight", site.module));
            let (Some(a), Some(b)) = (get("A"), get("B")) else { return Ok(None) };
            let scale = config.scale(&site.module)?;
            Ok(Some(LowRank { a: a.shallow_clone(), b: b.shallow_clone(), scale }))
        };
        let sites = sites.iter().map(low_rank).collect::<Result<_>>()?;
        Ok(Self { config, parameters, sites })
    }

    /// Reads a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, with exactly the tensors that the
    /// configuration asks for.
    pub(super) fn load(folder: &Path, sites: &[Site], device: Device) -> Result<(Self, LoadReport)> {
        let config = LoraConfig::from_folder(folder)?;
        let mut lora = Self::new(config, sites, 0, device)?;
        let name = |name: &str| TensorName::Parameter(name.strip_prefix(PREFIX).unwrap_or(name).to_owned());
        let file = folder.join("adapter_model.safetensors");
        let report = weights::load(&file, &mut lora.parameters, &name)?;
        Ok((lora, report))
    }

    /// Writes a PEFT folder, each file whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`]; what was there before stays.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join("adapter_config.json");
        let mut config = serde_json::to_value(&self.config).map_err(Error::json(&path))?;
        config["peft_type"] = "LORA".into();
        for (key, value) in [("task_type", "CAUSAL_LM"), ("bias", "none")] {
            if config.get(key).is_none() {
                config[key] = value.into();
            }
        }
        config["inference_mode"] = true.into();
        let text = serde_json::to_vec_pretty(&config).map_err(Error::json(&path))?;
        let leaves = self.parameters.specs().iter().zip(self.parameters.leaves());
        let tensors: Vec<(String, Tensor)> =
            leaves.map(|(spec, leaf)| (format!("{PREFIX}{}", spec.name), leaf.shallow_clone())).collect();
        weights::write_with_config((&folder.join("adapter_model.safetensors"), &tensors), (&path, &text))
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The low-rank matrices, by module: `PATH.lora_A.weight` and `PATH.lora_B.weight`.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    pub(crate) fn at(&self, site: usize) -> Option<&LowRank> {
        self.sites.get(site)?.as_ref()
    }
}
