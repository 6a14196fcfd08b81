//! The loop's contracts for a classifier of texts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use persona_data::{EncodedText, LabelledText};
use persona_model::{BertClassifier, BertConfig, BertType, Classifier, Model};
use persona_train::{Classify, Objective, TrainConfig, Trainer, evaluate, text_batch};
use tch::{Device, Kind, Tensor};

use crate::steps::StopAfter;
use crate::{config, weights};

fn tiny(dropout: f64) -> BertClassifier {
    let mut config = BertConfig {
        vocab_size: 30,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        max_position_embeddings: 24,
        initializer_range: 0.2,
        hidden_dropout_prob: dropout,
        attention_probs_dropout_prob: dropout,
        ..BertConfig::default()
    };
    config.set_labels(&["contradiction", "neutral", "entailment"]);
    BertClassifier::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

/// Pairs of several lengths whose class is read off the two first tokens.
fn pairs(count: u32) -> Vec<LabelledText> {
    (0..count)
        .map(|at| {
            let (first, second) = (5 + at * 7 % 20, 5 + at * 13 % 20);
            let mut ids = vec![2, first, 3, second];
            ids.extend((0..at % 5).map(|token| 5 + (at + token * 3) % 20));
            ids.push(3);
            let token_types = (0..ids.len()).map(|place| u32::from(place > 2)).collect();
            let label = (usize::from(first > second) + usize::from(first > 14)) % 3;
            LabelledText { id: format!("p{at}"), text: EncodedText { ids, token_types, cut: false }, label }
        })
        .collect()
}

#[test]
fn the_loss_falls_and_accuracy_rises() {
    let data = pairs(64);
    let before = evaluate(&Classify::new(tiny(0.0)), &data, 16).unwrap();
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["loss", "accuracy", "f1/contradiction", "f1/neutral", "f1/entailment"]);
    let mut trainer = Trainer::new(Classify::new(tiny(0.1)), config(150)).unwrap();
    let outcome = trainer.fit(&data, &data).unwrap();
    let value = |name: &str| outcome.evaluation.iter().find(|(held, _)| held == name).unwrap().1;
    assert!(value("eval_loss") < 0.5 * before[0].1, "{before:?} to {:?}", outcome.evaluation);
    assert!(value("eval_accuracy") > 0.9 && value("eval_f1/entailment") > 0.8, "{:?}", outcome.evaluation);
}

fn trained(micro_batch_size: usize, class_weights: Option<&[f64]>) -> Vec<f32> {
    let mut objective = Classify::new(tiny(0.0));
    if let Some(weights) = class_weights {
        objective = objective.class_weights(weights).unwrap();
    }
    let mut trainer = Trainer::new(objective, TrainConfig { micro_batch_size, ..config(3) }).unwrap();
    trainer.fit(&pairs(8), &[]).unwrap();
    let objective = trainer.into_objective();
    let parameters = objective.model().parameters();
    let mut all = weights(objective.model());
    for (spec, &offset) in parameters.specs().iter().zip(parameters.offsets()) {
        // Attention does not depend on the key biases: their gradient is rounding noise, which AdamW blows up.
        if spec.name.ends_with("key.bias") {
            all[offset as usize..offset as usize + 16].fill(0.0);
        }
    }
    all
}

#[test]
fn one_times_eight_is_eight_times_one() {
    for class_weights in [None, Some(&[4.0, 0.5, 2.0][..])] {
        let whole = trained(8, class_weights);
        for micro in [1, 3] {
            for (a, b) in whole.iter().zip(trained(micro, class_weights)) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
    assert_ne!(trained(8, None), trained(8, Some(&[4.0, 0.5, 2.0])), "a class's weight changes the step");
    assert_eq!(trained(8, None), trained(8, Some(&[1.0; 3])));
}

#[test]
fn the_weighted_loss_is_torchs() {
    let data = pairs(12);
    let class_weights = [4.0, 0.5, 2.0];
    let objective = Classify::new(tiny(0.0)).class_weights(&class_weights).unwrap();
    let found = evaluate(&objective, &data, 5).unwrap()[0].1;
    let texts: Vec<&EncodedText> = data.iter().map(|item| &item.text).collect();
    let model = objective.model();
    let batch = text_batch(&texts, model.limits(), Device::Cpu).unwrap();
    let logits = model.logits(&batch, false).unwrap();
    let labels = Tensor::from_slice(&data.iter().map(|item| item.label as i64).collect::<Vec<_>>());
    let weights = Tensor::from_slice(&class_weights.map(|weight| weight as f32));
    let loss = logits.cross_entropy_loss(&labels, Some(&weights), tch::Reduction::Mean, -100, 0.0);
    approx::assert_relative_eq!(found, loss.double_value(&[]), max_relative = 1e-5);
}

#[test]
fn accuracy_and_f1_are_those_of_the_whole_set() {
    let (data, objective) = (pairs(30), Classify::new(tiny(0.0)));
    let texts: Vec<&EncodedText> = data.iter().map(|item| &item.text).collect();
    let model = objective.model();
    let batch = text_batch(&texts, model.limits(), Device::Cpu).unwrap();
    let found = Vec::<i64>::try_from(model.logits(&batch, false).unwrap().argmax(-1, false)).unwrap();
    let pairs = || data.iter().map(|item| item.label).zip(found.iter().map(|&found| found as usize));
    let values = evaluate(&objective, &data, 7).unwrap();
    let value = |name: &str| values.iter().find(|(held, _)| held == name).map(|(_, value)| *value);
    let right = pairs().filter(|(label, found)| label == found).count() as f64 / 30.0;
    approx::assert_relative_eq!(value("accuracy").unwrap(), right);
    for (class, name) in ["contradiction", "neutral", "entailment"].iter().enumerate() {
        let hits = pairs().filter(|pair| *pair == (class, class)).count() as f64;
        let given = pairs().filter(|(_, found)| *found == class).count() as f64;
        let labels = pairs().filter(|(label, _)| *label == class).count() as f64;
        let (precision, recall) = (hits / given, hits / labels);
        if let Some(value) = value(&format!("f1/{name}")) {
            let f1 = if hits > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
            approx::assert_relative_eq!(value, f1, max_relative = 1e-12);
        }
    }
}

/// The checkpoint's files at the end of a run of 9 steps, stopped or killed after these steps on the way.
fn run(stops: &[u64], kill: bool) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    for stop in stops.iter().copied().chain([u64::MAX]) {
        let flag = Arc::new(AtomicBool::new(false));
        let mut watcher = StopAfter(stop, flag.clone());
        let config = TrainConfig { checkpoint_every: 2, ..config(9) };
        let trainer = Trainer::new(Classify::new(tiny(0.1)), config).unwrap().in_folder(folder.path());
        let mut trainer = trainer.interrupted_by(flag).observed_by(&mut watcher);
        trainer.fit(&pairs(20), &pairs(6)).unwrap();
        if kill && stop < 9 {
            // As after a kill: the checkpoint that the stop wrote is not there, the one before it is.
            std::fs::remove_dir_all(folder.path().join(format!("checkpoints/step-{stop:08}"))).unwrap();
        }
    }
    let last = folder.path().join("checkpoints/step-00000009");
    let read = |file: &str| std::fs::read(Path::new(&last).join(file)).unwrap();
    vec![read("weights.safetensors"), read("optimizer.safetensors")]
}

#[test]
fn a_stopped_or_killed_run_ends_in_the_same_bytes() {
    let whole = run(&[], false);
    assert!(whole == run(&[2, 7], false));
    assert!(whole == run(&[3, 7], true));
}

#[test]
fn bad_labels_weights_and_texts_are_named() {
    let mut data = pairs(4);
    data[2].label = 3;
    let fit = |data: &[LabelledText]| {
        let mut trainer = Trainer::new(Classify::new(tiny(0.0)), config(4)).unwrap();
        trainer.fit(data, &[]).unwrap_err().to_string()
    };
    let error = fit(&data);
    assert!(error.contains("\"p2\" has label 3") && error.contains("3 classes"), "{error}");
    let mut data = pairs(4);
    data[1].text.token_types.pop();
    assert!(fit(&data).contains("token types"), "{}", fit(&data));
    data[1].text = EncodedText { ids: vec![5; 25], token_types: vec![0; 25], cut: false };
    let error = fit(&data);
    assert!(error.contains("p1") && error.contains("25 tokens"), "{error}");
    for weights in [&[1.0, 1.0][..], &[1.0, 0.0, 1.0], &[1.0, f64::NAN, 1.0]] {
        let error = Classify::new(tiny(0.0)).class_weights(weights).unwrap_err().to_string();
        assert!(error.contains("class_weights") && error.contains("neutral"), "{error}");
    }
}

#[test]
fn roberta_reads_pairs_without_types() {
    let config = BertConfig {
        model_type: BertType::Roberta,
        type_vocab_size: 1,
        pad_token_id: Some(1),
        ..tiny(0.0).config().clone()
    };
    let model = BertClassifier::new(config, 3, Device::Cpu, Kind::Float).unwrap();
    let mut data = pairs(4);
    data.iter_mut().for_each(|item| item.text.token_types.fill(0));
    assert!(evaluate(&Classify::new(model), &data, 2).is_ok());
}
