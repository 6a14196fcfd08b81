//! Contract 4: a step does not depend on how it is cut into micro-batches. What is learned is learned.

use persona_data::{EncodedExample, Task};
use persona_model::{CausalLm, Gpt2, Model, TargetBatchBuilder};
use persona_train::{
    Better, EarlyStopping, End, Evaluator, NextToken, Objective, TrainConfig, Trainer, evaluate,
};

use tch::Device;

use crate::{config, examples, tiny, weights};

/// The weights after three steps, without the key biases: attention does not depend on them, so their gradient is
/// rounding noise, which AdamW blows up to full steps.
fn trained(micro_batch_size: usize, weighted: bool) -> Vec<f32> {
    trained_with(TrainConfig { micro_batch_size, ..config(3) }, weighted)
}

fn trained_with(mut config: TrainConfig, weighted: bool) -> Vec<f32> {
    // Gradients that are rounding noise beside the others stay so: products of other sizes round otherwise.
    config.optimizer.epsilon = 1e-5;
    let mut objective = NextToken::new(tiny(0.0));
    if weighted {
        objective = objective.weight(Task::Selection, 0.25).unwrap();
    }
    let mut trainer = Trainer::new(objective, config).unwrap();
    trainer.fit(&examples(8), &[]).unwrap();
    let objective = trainer.into_objective();
    let parameters = objective.model().parameters();
    let mut all = weights(objective.model());
    for (spec, &offset) in parameters.specs().iter().zip(parameters.offsets()) {
        if spec.name.ends_with("c_attn.bias") {
            all[offset as usize + 16..offset as usize + 32].fill(0.0);
        }
    }
    all
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

#[test]
fn gradient_checkpointing_changes_no_step() {
    let whole = trained(8, true);
    let config = TrainConfig { micro_batch_size: 3, gradient_checkpointing: true, ..config(3) };
    for (a, b) in whole.iter().zip(trained_with(config, true)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn the_loss_falls_and_tasks_are_told_apart() {
    let data = examples(64);
    let before = evaluate(&NextToken::new(tiny(0.0)), &data, 16).unwrap();
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["loss", "loss/selection", "loss/generation"]);
    let mut trainer = Trainer::new(NextToken::new(tiny(0.1)), config(150)).unwrap();
    let outcome = trainer.fit(&data, &data).unwrap();
    let (name, after) = &outcome.evaluation[0];
    assert_eq!((name.as_str(), outcome.end, outcome.steps), ("eval_loss", End::Finished, 150));
    assert!(*after < 0.5 * before[0].1, "{} to {after}", before[0].1);
}

/// Scores that rise twice and then no more.
struct Scores(Vec<f64>);

impl Evaluator<Gpt2> for Scores {
    fn evaluate(&mut self, _model: &Gpt2, _step: u64) -> persona_train::Result<Vec<(String, f64)>> {
        Ok(vec![("score".to_owned(), self.0.remove(0))])
    }
}

#[test]
fn early_stopping_ends_the_run_and_keeps_the_best_weights() {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        eval_every: 2,
        early_stopping: Some(EarlyStopping { metric: "score".into(), better: Better::Higher, patience: 2 }),
        keep_checkpoints: 1,
        ..config(40)
    };
    let mut scores = Scores(vec![0.1, 0.3, 0.3, 0.2]);
    let mut trainer = Trainer::new(NextToken::new(tiny(0.0)), config.clone())
        .unwrap()
        .in_folder(folder.path())
        .evaluated_by(&mut scores);
    let outcome = trainer.fit(&examples(20), &[]).unwrap();
    assert_eq!((outcome.end, outcome.steps, outcome.best.unwrap().step), (End::EarlyStopped, 8, 4));
    let best = weights(trainer.into_objective().model());
    let mut held: Vec<_> = std::fs::read_dir(folder.path().join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    held.sort();
    assert_eq!(held, ["step-00000004", "step-00000008"], "the best one and the last one");

    let mut until_best = Trainer::new(
        NextToken::new(tiny(0.0)),
        TrainConfig { steps: 40, early_stopping: None, ..config.clone() },
    )
    .unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut watcher = StopAfter(4, stop.clone());
    until_best = until_best.interrupted_by(stop).observed_by(&mut watcher);
    until_best.fit(&examples(20), &[]).unwrap();
    assert_eq!(best, weights(until_best.into_objective().model()));

    // Called again, the run is over: it gives the same weights without a step.
    let mut scores = Scores(vec![0.0]);
    let mut again = Trainer::new(NextToken::new(tiny(0.0)), config)
        .unwrap()
        .in_folder(folder.path())
        .evaluated_by(&mut scores);
    for _ in 0..2 {
        // The second time the model begins with the best weights.
        let outcome = again.fit(&examples(20), &[]).unwrap();
        assert_eq!((outcome.end, outcome.steps), (End::EarlyStopped, 8));
    }
    assert_eq!(best, weights(again.into_objective().model()));
}

/// The share of examples whose target a model says, greedily.
fn exact(model: &Gpt2, data: &[EncodedExample]) -> f64 {
    let says = |example: &&EncodedExample| {
        let mut ids = example.source.clone();
        example.target.iter().all(|&expected| {
            let mut builder = TargetBatchBuilder::default();
            builder.prompt(&ids, &[&[0]]);
            let batch = builder.build(model.limits(), Device::Cpu).unwrap();
            let next = batch.logits(model, false).unwrap().argmax(-1, false).int64_value(&[0]);
            ids.push(next as u32);
            next == i64::from(expected)
        })
    };
    data.iter().filter(says).count() as f64 / data.len() as f64
}

#[test]
fn early_stopping_watches_what_is_generated_every_n_steps() {
    let run = |folder: &std::path::Path, stops: &[u64]| {
        let mut measured = Vec::new();
        let mut outcome = None;
        for &stop in stops {
            let data = examples(12);
            let config = TrainConfig {
                eval_every: 20,
                early_stopping: Some(EarlyStopping {
                    metric: "exact".into(),
                    better: Better::Higher,
                    patience: 3,
                }),
                ..config(600)
            };
            let mut evaluator = |model: &Gpt2, step: u64| {
                let share = exact(model, &data);
                measured.push((step, share));
                Ok(vec![("exact".to_owned(), share)])
            };
            let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let mut watcher = StopAfter(stop, flag.clone());
            let mut trainer = Trainer::new(NextToken::new(tiny(0.0)), config)
                .unwrap()
                .in_folder(folder)
                .evaluated_by(&mut evaluator)
                .interrupted_by(flag)
                .observed_by(&mut watcher);
            outcome = Some(trainer.fit(&data, &data).unwrap());
        }
        (outcome.unwrap(), measured)
    };
    let folder = tempfile::tempdir().unwrap();
    let (outcome, measured) = run(folder.path(), &[u64::MAX]);
    assert_eq!(outcome.end, End::EarlyStopped, "{measured:?}");
    let best = outcome.best.clone().unwrap();
    assert!(best.value > 0.8 && outcome.steps == best.step + 3 * 20, "{outcome:?}");
    assert!(measured.iter().map(|(step, _)| *step).eq((1..=outcome.steps / 20).map(|at| at * 20)));
    let names: Vec<&str> = outcome.evaluation.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"eval_loss") && names.contains(&"exact"), "{names:?}");

    // Stopped on the way, once between two evaluations and once at one: the same end.
    let parts = tempfile::tempdir().unwrap();
    let (again, in_parts) = run(parts.path(), &[30, 60, u64::MAX]);
    assert_eq!((&again, &in_parts), (&outcome, &measured));
}

/// Raises the flag after a step.
pub(crate) struct StopAfter(pub(crate) u64, pub(crate) std::sync::Arc<std::sync::atomic::AtomicBool>);

impl persona_train::Observer for StopAfter {
    fn step(&mut self, record: &persona_train::StepRecord) {
        if record.step == self.0 {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
