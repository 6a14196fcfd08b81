//! Soft prompts: embeddings of virtual tokens that are trained in place of weights.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{Base, write_folder};
use crate::config::{OtherKeys, check_sizes};
use crate::error::{Error, Result};
use crate::parameters::{Init, ParameterSpec, Parameters};
use crate::weights::{self, LoadReport, TensorName};

/// Prompt tuning (Lester et al. 2021) with PEFT's keys: virtual tokens whose embeddings stand before every text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SoftPromptConfig {
    /// How many virtual tokens. They take up as many of the model's positions.
    pub num_virtual_tokens: usize,
    /// The width D of the base's embeddings.
    pub token_dim: Option<usize>,
    /// The number of the base's layers.
    pub num_layers: Option<usize>,
    /// The number of the base's attention heads; not compared with the base.
    pub num_attention_heads: Option<usize>,
    /// 1: a causal model has one stack of layers.
    pub num_transformer_submodules: Option<usize>,
    /// Whatever else stands in the file; written back.
    #[serde(flatten)]
    pub other: OtherKeys,
}

/// What the virtual tokens of a fresh soft prompt start as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptStart<'a> {
    /// Standard normal values: PEFT's `RANDOM`.
    Random {
        /// The seed.
        seed: u64,
    },
    /// The embeddings of tokens drawn evenly from the vocabulary: PEFT's `SAMPLE_VOCAB`.
    Vocabulary {
        /// The seed.
        seed: u64,
    },
    /// The embeddings of these tokens, cut or repeated to the number of virtual tokens: PEFT's `TEXT`.
    Tokens(&'a [u32]),
}

impl SoftPromptConfig {
    /// A soft prompt of so many virtual tokens; what else it needs it takes from the model.
    #[must_use]
    pub fn of(num_virtual_tokens: usize) -> Self {
        Self { num_virtual_tokens, ..Self::default() }
    }

    /// Checks that the values make a soft prompt for a causal model.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what would be right.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, reason: String| Err(Error::Config { key, reason });
        check_sizes(&[
            ("num_virtual_tokens", self.num_virtual_tokens),
            ("token_dim", self.token_dim.unwrap_or(1)),
            ("num_layers", self.num_layers.unwrap_or(1)),
        ])?;
        if let Some(stacks) = self.num_transformer_submodules.filter(|&stacks| stacks != 1) {
            return fail("num_transformer_submodules", format!("is {stacks}; a causal model has 1"));
        }
        for (key, value) in &self.other {
            if !is_harmless(key, value) {
                let reason = format!(
                    "`{key}` is {value}, which a soft prompt of a causal model does not have; export it without"
                );
                return fail("adapter_config.json", reason);
            }
        }
        Ok(())
    }

    /// Checks that the soft prompt is one for this base, and notes the base's sizes.
    fn fit(mut self, base: &Base) -> Result<Self> {
        self.validate()?;
        for (key, own, other) in [
            ("token_dim", &mut self.token_dim, base.width()),
            ("num_layers", &mut self.num_layers, base.layers),
        ] {
            if let Some(own) = own.filter(|&own| own != other) {
                let reason = format!("is {own}, the model has {other}: the soft prompt is another base's");
                return Err(Error::Config { key, reason });
            }
            *own = Some(other);
        }
        if self.num_virtual_tokens >= base.positions {
            let reason = format!(
                "is {}, which leaves no room for text in the model's {} positions",
                self.num_virtual_tokens, base.positions
            );
            return Err(Error::Config { key: "num_virtual_tokens", reason });
        }
        Ok(self)
    }

    fn specs(&self, base: &Base, init: Init) -> Vec<ParameterSpec> {
        let shape = vec![self.num_virtual_tokens as i64, base.width() as i64];
        vec![ParameterSpec { name: EMBEDDINGS.to_owned(), shape, init }]
    }
}

/// Whether a key is known to leave a loaded soft prompt's numbers alone.
fn is_harmless(key: &str, value: &Value) -> bool {
    match key {
        "peft_type" => value == "PROMPT_TUNING",
        "task_type" => value.is_null() || value == "CAUSAL_LM",
        "prompt_tuning_init" => {
            matches!(value.as_str(), Some("RANDOM" | "TEXT" | "SAMPLE_VOCAB")) || value.is_null()
        }
        "auto_mapping"
        | "base_model_name_or_path"
        | "inference_mode"
        | "peft_version"
        | "revision"
        | "prompt_tuning_init_text"
        | "tokenizer_name_or_path"
        | "tokenizer_kwargs" => true,
        _ => match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        },
    }
}

/// A soft prompt that is held beside a model.
#[derive(Debug)]
pub struct SoftPrompt {
    config: SoftPromptConfig,
    parameters: Parameters,
}

/// PEFT's name of the one tensor.
const EMBEDDINGS: &str = "prompt_embeddings";

impl SoftPrompt {
    /// A fresh soft prompt.
    pub(super) fn new(
        config: SoftPromptConfig,
        start: PromptStart<'_>,
        base: &Base,
        device: Device,
    ) -> Result<Self> {
        let config = config.fit(base)?;
        let tokens = config.num_virtual_tokens;
        let (init, seed, ids) = match start {
            PromptStart::Random { seed } => (Init::Normal(1.0), seed, None),
            PromptStart::Vocabulary { seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let id = |_| rng.random_range(0..base.vocabulary()) as i64;
                (Init::Zeros, 0, Some((0..tokens).map(id).collect::<Vec<_>>()))
            }
            PromptStart::Tokens(ids) => {
                if ids.is_empty() {
                    let reason = "no token ids to start the virtual tokens from".to_owned();
                    return Err(Error::Config { key: "num_virtual_tokens", reason });
                }
                if let Some(&id) = ids.iter().find(|&&id| id as usize >= base.vocabulary()) {
                    return Err(Error::Vocabulary { id, row: 0, vocabulary: base.vocabulary() });
                }
                let ids = ids.iter().cycle().take(tokens).map(|&id| i64::from(id));
                (Init::Zeros, 0, Some(ids.collect()))
            }
        };
        let parameters = Parameters::new(config.specs(base, init), seed, device, Kind::Float)?;
        let soft = Self { config, parameters };
        if let Some(ids) = ids {
            let _no_grad = tch::no_grad_guard();
            let weight = &base.embedding.weight;
            let ids = Tensor::f_from_slice(&ids)?.f_to_device(weight.device())?;
            soft.embeddings().shallow_clone().f_copy_(&weight.f_index_select(0, &ids)?)?;
        }
        Ok(soft)
    }

    /// Reads a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, which holds `prompt_embeddings [V, D]`
    /// and nothing else.
    pub(super) fn load(folder: &Path, base: &Base, device: Device) -> Result<(Self, LoadReport)> {
        let config: SoftPromptConfig = super::config::read(folder)?;
        let config = config.fit(base)?;
        let name = |name: &str| TensorName::Parameter(name.to_owned());
        let file = folder.join("adapter_model.safetensors");
        let (parameters, report) =
            weights::load_new(&file, config.specs(base, Init::Zeros), device, Kind::Float, &name)?;
        Ok((Self { config, parameters }, report))
    }

    /// The same soft prompt with storage of its own.
    pub(super) fn copy(&self) -> Result<Self> {
        Ok(Self { config: self.config.clone(), parameters: self.parameters.copy(Kind::Float)? })
    }

    /// Writes a PEFT folder, each file whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`]; what was there before stays.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let rest = [
            ("task_type", "CAUSAL_LM".into()),
            ("num_transformer_submodules", 1.into()),
            ("prompt_tuning_init", "RANDOM".into()),
        ];
        let tensors = [(EMBEDDINGS.to_owned(), self.embeddings().shallow_clone())];
        write_folder(folder, &self.config, "PROMPT_TUNING", &rest, &tensors)
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &SoftPromptConfig {
        &self.config
    }

    /// The one parameter: `prompt_embeddings [V, D]` for V virtual tokens, in float32.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    pub(super) fn virtual_tokens(&self) -> usize {
        self.config.num_virtual_tokens
    }

    pub(super) fn embeddings(&self) -> &Tensor {
        &self.parameters.leaves()[0]
    }
}
