//! Schedules and parameter groups against transformers' and PEFT's, which `tests/golden/generate.py` wrote down.

use persona_model::{Init, LoraConfig, Model, ParameterSpec, Parameters};
use persona_train::{AdamW, AdamWConfig, Decay, NextToken, ParameterGroup, TrainConfig, Trainer};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{config, examples, tiny, weights};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/optimizer.json")).unwrap()
}

#[test]
fn rates_are_those_of_transformers() {
    let golden = golden();
    let schedules = golden["schedules"].as_array().unwrap();
    assert_eq!(schedules.len(), 9);
    for case in schedules {
        let config = TrainConfig {
            schedule: serde_json::from_value(case["schedule"].clone()).unwrap(),
            steps: case["steps"].as_u64().unwrap(),
            warmup_steps: case["warmup_steps"].as_u64().unwrap(),
            learning_rate: golden["learning_rate"].as_f64().unwrap(),
            ..TrainConfig::default()
        };
        config.validate().unwrap();
        for (step, rate) in (1..).zip(case["rates"].as_array().unwrap()) {
            let found = config.rate_at(step);
            approx::assert_relative_eq!(found, rate.as_f64().unwrap(), max_relative = 1e-12, epsilon = 1e-18);
        }
    }
}

/// Parameters of a golden list, every value the same.
fn parameters(list: &Value, value: f64) -> Parameters {
    let spec = |entry: &Value| ParameterSpec {
        name: entry["name"].as_str().unwrap().to_owned(),
        shape: entry["shape"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap()).collect(),
        init: Init::Zeros,
    };
    let specs = list.as_array().unwrap().iter().map(spec).collect();
    let parameters = Parameters::new(specs, 0, Device::Cpu, Kind::Float).unwrap();
    for leaf in parameters.leaves() {
        let _ = leaf.shallow_clone().fill_(value);
    }
    parameters
}

/// The first value of every parameter after one step with gradients of this value.
fn stepped(mut optimizer: AdamW, mut parameters: Parameters, gradient: f64, rate: f64) -> Vec<f64> {
    let gradients: Vec<Option<Tensor>> =
        parameters.leaves().iter().map(|leaf| Some(leaf.full_like(gradient))).collect();
    optimizer.step(&mut parameters, &gradients, 1.0, rate).unwrap();
    parameters.leaves().iter().map(|leaf| leaf.flatten(0, -1).double_value(&[0])).collect()
}

#[test]
fn the_same_parameters_decay_as_with_transformers() {
    let golden = golden();
    for model in ["gpt2", "llama", "bert", "t5"] {
        let list = &golden["decay"][model];
        let parameters = parameters(list, 1.0);
        let decay = AdamWConfig { weight_decay: 0.5, decay: Decay::Transformers, ..AdamWConfig::default() };
        let optimizer = AdamW::new(decay, &parameters).unwrap();
        // Without a gradient only decay changes a weight.
        for (found, entry) in stepped(optimizer, parameters, 0.0, 0.1).iter().zip(list.as_array().unwrap()) {
            let expected = if entry["decays"].as_bool().unwrap() { 0.95 } else { 1.0 };
            assert!((found - expected).abs() < 1e-6, "{model} {}: {found}", entry["name"]);
        }
    }
}

#[test]
fn lora_plus_is_that_of_peft() {
    let golden = golden();
    let list = &golden["lora_plus"];
    let base = golden["learning_rate"].as_f64().unwrap();
    let optimizer = |parameters: &Parameters, weight_decay| {
        let config = AdamWConfig { weight_decay, ..AdamWConfig::default() };
        AdamW::new(config, parameters).unwrap().with_groups(&[], Some(16.0), parameters).unwrap()
    };
    // The first step of Adam is the rate, against the gradient's sign.
    let start = parameters(list, 0.0);
    let moved = stepped(optimizer(&start, 0.0), start, 1.0, base);
    let start = parameters(list, 1.0);
    let decayed = stepped(optimizer(&start, 0.1), start, 0.0, base);
    for ((entry, moved), decayed) in list.as_array().unwrap().iter().zip(moved).zip(decayed) {
        let number = |key: &str| entry[key].as_f64().unwrap();
        approx::assert_relative_eq!(-moved, number("learning_rate"), max_relative = 1e-5);
        let kept = 1.0 - number("learning_rate") * number("weight_decay");
        assert!((decayed - kept).abs() < 1e-6, "{}: {decayed}", entry["name"]);
    }
}

fn group(pattern: &str, learning_rate_factor: f64, weight_decay: Option<f64>) -> ParameterGroup {
    ParameterGroup { parameters: vec![pattern.to_owned()], learning_rate_factor, weight_decay }
}

#[test]
fn the_first_group_that_names_a_parameter_counts() {
    let golden = golden();
    let list = &golden["decay"]["gpt2"];
    let start = parameters(list, 1.0);
    let config = AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() };
    let groups =
        [group("*.bias", 1.0, Some(0.0)), group("transformer.wte.*", 4.0, None), group("*wte*", 9.0, None)];
    let optimizer = AdamW::new(config, &start).unwrap().with_groups(&groups, None, &start).unwrap();
    for (found, entry) in stepped(optimizer, start, 0.0, 0.1).iter().zip(list.as_array().unwrap()) {
        let expected = match entry["name"].as_str().unwrap() {
            name if name.ends_with(".bias") => 1.0,
            "transformer.wte.weight" => 0.8,
            _ => 0.95,
        };
        assert!((found - expected).abs() < 1e-6, "{}: {found}", entry["name"]);
    }
}

#[test]
fn groups_reach_the_run_and_those_that_fit_nothing_are_refused() {
    let run = |groups: Vec<ParameterGroup>, ratio: Option<f64>, lora: bool| {
        let mut model = tiny(0.0);
        if lora {
            let id = model.adapters_mut().add(LoraConfig::on(&["c_attn"], 2, 4.0), 5, Device::Cpu).unwrap();
            model.adapters_mut().train(Some(id)).unwrap();
        }
        let config = TrainConfig { groups, lora_plus_ratio: ratio, ..config(4) };
        let mut trainer = Trainer::new(NextToken::new(model), config)?;
        trainer.fit(&examples(16), &[])?;
        Ok::<_, persona_train::Error>(trainer.into_objective().into_model())
    };
    let frozen = run(vec![group("transformer.wte.weight", 0.0, None)], None, false).unwrap();
    let (start, end) = (tiny(0.0), frozen);
    let changed = |name: &str| start.parameters().get(name).unwrap() != end.parameters().get(name).unwrap();
    assert!(!changed("transformer.wte.weight") && changed("transformer.wpe.weight"));

    let (one, plus) = (run(vec![], None, true).unwrap(), run(vec![], Some(16.0), true).unwrap());
    assert_eq!(weights(&one), weights(&plus), "the base stays");
    assert_ne!(one.trainable().flat(), plus.trainable().flat());

    let error = run(vec![group("*.lora_B.*", 2.0, None)], None, false).unwrap_err().to_string();
    assert!(error.contains("`*.lora_B.*`") && error.contains("transformer.wte.weight"), "{error}");
    let error = run(vec![], Some(16.0), false).unwrap_err().to_string();
    assert!(error.contains("lora_plus_ratio"), "{error}");
}
