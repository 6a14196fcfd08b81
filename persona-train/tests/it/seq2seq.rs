//! The loop's contracts for an encoder-decoder.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use persona_data::Task;
use persona_model::{LoraConfig, Model, T5, T5Config};
use persona_train::{Objective, Seq2Seq, TrainConfig, Trainer, evaluate};
use tch::{Device, Kind};

use crate::steps::StopAfter;
use crate::{config, examples, weights};

fn tiny(dropout: f64) -> T5 {
    let config = T5Config {
        vocab_size: 30,
        d_model: 16,
        d_kv: 8,
        d_ff: 32,
        num_layers: 2,
        num_heads: 2,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 12,
        dropout_rate: dropout,
        eos_token_id: Some(29),
        ..T5Config::default()
    };
    T5::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

#[test]
fn the_loss_falls_and_tasks_are_told_apart() {
    let data = examples(64);
    let before = evaluate(&Seq2Seq::new(tiny(0.0)), &data, 16).unwrap();
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["loss", "loss/selection", "loss/generation"]);
    let mut trainer = Trainer::new(Seq2Seq::new(tiny(0.1)), config(150)).unwrap();
    let outcome = trainer.fit(&data, &data).unwrap();
    let (_, after) = &outcome.evaluation[0];
    assert!(*after < 0.5 * before[0].1, "{} to {after}", before[0].1);
}

fn trained(micro_batch_size: usize, weighted: bool) -> Vec<f32> {
    let mut objective = Seq2Seq::new(tiny(0.0));
    if weighted {
        objective = objective.weight(Task::Selection, 0.25).unwrap();
    }
    let mut trainer = Trainer::new(objective, TrainConfig { micro_batch_size, ..config(3) }).unwrap();
    trainer.fit(&examples(8), &[]).unwrap();
    weights(trainer.into_objective().model())
}

#[test]
fn one_times_eight_is_eight_times_one() {
    for weighted in [false, true] {
        let whole = trained(8, weighted);
        for micro in [1, 3] {
            for (a, b) in whole.iter().zip(trained(micro, weighted)) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
    assert_ne!(trained(8, false), trained(8, true), "a task's weight changes the step");
}

/// The checkpoint's files at the end of a run of 9 steps, stopped after these steps on the way.
fn run(stops: &[u64], lora: bool) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    for stop in stops.iter().copied().chain([u64::MAX]) {
        let mut model = tiny(0.1);
        if lora {
            let config = LoraConfig { lora_dropout: 0.1, ..LoraConfig::on(&["q", "v", "wo"], 2, 4.0) };
            let id = model.adapters_mut().add(config, 5, Device::Cpu).unwrap();
            model.adapters_mut().train(Some(id)).unwrap();
        }
        let flag = Arc::new(AtomicBool::new(false));
        let mut watcher = StopAfter(stop, flag.clone());
        let trainer = Trainer::new(Seq2Seq::new(model), config(9)).unwrap().in_folder(folder.path());
        let mut trainer = trainer.interrupted_by(flag).observed_by(&mut watcher);
        trainer.fit(&examples(20), &examples(6)).unwrap();
    }
    let last = folder.path().join("checkpoints/step-00000009");
    let read = |file: &str| std::fs::read(Path::new(&last).join(file)).unwrap();
    vec![read("weights.safetensors"), read("optimizer.safetensors")]
}

#[test]
fn a_stopped_run_ends_in_the_same_bytes() {
    for lora in [false, true] {
        assert!(run(&[], lora) == run(&[2, 7], lora), "lora {lora}");
    }
}

#[test]
fn an_adapter_learns_and_leaves_the_base_alone() {
    let mut model = tiny(0.0);
    let base = weights(&model);
    let id = model.adapters_mut().add(LoraConfig::default(), 5, Device::Cpu).unwrap();
    model.adapters_mut().train(Some(id)).unwrap();
    let data = examples(32);
    let objective = Seq2Seq::new(model);
    let before = evaluate(&objective, &data, 16).unwrap()[0].1;
    let mut trainer = Trainer::new(objective, config(100)).unwrap();
    let outcome = trainer.fit(&data, &data).unwrap();
    assert!(outcome.evaluation[0].1 < 0.7 * before, "{before} to {:?}", outcome.evaluation[0]);
    assert_eq!(base, weights(trainer.into_objective().model()));
}

#[test]
fn a_bad_example_is_named() {
    let mut data = examples(4);
    data[2].source.clear();
    let mut trainer = Trainer::new(Seq2Seq::new(tiny(0.0)), config(4)).unwrap();
    let error = trainer.fit(&data, &[]).unwrap_err().to_string();
    assert!(error.contains("e2") && error.contains("at least one token"), "{error}");
}
