//! What the configurations of all models share: reading `config.json`, and checks of their values.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tch::Kind;

use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::{quantized, weights};

/// Keys of `config.json` that a model does not know; they are kept and written back.
pub type OtherKeys = Map<String, Value>;

/// Reads `config.json` of a folder.
pub(crate) fn read<C: DeserializeOwned>(folder: &Path) -> Result<C> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(Error::json(&path))
}

/// The architecture must be one of these, where the file names one.
pub(crate) fn check_model_type(other: &OtherKeys, known: &[&str]) -> Result<()> {
    match other.get("model_type").and_then(Value::as_str) {
        Some(kind) if !known.contains(&kind) => {
            let reason = format!("is `{kind}`; this loader reads {}", known.join(" and "));
            Err(Error::Config { key: "model_type", reason })
        }
        _ => Ok(()),
    }
}

/// The error for an architecture that a loader does not have, or for none.
pub(crate) fn unknown_model_type(found: Option<&str>, known: &str) -> Error {
    let found = found.map_or_else(|| "is missing".to_owned(), |found| format!("is `{found}`"));
    Error::Config { key: "model_type", reason: format!("{found}; {known}") }
}

/// Sizes are at least 1, and so small that products of two are far from overflow, whatever a file claims.
pub(crate) fn check_sizes(sizes: &[(&'static str, usize)]) -> Result<()> {
    const MOST: usize = 1 << 24;
    match sizes.iter().find(|(_, size)| *size == 0 || *size > MOST) {
        Some(&(key, size)) => {
            Err(Error::Config { key, reason: format!("is {size}; a model needs 1 to {MOST}") })
        }
        None => Ok(()),
    }
}

/// Layers are so few that a list of all parameters is small.
pub(crate) fn check_layers(key: &'static str, layers: usize) -> Result<()> {
    const MOST: usize = 1 << 12;
    if (1..=MOST).contains(&layers) {
        return Ok(());
    }
    Err(Error::Config { key, reason: format!("is {layers}; a model has 1 to {MOST} layers") })
}

/// Shares that are dropped in training.
pub(crate) fn check_dropouts(dropouts: &[(&'static str, f64)]) -> Result<()> {
    match dropouts.iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
        Some(&(key, share)) => {
            Err(Error::Config { key, reason: format!("is {share}; a dropout lies in 0 to 1, without 1") })
        }
        None => Ok(()),
    }
}

/// The constant in a norm's denominator.
pub(crate) fn check_epsilon(key: &'static str, epsilon: f64) -> Result<()> {
    if epsilon > 0.0 && epsilon.is_finite() {
        return Ok(());
    }
    Err(Error::Config { key, reason: format!("is {epsilon}; it must be above 0") })
}

/// The standard deviation of fresh weights.
pub(crate) fn check_deviation(key: &'static str, deviation: f64) -> Result<()> {
    if deviation >= 0.0 && deviation.is_finite() {
        return Ok(());
    }
    Err(Error::Config { key, reason: format!("is {deviation}; it must not be negative") })
}

/// Every head has the same whole number of features.
pub(crate) fn check_divides(
    (whole_key, whole): (&'static str, usize),
    (key, part): (&'static str, usize),
) -> Result<()> {
    if whole.is_multiple_of(part) {
        return Ok(());
    }
    Err(Error::Config { key, reason: format!("is {part}, which does not divide {whole_key} {whole}") })
}

/// Writes a model in the Hugging Face layout: `config.json`, with the architecture in it, and `model.safetensors`.
pub(crate) fn save(
    folder: &Path,
    mut config: Value,
    model_type: &str,
    architecture: &str,
    parameters: &Parameters,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    config["model_type"] = model_type.into();
    config["architectures"] = serde_json::json!([architecture]);
    let dtype = match parameters.kind() {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    config["dtype"] = dtype.into();
    quantized::update_config(&mut config, parameters);
    if let Some(keys) = config.as_object_mut() {
        // The older name of the same key.
        keys.remove("torch_dtype");
    }
    let path = folder.join("config.json");
    let text = serde_json::to_vec_pretty(&config).map_err(Error::json(&path))?;
    let tensors = parameters.tensors()?;
    weights::write_with_config((&folder.join("model.safetensors"), &tensors), (&path, &text))
}
