//! Other runs' checkpoints, damaged checkpoints, broken losses, unwritable places.

use std::path::Path;

use persona_data::EncodedExample;
use persona_model::{Gpt2, Model};
use persona_train::{
    AdamW, AdamWConfig, Better, EarlyStopping, Error, Evaluator, NextToken, Objective, Observer, StepRecord,
    TrainConfig, Trainer, evaluate,
};

use tch::{Device, Kind, Tensor};

use crate::{config, examples, tiny, weights};

fn fit(folder: &Path, config: TrainConfig, data: &[EncodedExample]) -> Result<(), Error> {
    Trainer::new(NextToken::new(tiny(0.0)), config)?.in_folder(folder).fit(data, &[]).map(|_| ())
}

fn all_files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(all_files(&path));
        } else {
            files.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    fit(folder.path(), config(4), &examples(8)).unwrap();
    let before = all_files(folder.path());
    let error =
        fit(folder.path(), TrainConfig { learning_rate: 0.5, ..config(4) }, &examples(8)).unwrap_err();
    assert!(error.to_string().contains("`learning_rate` was 0.01 and is now 0.5"), "{error}");
    // What no step depends on may change.
    let free = TrainConfig { skip_non_finite: 2, keep_checkpoints: 1, checkpoint_every: 3, ..config(4) };
    fit(folder.path(), free, &examples(8)).unwrap();
    let error = fit(folder.path(), config(4), &examples(9)).unwrap_err();
    let error = error.to_string();
    let (counts, place) =
        ("training examples are others", "8 then, 9 now; the first that differs is number 9");
    assert!(
        error.contains(counts) && error.contains(place) && error.contains("none then, `e8` now"),
        "{error}"
    );
    let mut changed = examples(8);
    changed[3].target[0] += 1;
    let error = fit(folder.path(), config(4), &changed).unwrap_err().to_string();
    assert!(error.contains("number 4: `e3` then, `e3` now"), "{error}");
    let trainer = Trainer::new(NextToken::new(tiny(0.0)), config(4)).unwrap().in_folder(folder.path());
    let error = trainer.made_with("tokenizer", "abc").fit(&examples(8), &[]).unwrap_err().to_string();
    assert!(error.contains("the tokenizer was not said and is now abc"), "{error}");
    let mut other = tiny(0.0);
    let _ = other.parameters_mut().flat_mut().narrow(0, 0, 1).fill_(0.5);
    let trainer = Trainer::new(NextToken::new(other), config(4)).unwrap();
    let error = trainer.in_folder(folder.path()).fit(&examples(8), &[]).unwrap_err();
    assert!(error.to_string().contains("began with is another"), "{error}");
    assert_eq!(before, all_files(folder.path()), "nothing was touched");
}

#[test]
fn a_loss_that_is_not_a_number_stops_with_step_and_rows() {
    let mut model = tiny(0.0);
    let _ = model.parameters_mut().flat_mut().fill_(f64::NAN);
    let mut trainer = Trainer::new(NextToken::new(model), config(4)).unwrap();
    let error = trainer.fit(&examples(2), &[]).unwrap_err().to_string();
    assert!(error.contains("step 1: the loss is NaN") && error.contains("e1"), "{error}");
    let error = evaluate(&trainer.into_objective(), &examples(2), 2).unwrap_err().to_string();
    assert!(error.starts_with("evaluation: the loss is NaN, in rows e0, e1;"), "{error}");
}

#[test]
fn a_validation_loss_that_is_not_a_number_is_named_with_its_place() {
    // The only step with a rate above 0 is the last one.
    let config = TrainConfig { learning_rate: 1e30, warmup_steps: 1, max_grad_norm: None, ..config(2) };
    let mut trainer = Trainer::new(NextToken::new(tiny(0.0)), config).unwrap();
    let error = trainer.fit(&examples(8), &examples(2)).unwrap_err();
    assert!(matches!(error, Error::NonFiniteEvaluation { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("evaluation after step 2: the loss is") && error.contains("e1"), "{error}");
    assert!(!error.contains("skip_non_finite"), "{error}");
}

/// A checkpoint's files.
fn checkpoint(folder: &Path, step: u64) -> Vec<Vec<u8>> {
    let folder = folder.join(format!("checkpoints/step-{step:08}"));
    let files = ["weights.safetensors", "optimizer.safetensors", "state.json"];
    files.iter().map(|file| std::fs::read(folder.join(file)).unwrap()).collect()
}

#[test]
fn a_failed_evaluation_keeps_the_steps_and_is_done_again() {
    let mut long = examples(3);
    long[1].source = vec![1; 40];
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let trainer = Trainer::new(NextToken::new(tiny(0.0)), config(4)).unwrap();
        trainer.in_folder(folder.path()).fit(&examples(8), &long).unwrap_err().to_string()
    };
    let error = run();
    assert!(error.contains("evaluation after step 4, in rows") && error.contains("e1"), "{error}");
    let kept = checkpoint(folder.path(), 4);
    assert_eq!(run(), error, "the run is not finished");
    assert_eq!(checkpoint(folder.path(), 4), kept);

    // An evaluator that fails once, on the way and at the end: the run ends as one without a failure.
    let fit = |folder: &Path, failing: u64| {
        let mut evaluator = |_: &Gpt2, step: u64| match step == failing {
            true => Err(Error::objective(std::io::Error::other("no judge"))),
            false => Ok(vec![("score".to_owned(), step as f64)]),
        };
        let config = TrainConfig { eval_every: 2, ..config(4) };
        let trainer = Trainer::new(NextToken::new(tiny(0.0)), config).unwrap();
        trainer.in_folder(folder).evaluated_by(&mut evaluator).fit(&examples(8), &examples(2))
    };
    let whole = tempfile::tempdir().unwrap();
    let expected = fit(whole.path(), 0).unwrap();
    for failing in [2, 4] {
        let folder = tempfile::tempdir().unwrap();
        assert!(fit(folder.path(), failing).unwrap_err().to_string().contains("no judge"));
        assert!(folder.path().join(format!("checkpoints/step-{failing:08}/state.json")).is_file());
        assert_eq!(fit(folder.path(), 0).unwrap(), expected);
        assert_eq!(checkpoint(folder.path(), 4), checkpoint(whole.path(), 4));
        let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
        assert_eq!((log.lines().count(), log.matches("\"score\"").count()), (6, 2), "{log}");
    }
}

#[test]
fn a_diverging_step_leaves_the_weights_before_it() {
    let config = TrainConfig { learning_rate: 1e30, warmup_steps: 1, max_grad_norm: None, ..config(20) };
    let mut trainer = Trainer::new(NextToken::new(tiny(0.0)), config).unwrap();
    let error = trainer.fit(&examples(8), &[]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 2.., .. }), "{error}");
    assert!(weights(trainer.into_objective().model()).iter().all(|weight| weight.is_finite()));
}

#[test]
fn nothing_to_train_on_and_unwritable_places() {
    let mut trainer = Trainer::new(NextToken::new(tiny(0.0)), config(4)).unwrap();
    assert!(matches!(trainer.fit(&[], &[]), Err(Error::NoData)));
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("blocked");
    std::fs::write(&blocked, "a file where the run's folder should be").unwrap();
    assert!(fit(&blocked, config(4), &examples(8)).unwrap_err().to_string().contains("blocked"));
    let mut long = examples(1);
    long[0].source = vec![1; 40];
    let mut trainer = Trainer::new(NextToken::new(tiny(0.0)), config(4)).unwrap();
    assert!(trainer.fit(&long, &[]).unwrap_err().to_string().contains("model has 24 positions"));
    let watched = TrainConfig {
        early_stopping: Some(persona_train::EarlyStopping {
            metric: "nothing".into(),
            better: persona_train::Better::Lower,
            patience: 1,
        }),
        eval_every: 2,
        ..config(4)
    };
    assert!(
        Trainer::new(NextToken::new(tiny(0.0)), watched.clone()).unwrap().fit(&examples(4), &[]).is_err()
    );
    let error = fit(folder.path(), watched, &examples(4)).unwrap_err();
    assert!(error.to_string().contains("nothing measures `nothing`"), "{error}");
}

/// Holds a run's folder while another one wants it.
struct Second<'a>(&'a Path, Option<String>);

impl Observer for Second<'_> {
    fn step(&mut self, _record: &StepRecord) {
        self.1.get_or_insert_with(|| fit(self.0, config(4), &examples(8)).unwrap_err().to_string());
    }
}

#[test]
fn a_folder_in_use_and_a_log_of_somebody_elses_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut second = Second(folder.path(), None);
    let trainer = Trainer::new(NextToken::new(tiny(0.0)), config(4)).unwrap();
    trainer.in_folder(folder.path()).observed_by(&mut second).fit(&examples(8), &[]).unwrap();
    assert!(second.1.unwrap().contains("another process"));

    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    std::fs::write(&log, "my own notes\n").unwrap();
    let error = fit(folder.path(), config(4), &examples(8)).unwrap_err().to_string();
    assert!(error.contains("log.jsonl"), "{error}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "my own notes\n");
}

struct Score(f64);

impl Evaluator<Gpt2> for Score {
    fn evaluate(&mut self, _model: &Gpt2, _step: u64) -> persona_train::Result<Vec<(String, f64)>> {
        Ok(vec![("score".to_owned(), self.0)])
    }
}

#[test]
fn a_watched_value_that_is_no_number_stops_and_the_steps_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let stopping = EarlyStopping { metric: "score".into(), better: Better::Higher, patience: 2 };
    let config = TrainConfig { eval_every: 2, early_stopping: Some(stopping), ..config(4) };
    let run = |value: f64, metric: &str| {
        let mut config = config.clone();
        match &mut config.early_stopping {
            Some(stopping) if !metric.is_empty() => stopping.metric = metric.to_owned(),
            stopping => *stopping = None,
        }
        let mut score = Score(value);
        let trainer = Trainer::new(NextToken::new(tiny(0.0)), config).unwrap();
        let fitted = trainer.in_folder(folder.path()).evaluated_by(&mut score).fit(&examples(8), &[]);
        fitted.map(|outcome| outcome.steps).map_err(|error| error.to_string())
    };
    for _ in 0..2 {
        let error = run(f64::NAN, "score").unwrap_err();
        assert!(error.contains("step 2") && error.contains("`score`"), "{error}");
        assert!(folder.path().join("checkpoints/step-00000002/state.json").is_file());
    }
    // What is watched may be corrected before anything was found best, and be left out.
    let error = run(1.0, "scores").unwrap_err();
    assert!(error.contains("nothing measures `scores`"), "{error}");
    assert_eq!(run(1.0, "score"), Ok(4));
    let error = run(1.0, "eval_loss").unwrap_err();
    assert!(error.contains("`early_stopping` was"), "{error}");
    assert_eq!(run(1.0, ""), Ok(4));
}

#[test]
fn gradients_that_are_not_the_parameters_are_refused() {
    let mut model = tiny(0.0);
    let mut optimizer = AdamW::new(AdamWConfig::default(), model.parameters()).unwrap();
    let before = weights(&model);
    let shapes: Vec<Vec<i64>> = model.parameters().specs().iter().map(|spec| spec.shape.clone()).collect();
    let mut gradients: Vec<Option<Tensor>> = shapes.iter().map(|_| None).collect();
    gradients[1] = Some(Tensor::ones([3, 1000], (Kind::Float, Device::Cpu)));
    let error = optimizer.step(model.parameters_mut(), &gradients, 1.0, 0.1).unwrap_err();
    assert!(matches!(error, Error::Gradient { at: 1, .. }), "{error}");
    assert!(optimizer.step(model.parameters_mut(), &gradients[..2], 1.0, 0.1).is_err());
    assert_eq!(before, weights(&model));
}
