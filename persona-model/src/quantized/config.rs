//! `quantization_config` of a `config.json`, in transformers' keys.

use serde::Deserialize;
use serde_json::{Value, json};
use tch::Kind;

use super::Nf4;
use crate::config::OtherKeys;
use crate::error::{Error, Result};
use crate::parameters::Parameters;

const KEY: &str = "quantization_config";

#[derive(Deserialize)]
#[serde(default)]
struct QuantizationConfig {
    quant_method: String,
    load_in_4bit: bool,
    load_in_8bit: bool,
    bnb_4bit_quant_type: String,
    bnb_4bit_use_double_quant: bool,
    bnb_4bit_compute_dtype: String,
    bnb_4bit_quant_storage: String,
}

impl Default for QuantizationConfig {
    /// transformers' defaults.
    fn default() -> Self {
        Self {
            quant_method: "bitsandbytes".to_owned(),
            load_in_4bit: false,
            load_in_8bit: false,
            bnb_4bit_quant_type: "fp4".to_owned(),
            bnb_4bit_use_double_quant: false,
            bnb_4bit_compute_dtype: "float32".to_owned(),
            bnb_4bit_quant_storage: "uint8".to_owned(),
        }
    }
}

/// How a checkpoint is quantised, from all keys of its `config.json`; None where it is not.
///
/// # Errors
/// [`Error::Config`] for whatever is not NF4.
pub(super) fn read(keys: &OtherKeys) -> Result<Option<Nf4>> {
    let Some(value) = keys.get(KEY).filter(|value| !value.is_null()) else { return Ok(None) };
    let fail = |key: &'static str, reason: String| Err(Error::Config { key, reason });
    let config: QuantizationConfig = match serde_json::from_value(value.clone()) {
        Ok(config) => config,
        Err(error) => return fail(KEY, format!("{error}; bitsandbytes' NF4 is read")),
    };
    if config.quant_method != "bitsandbytes" {
        let reason = format!("is `{}`; bitsandbytes' NF4 is read", config.quant_method);
        return fail("quantization_config.quant_method", reason);
    }
    if config.load_in_8bit {
        let reason =
            "is true: int8 weights are not read; take the float checkpoint, or one in NF4".to_owned();
        return fail("quantization_config.load_in_8bit", reason);
    }
    if !config.load_in_4bit {
        return fail("quantization_config.load_in_4bit", "is not true; bitsandbytes' NF4 is read".to_owned());
    }
    if config.bnb_4bit_quant_type != "nf4" {
        let reason = format!("is `{}`; `nf4` is read", config.bnb_4bit_quant_type);
        return fail("quantization_config.bnb_4bit_quant_type", reason);
    }
    if config.bnb_4bit_quant_storage != "uint8" {
        let reason = format!("is `{}`; `uint8` is read", config.bnb_4bit_quant_storage);
        return fail("quantization_config.bnb_4bit_quant_storage", reason);
    }
    if kind_of(&config.bnb_4bit_compute_dtype).is_none() {
        let reason =
            format!("is `{}`; float32, bfloat16 and float16 are known", config.bnb_4bit_compute_dtype);
        return fail("quantization_config.bnb_4bit_compute_dtype", reason);
    }
    Ok(Some(Nf4 { double_quant: config.bnb_4bit_use_double_quant }))
}

/// Makes a configuration that is about to be written say how the weights are held. What a checkpoint said before is kept
/// where it holds.
pub(crate) fn update(config: &mut Value, parameters: &Parameters) {
    let Some(keys) = config.as_object_mut() else { return };
    let Some(weight) = parameters.quantized().values().next() else {
        keys.remove(KEY);
        return;
    };
    let nf4 = Nf4 { double_quant: weight.double_quant() };
    if read(keys).is_ok_and(|stated| stated == Some(nf4)) {
        return;
    }
    let compute = if parameters.kind() == Kind::Float { Kind::Float } else { weight.kind };
    let stated = json!({
        "quant_method": "bitsandbytes",
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": nf4.double_quant,
        "bnb_4bit_compute_dtype": name_of(compute),
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
    });
    keys.insert(KEY.to_owned(), stated);
}

/// torch's name of a floating-point kind.
pub(super) fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

pub(super) fn kind_of(name: &str) -> Option<Kind> {
    [Kind::Float, Kind::BFloat16, Kind::Half].into_iter().find(|kind| name_of(*kind) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Option<Nf4>> {
        read(&OtherKeys::from_iter([(KEY.to_owned(), value)]))
    }

    #[test]
    fn what_is_not_nf4_is_refused_by_name() {
        assert_eq!(read(&OtherKeys::new()).unwrap(), None);
        assert_eq!(parse(Value::Null).unwrap(), None);
        let nf4 = json!({ "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" });
        assert_eq!(parse(nf4.clone()).unwrap(), Some(Nf4 { double_quant: false }));
        for (key, value, named) in [
            ("quant_method", json!("gptq"), "gptq"),
            ("load_in_8bit", json!(true), "int8"),
            ("load_in_4bit", json!(false), "load_in_4bit"),
            ("bnb_4bit_quant_type", json!("fp4"), "fp4"),
            ("bnb_4bit_quant_storage", json!("bfloat16"), "quant_storage"),
            ("bnb_4bit_compute_dtype", json!("float8"), "float8"),
            ("load_in_4bit", json!("yes"), "NF4"),
        ] {
            let mut config = nf4.clone();
            config[key] = value;
            let error = parse(config).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains(KEY), "{error}");
        }
        assert!(parse(json!([4])).is_err() && parse(json!({ "load_in_4bit": true })).is_err());
    }
}
