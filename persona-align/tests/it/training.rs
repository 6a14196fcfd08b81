//! Training on pairs: where it starts, that it learns, that resuming is exact, and the cached reference.

use persona_align::{Error, PreferenceLoss, ReferencedPair, reference_log_probs};
use persona_data::EncodedPair;
use persona_model::{Gpt2, Gpt2Config, Model};
use persona_train::{TrainConfig, Trainer, evaluate};
use tch::{Device, Kind};

/// With dropout in its configuration, which preference training must not use.
pub(crate) fn tiny() -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: 30,
        n_positions: 24,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        initializer_range: 0.2,
        ..Gpt2Config::default()
    };
    Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

pub(crate) fn pairs() -> Vec<EncodedPair> {
    (0..12u32)
        .map(|at| EncodedPair {
            id: format!("p{at}"),
            prompt: (0..2 + at % 5).map(|token| (at + token * 3) % 28).collect(),
            chosen: vec![5, at % 20, 29],
            rejected: if at % 4 == 0 { vec![29] } else { vec![6, 7, 8, 29] },
        })
        .collect()
}

pub(crate) fn value(values: &[(String, f64)], name: &str) -> f64 {
    values.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name} in {values:?}")).1
}

#[test]
fn the_first_loss_is_ln_2_and_training_widens_the_margin() {
    let reference = tiny();
    let pairs = reference_log_probs(&reference, pairs(), 5, None).unwrap();
    let objective = PreferenceLoss::sigmoid(0.5).on(tiny());
    let before = evaluate(&objective, &pairs, 3).unwrap();
    assert!((value(&before, "loss") - std::f64::consts::LN_2).abs() < 1e-6, "{before:?}");
    assert!(value(&before, "rewards/margins").abs() < 1e-5);

    let config = TrainConfig {
        steps: 30,
        batch_size: 6,
        micro_batch_size: 4,
        learning_rate: 5e-3,
        warmup_steps: 2,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(objective, config).unwrap();
    let outcome = trainer.fit(&pairs, &pairs).unwrap();
    assert!(value(&outcome.evaluation, "eval_loss") < 0.3);
    assert_eq!(value(&outcome.evaluation, "eval_rewards/accuracies"), 1.0);
    assert!(
        value(&outcome.evaluation, "eval_logps/chosen") > value(&outcome.evaluation, "eval_logps/rejected")
    );
}

#[test]
fn cached_log_probs_are_read_and_refused_for_another_model_or_data() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("reference.safetensors");
    let compute = |model: &Gpt2, pairs| reference_log_probs(model, pairs, 4, Some(&cache));
    let first: Vec<ReferencedPair> = compute(&tiny(), pairs()).unwrap();
    let bytes = std::fs::read(&cache).unwrap();
    assert_eq!(first, compute(&tiny(), pairs()).unwrap());

    let error = compute(&tiny(), pairs().split_off(1)).unwrap_err();
    assert!(matches!(&error, Error::Reference { path, .. } if *path == cache), "{error}");
    let mut other = tiny();
    let _ = other.parameters_mut().flat_mut().narrow(0, 0, 1).fill_(0.5);
    assert!(matches!(compute(&other, pairs()), Err(Error::Reference { .. })));
    assert_eq!(std::fs::read(&cache).unwrap(), bytes, "a refused cache is left as it was");
    std::fs::write(&cache, &bytes[..bytes.len() / 2]).unwrap();
    assert!(compute(&tiny(), pairs()).is_err());
}

#[test]
fn pairs_that_do_not_fit_the_model_are_named() {
    let mut long = pairs();
    long[2].chosen = vec![4; 40];
    let error = reference_log_probs(&tiny(), long.clone(), 4, None).unwrap_err().to_string();
    assert!(error.contains("the model has 24 positions"), "{error}");
    assert!(error.contains("in rows p0, p1, p2, p3:"), "{error}");
    long.swap(2, 6);
    long.iter_mut().for_each(|pair| pair.id.clear());
    let error = reference_log_probs(&tiny(), long, 3, None).unwrap_err().to_string();
    assert!(error.contains("in rows 6, 7, 8:"), "{error}");
}
