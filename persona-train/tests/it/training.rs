//! Kind `training`: losses, gradient norms, learning rates and final weights of torch's AdamW.

use persona_data::{EncodedExample, Task};
use persona_model::{Model, load_causal_lm};
use persona_train::{AdamW, AdamWConfig, NextToken, Objective, TrainConfig, gradient_norm};
use tch::{Device, Kind, Tensor};

use crate::parity::{self, Case};

#[test]
fn parity_training() {
    parity::for_each("training", |case| {
        check(case);
        true
    });
}

fn check(case: &Case) {
    let options = &case.json["options"];
    let number = |key: &str| options[key].as_f64().unwrap();
    let config = TrainConfig {
        steps: options["total_steps"].as_u64().unwrap(),
        warmup_steps: options["warmup_steps"].as_u64().unwrap(),
        learning_rate: number("lr"),
        ..TrainConfig::default()
    };
    let adamw = AdamWConfig {
        epsilon: number("eps"),
        weight_decay: number("weight_decay"),
        ..AdamWConfig::default()
    };
    let (mut model, _) = load_causal_lm(&case.folder.join("model"), Device::Cpu, Kind::Float).unwrap();
    if let Some(adapter) = case.json["adapter"].as_str() {
        let adapters = model.adapters_mut();
        let (id, _) = adapters.load(&case.folder.join(adapter), Device::Cpu).unwrap();
        adapters.train(Some(id)).unwrap();
    }
    model.trainable().set_trainable(true).unwrap();
    let mut optimizer = AdamW::new(adamw, model.trainable()).unwrap();
    let mut objective = NextToken::new(model);
    for step in 1..=config.steps {
        let at = (step - 1) as usize;
        let items = items(case, at);
        let views: Vec<&EncodedExample> = items.iter().collect();
        let contribution = objective.evaluate(&views, true).unwrap();
        let loss = contribution.numerator / objective.count(&views);
        close(loss.double_value(&[]), &case.json["expected"]["losses"][at]);
        let gradients: Vec<Option<Tensor>> =
            Tensor::run_backward(&[loss], objective.model().trainable().leaves(), false, false)
                .into_iter()
                .map(|gradient| gradient.defined().then_some(gradient))
                .collect();
        let norm = gradient_norm(&gradients).unwrap();
        close(norm, &case.json["expected"]["grad_norms"][at]);
        close(config.rate_at(step), &case.json["expected"]["learning_rates"][at]);
        let scale = (number("max_grad_norm") / (norm + 1e-6)).min(1.0);
        optimizer
            .step(objective.model_mut().trainable_mut(), &gradients, scale, config.rate_at(step))
            .unwrap();
    }
    let mut compared = 0;
    for (name, expected) in &case.tensors {
        let Some(name) = name.strip_prefix("final.") else { continue };
        // PEFT names its wrappers and the adapter too: `base_model.model.PATH.lora_A.default.weight`.
        let name = name.trim_start_matches("base_model.model.").replace(".default.", ".");
        let found = objective.model().trainable().get(&name).unwrap_or_else(|| panic!("no parameter {name}"));
        let off = (found - expected).abs();
        if name.ends_with("c_attn.bias") {
            // Attention does not depend on the key biases, the middle third: their gradient is rounding noise, which
            // AdamW blows up to full steps.
            let width = off.size()[0] / 3;
            let _ = off.narrow(0, width, width).zero_();
        }
        let off = off.max().double_value(&[]);
        assert!(off < 1e-4, "{name}: {off}");
        compared += 1;
    }
    assert!(compared > 0, "{}: no final weights", case.folder.display());
}

/// The rows of a step, each cut where its labels begin.
fn items(case: &Case, step: usize) -> Vec<EncodedExample> {
    let rows = case.rows(&format!("{step}.input_ids"), &format!("{step}.attention_mask"));
    let labels = Vec::<Vec<i64>>::try_from(case.tensor(&format!("{step}.labels"))).unwrap();
    rows.into_iter()
        .zip(labels)
        .filter_map(|(row, labels)| {
            let targets = labels.iter().filter(|&&label| label != -100).count().min(row.len() - 1);
            let (source, target) = row.split_at(row.len() - targets);
            (targets > 0).then(|| EncodedExample {
                id: String::new(),
                task: Task::Generation,
                source: source.to_vec(),
                target: target.to_vec(),
            })
        })
        .collect()
}

fn close(found: f64, expected: &serde_json::Value) {
    approx::assert_relative_eq!(found, expected.as_f64().unwrap(), max_relative = 1e-4, epsilon = 1e-12);
}
