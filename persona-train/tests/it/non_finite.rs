//! Steps whose loss or gradient is not finite: they stop the run, or are skipped and counted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use persona_data::EncodedExample;
use persona_model::Gpt2;
use persona_train::{
    Contribution, End, Error, NextToken, Objective, Observer, Outcome, StepRecord, TrainConfig, Trainer,
};

use crate::{config, examples, tiny, weights};

/// An objective whose loss, or whose gradient alone, is broken by one of the examples.
struct Broken {
    inner: NextToken<Gpt2>,
    example: &'static str,
    gradient: bool,
}

impl Objective for Broken {
    type Item = EncodedExample;
    type Model = Gpt2;

    fn model(&self) -> &Gpt2 {
        self.inner.model()
    }

    fn model_mut(&mut self) -> &mut Gpt2 {
        self.inner.model_mut()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn unit(&self) -> &'static str {
        self.inner.unit()
    }

    fn id<'a>(&self, item: &'a EncodedExample) -> &'a str {
        &item.id
    }

    fn tokens(&self, item: &EncodedExample) -> usize {
        self.inner.tokens(item)
    }

    fn digest(&self, item: &EncodedExample, sink: &mut dyn FnMut(&[u8])) {
        self.inner.digest(item, sink);
    }

    fn count(&self, items: &[&EncodedExample]) -> f64 {
        self.inner.count(items)
    }

    fn evaluate(&self, items: &[&EncodedExample], train: bool) -> persona_train::Result<Contribution> {
        let mut contribution = self.inner.evaluate(items, train)?;
        if train && items.iter().any(|item| item.id == self.example) {
            contribution.numerator = if self.gradient {
                // A root at 0: the value is 0, the slope infinite.
                let zero = &contribution.numerator - contribution.numerator.detach();
                &contribution.numerator + zero.sqrt()
            } else {
                contribution.numerator * f64::NAN
            };
        }
        Ok(contribution)
    }
}

#[derive(Default)]
struct Watcher {
    stop: Option<(u64, Arc<AtomicBool>)>,
    skipped: Vec<(u64, String)>,
    notes: Vec<String>,
}

impl Observer for Watcher {
    fn step(&mut self, record: &StepRecord) {
        if let Some(reason) = &record.skipped {
            assert!(record.loss.is_nan());
            self.skipped.push((record.step, reason.clone()));
        }
        if let Some((step, flag)) = self.stop.as_ref().filter(|(step, _)| *step == record.step) {
            assert_eq!(*step, record.step);
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

fn run(
    folder: &Path,
    allowed: u64,
    gradient: bool,
    stop: Option<u64>,
) -> (Result<Outcome, Error>, Watcher, Vec<f32>) {
    let flag = Arc::new(AtomicBool::new(false));
    let mut watcher = Watcher { stop: stop.map(|step| (step, flag.clone())), ..Watcher::default() };
    let objective = Broken { inner: NextToken::new(tiny(0.1)), example: "e5", gradient };
    let config = TrainConfig { skip_non_finite: allowed, checkpoint_every: 3, ..config(12) };
    let mut trainer = Trainer::new(objective, config)
        .unwrap()
        .in_folder(folder)
        .interrupted_by(flag)
        .observed_by(&mut watcher);
    let outcome = trainer.fit(&examples(20), &[]);
    let weights = weights(trainer.into_objective().model());
    (outcome, watcher, weights)
}

fn last_checkpoint(folder: &Path) -> Vec<Vec<u8>> {
    let folder = folder.join("checkpoints/step-00000012");
    let files = ["weights.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"];
    files.iter().map(|file| std::fs::read(folder.join(file)).unwrap()).collect()
}

#[test]
fn the_first_one_stops_the_run_where_none_is_allowed() {
    for (gradient, what) in [(false, "loss"), (true, "gradient norm")] {
        let folder = tempfile::tempdir().unwrap();
        let error = run(folder.path(), 0, gradient, None).0.unwrap_err();
        assert!(matches!(error, Error::NonFinite { step: 1..=3, .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(what) && error.contains("e5") && error.contains("skip_non_finite"), "{error}");
    }
}

#[test]
fn skipped_steps_are_counted_change_nothing_and_are_continued_exactly() {
    for gradient in [false, true] {
        let whole = tempfile::tempdir().unwrap();
        let (outcome, watcher, weights) = run(whole.path(), 9, gradient, None);
        let outcome = outcome.unwrap();
        // 20 examples are 3 batches: one of each epoch's holds the broken one.
        assert_eq!((outcome.steps, outcome.skipped, outcome.end), (12, 4, End::Finished));
        assert!(weights.iter().all(|weight| weight.is_finite()));
        let steps: Vec<u64> = watcher.skipped.iter().map(|(step, _)| *step).collect();
        assert!(watcher.skipped.iter().all(|(_, reason)| reason.contains("e5")), "{:?}", watcher.skipped);
        assert!(watcher.notes[0].contains(&format!("step {} is skipped, number 1 of 9", steps[0])));
        let log = std::fs::read_to_string(whole.path().join("log.jsonl")).unwrap();
        let logged: Vec<u64> = log
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["skipped"].is_string() && line["loss"].is_null())
            .map(|line| line["step"].as_u64().unwrap())
            .collect();
        assert_eq!(logged, steps);

        let parts = tempfile::tempdir().unwrap();
        for stop in [steps[0], steps[1], steps[1] + 1] {
            assert_eq!(run(parts.path(), 9, gradient, Some(stop)).0.unwrap().end, End::Interrupted);
        }
        assert_eq!(run(parts.path(), 9, gradient, None).0.unwrap().skipped, 4);
        assert_eq!(last_checkpoint(whole.path()), last_checkpoint(parts.path()));

        // One more than allowed.
        let folder = tempfile::tempdir().unwrap();
        let (outcome, watcher, _) = run(folder.path(), 3, gradient, None);
        assert!(matches!(outcome, Err(Error::NonFinite { step, .. }) if step == steps[3]), "{steps:?}");
        assert_eq!(watcher.skipped.len(), 3);
        // Let it skip more, as the message says: it goes on, and ends as one that was allowed to from the beginning.
        assert_eq!(run(folder.path(), 9, gradient, None).0.unwrap().skipped, 4);
        assert_eq!(last_checkpoint(whole.path()), last_checkpoint(folder.path()));
    }
}
