//! What a LoRA is made of: PEFT's `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::OtherKeys;
use crate::error::{Error, Result};

/// A low-rank adapter (LoRA; Hu et al. 2021) with PEFT's keys and defaults: each target's output gets
/// `scale (dropout(x) A^T) B^T` added, with A `[r, in]` and B `[out, r]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// The rank.
    pub r: usize,
    /// `scale = lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of the inputs that are dropped before A in training.
    pub lora_dropout: f64,
    /// `scale = lora_alpha / sqrt(r)` (rsLoRA; Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Which linear layers.
    pub target_modules: Targets,
    /// Linear layers that are left out, by the same rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Layers by number; None for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Layers>,
    /// Other ranks for the modules whose names end with a key, or match it as a regular expression.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas, by the same rules.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules that get full copies of their weights, trained and saved beside the low-rank matrices: the embeddings
    /// (`wte`, `embed_tokens`) and the head (`lm_head`) here, by the same rules as targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_to_save: Option<Vec<String>>,
    /// Where the base ties head and embeddings, one copy in `modules_to_save` serves both. Without it they part: the one
    /// that is not in `modules_to_save` stays the base's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ensure_weight_tying: bool,
    /// Whatever else stands in the file; written back.
    #[serde(flatten)]
    pub other: OtherKeys,
}

/// Which linear layers an adapter sits on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// Modules of these names, or whose path ends with one: `q_proj`, `self_attn.q_proj`.
    Names(Vec<String>),
    /// A regular expression that the whole path matches; `all-linear` is every linear layer.
    Pattern(String),
}

/// One layer or several, by number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    /// One layer.
    One(usize),
    /// Several.
    Many(Vec<usize>),
}

impl Default for LoraConfig {
    /// PEFT's: rank 8, alpha 8, on every linear layer.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: Targets::Pattern("all-linear".to_owned()),
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: None,
            ensure_weight_tying: false,
            other: OtherKeys::new(),
        }
    }
}

impl LoraConfig {
    /// A LoRA on the linear layers of these names.
    pub fn on(target_modules: &[&str], r: usize, lora_alpha: f64) -> Self {
        let names = target_modules.iter().map(|&name| name.to_owned()).collect();
        Self { r, lora_alpha, target_modules: Targets::Names(names), ..Self::default() }
    }

    /// The same, of a base in a folder, which the adapter's own folder then names.
    #[must_use]
    pub fn of_base(mut self, folder: &Path) -> Self {
        self.other.insert(BASE.to_owned(), folder.display().to_string().into());
        self
    }

    /// Reads `adapter_config.json` of a folder, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], and [`Error::Config`] for another kind of adapter, an option that would change
    /// the numbers and is not known here, or values out of range.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let config: Self = read(folder)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that the values make an adapter.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what would be right.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, reason: String| Err(Error::Config { key, reason });
        match self.other.get("peft_type").and_then(Value::as_str) {
            None | Some("LORA") => {}
            Some(kind) => {
                return fail("peft_type", format!("is `{kind}`; `LORA` and `PROMPT_TUNING` are known here"));
            }
        }
        let ranks = self.rank_pattern.values().chain([&self.r]);
        if let Some(rank) = ranks.into_iter().find(|&&rank| rank == 0 || rank > 1 << 16) {
            return fail("r", format!("is {rank}; a rank is 1 to {}", 1 << 16));
        }
        if !self.alpha_pattern.values().chain([&self.lora_alpha]).all(|alpha| alpha.is_finite()) {
            return fail("lora_alpha", format!("is {}; it must be a number", self.lora_alpha));
        }
        crate::config::check_dropouts(&[("lora_dropout", self.lora_dropout)])?;
        for (key, value) in &self.other {
            if !is_harmless(key, value) {
                let reason = format!(
                    "`{key}` is {value}, which changes what the adapter computes and is not known here; \
                     export the adapter without it"
                );
                return fail("adapter_config.json", reason);
            }
        }
        Ok(())
    }

    /// The factor on the low-rank product for a module.
    pub(crate) fn scale(&self, module: &str) -> Result<f64> {
        let alpha = pattern_value(&self.alpha_pattern, module)?.unwrap_or(self.lora_alpha);
        let rank = self.rank(module)? as f64;
        Ok(if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank })
    }

    pub(crate) fn rank(&self, module: &str) -> Result<usize> {
        Ok(pattern_value(&self.rank_pattern, module)?.unwrap_or(self.r))
    }

    /// Whether the adapter sits on a module.
    pub(crate) fn is_target(&self, module: &str) -> Result<bool> {
        if let Some(excluded) = &self.exclude_modules
            && excluded.matches("exclude_modules", module)?
        {
            return Ok(false);
        }
        let in_layers = match &self.layers_to_transform {
            None => true,
            Some(Layers::One(layer)) => layer_of(module) == Some(*layer),
            Some(Layers::Many(layers)) => layer_of(module).is_some_and(|layer| layers.contains(&layer)),
        };
        Ok(in_layers && self.target_modules.matches("target_modules", module)?)
    }
}

/// PEFT's key of the base that an adapter was trained on.
pub(crate) const BASE: &str = "base_model_name_or_path";

/// Reads `adapter_config.json` of a folder.
pub(crate) fn read<C: DeserializeOwned>(folder: &Path) -> Result<C> {
    let path = folder.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(Error::json(&path))
}

/// The first number in a module's path.
fn layer_of(module: &str) -> Option<usize> {
    module.split('.').find_map(|part| part.parse().ok())
}

/// PEFT's rule for patterns: the key is the end of the path, and may be a regular expression.
fn pattern_value<V: Copy>(patterns: &BTreeMap<String, V>, module: &str) -> Result<Option<V>> {
    for (pattern, value) in patterns {
        if expression("rank_pattern", &format!(r"(?:.*\.)?(?:{pattern})"))?.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

impl Targets {
    fn matches(&self, key: &'static str, module: &str) -> Result<bool> {
        Ok(match self {
            Self::Names(names) => names.iter().any(|name| is_named(module, name)),
            Self::Pattern(pattern) if pattern == "all-linear" => true,
            Self::Pattern(pattern) => expression(key, pattern)?.is_match(module),
        })
    }
}

/// Whether a module's path is a name, or ends with it.
pub(super) fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|path| path.is_empty() || path.ends_with('.'))
}

/// A regular expression that the whole text has to match.
fn expression(key: &'static str, pattern: &str) -> Result<Regex> {
    let whole = format!("^(?:{pattern})$");
    Regex::new(&whole).map_err(|error| Error::Config { key, reason: format!("`{pattern}`: {error}") })
}

/// Whether a key that this crate does not interpret leaves the numbers alone.
fn is_harmless(key: &str, value: &Value) -> bool {
    const ANY: [&str; 17] = [
        "auto_mapping",
        BASE,
        "revision",
        "inference_mode",
        "task_type",
        "peft_type",
        "peft_version",
        "fan_in_fan_out",
        "loftq_config",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
        "init_lora_weights",
        "eva_config",
        "corda_config",
        "lora_ga_config",
    ];
    let off = match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => key == "bias" && text == "none",
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match key {
        // These start the base from other weights than the checkpoint's.
        "init_lora_weights" => {
            let name = value.as_str().map(str::to_lowercase).unwrap_or_default();
            !["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|known| name.starts_with(known))
        }
        "corda_config" | "lora_ga_config" | "loftq_config" => off,
        _ => off || ANY.contains(&key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_whole_parts_of_a_path() {
        let config = LoraConfig::on(&["q_proj", "mlp.c_fc"], 4, 8.0);
        let is = |config: &LoraConfig, module: &str| config.is_target(module).unwrap();
        assert!(is(&config, "model.layers.0.self_attn.q_proj"));
        assert!(is(&config, "transformer.h.1.mlp.c_fc") && is(&config, "q_proj"));
        assert!(!is(&config, "model.layers.0.self_attn.xq_proj") && !is(&config, "h.1.attn.c_fc"));
        let second = LoraConfig { layers_to_transform: Some(Layers::Many(vec![1])), ..config };
        assert!(!is(&second, "model.layers.0.self_attn.q_proj") && is(&second, "transformer.h.1.mlp.c_fc"));
        let target_modules = Targets::Pattern(r".*\.layers\.[02]\.mlp\..*".to_owned());
        let pattern = LoraConfig { target_modules, ..LoraConfig::default() };
        assert!(is(&pattern, "model.layers.2.mlp.up_proj") && !is(&pattern, "model.layers.1.mlp.up_proj"));
        let broken = LoraConfig { target_modules: Targets::Pattern("(".into()), ..LoraConfig::default() };
        assert!(broken.is_target("a").unwrap_err().to_string().contains("target_modules"));
    }

    #[test]
    fn scales_follow_rank_alpha_and_patterns() {
        let mut config = LoraConfig::on(&["q_proj", "v_proj"], 4, 8.0);
        assert_eq!(config.scale("a.q_proj").unwrap(), 2.0);
        config.rank_pattern.insert("v_proj".into(), 16);
        config.alpha_pattern.insert(r"h\.1\.v_proj".into(), 32.0);
        assert_eq!((config.rank("a.v_proj").unwrap(), config.rank("a.q_proj").unwrap()), (16, 4));
        assert_eq!((config.scale("h.0.v_proj").unwrap(), config.scale("h.1.v_proj").unwrap()), (0.5, 2.0));
        config.use_rslora = true;
        assert_eq!(config.scale("h.1.v_proj").unwrap(), 8.0);
    }

    #[test]
    fn options_that_would_change_the_numbers_are_refused() {
        let config = |key: &str, value: Value| {
            let mut config = LoraConfig::default();
            config.other.insert(key.to_owned(), value);
            config.validate()
        };
        for (key, value) in [
            ("use_dora", Value::Bool(true)),
            ("bias", "all".into()),
            ("init_lora_weights", "pissa_niter_4".into()),
            ("init_lora_weights", "OLoRA".into()),
            ("trainable_token_indices", serde_json::json!([3])),
            ("something_new", 3.into()),
        ] {
            assert!(config(key, value.clone()).unwrap_err().to_string().contains(key), "{key} {value}");
        }
        config("init_lora_weights", Value::Bool(true)).unwrap();
        config("init_lora_weights", "eva".into()).unwrap();
        config("eva_config", serde_json::json!({ "rho": 2.0 })).unwrap();
        config("bias", "none".into()).unwrap();
        config("something_new", Value::Null).unwrap();
        assert!(config("peft_type", "IA3".into()).unwrap_err().to_string().contains("IA3"));
        assert!(LoraConfig { r: 0, ..LoraConfig::default() }.validate().is_err());
        assert!(LoraConfig { lora_dropout: 1.0, ..LoraConfig::default() }.validate().is_err());
    }
}
