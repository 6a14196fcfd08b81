//! Rotary settings of `config.json`, as every version of transformers writes and reads them.

use persona_model::{Error, Llama, LlamaConfig, Model, RopeParameters, RopeType};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::tiny_llama;

/// Reads a tiny configuration with these keys in place of its own rotary ones.
fn read(keys: &Value) -> persona_model::Result<LlamaConfig> {
    let folder = tempfile::tempdir().unwrap();
    let mut config = serde_json::to_value(tiny_llama().config()).unwrap();
    let map = config.as_object_mut().unwrap();
    map.remove("rope_theta");
    map.extend(keys.as_object().unwrap().clone());
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    LlamaConfig::from_folder(folder.path())
}

fn linear(theta: f64) -> RopeParameters {
    let rope_type = Some(RopeType::Linear);
    RopeParameters { rope_type, rope_theta: Some(theta), factor: Some(4.0), ..RopeParameters::default() }
}

#[test]
fn settings_are_read_under_every_key_and_written_under_all() {
    let new = json!({ "factor": 4.0, "rope_theta": 5e5, "rope_type": "linear" });
    let old = json!({ "factor": 4.0, "rope_type": "linear" });
    for keys in [
        json!({ "rope_parameters": new }),
        json!({ "rope_parameters": new, "rope_scaling": null, "rope_theta": 10_000.0 }),
        json!({ "rope_parameters": old, "rope_scaling": new }),
        json!({ "rope_scaling": old, "rope_theta": 5e5 }),
    ] {
        let config = read(&keys).unwrap();
        assert_eq!((config.rope_theta, &config.rope_parameters), (5e5, &Some(linear(5e5))), "{keys}");
        let model = Llama::new(config, 1, Device::Cpu, Kind::Float).unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let text = std::fs::read(folder.path().join("config.json")).unwrap();
        let written: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(written["rope_theta"], 5e5, "{keys}");
        assert_eq!((&written["rope_parameters"], &written["rope_scaling"]), (&new, &old), "{keys}");
        assert_eq!(LlamaConfig::from_folder(folder.path()).unwrap().rope_parameters, Some(linear(5e5)));
    }
    // As transformers 5 writes a file of an older version, and a model without scaling.
    let both = json!({ "factor": 4.0, "rope_theta": 10_000.0, "rope_type": "linear", "type": "linear" });
    let config = read(&json!({ "rope_parameters": both })).unwrap();
    let older_type = Some(RopeType::Linear);
    assert_eq!(config.rope_parameters, Some(RopeParameters { older_type, ..linear(10_000.0) }));
    let config = read(&json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "default" } })).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling), (5e5, None));
    // What a program makes is written likewise.
    let config = LlamaConfig { rope_parameters: Some(linear(5e5)), ..tiny_llama().config().clone() };
    let model = Llama::new(config, 1, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(model.config().rope_theta, 5e5);
}

#[test]
fn contradictions_and_unknown_types_are_refused_by_name() {
    let linear = json!({ "rope_type": "linear", "factor": 4.0 });
    for (keys, named, part) in [
        (json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } }), "rope_type", "linear and llama3"),
        (
            json!({ "rope_parameters": { "rope_type": "linear", "type": "llama3", "factor": 4.0 } }),
            "rope_type",
            "older",
        ),
        (
            json!({ "rope_parameters": { "rope_type": "default" }, "rope_scaling": linear }),
            "rope_scaling",
            "differs",
        ),
        (json!({ "rope_parameters": { "type": "linear" } }), "factor", "missing"),
    ] {
        let error = read(&keys).unwrap_err();
        assert!(matches!(&error, Error::Config { key, .. } if *key == named), "{keys}: {error}");
        assert!(error.to_string().contains(part), "{keys}: {error}");
    }
}
