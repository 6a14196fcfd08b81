//! Contract 6: a run that was stopped and continued ends in the same bytes as one that never stopped.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use persona_model::Precision;
use persona_train::{End, NextToken, TrainConfig, Trainer};

use crate::steps::StopAfter;
use crate::{config, examples, tiny};

fn settings() -> TrainConfig {
    TrainConfig { checkpoint_every: 4, eval_every: 5, keep_checkpoints: 2, ..config(17) }
}

/// Runs until `stop` (or the end) in a folder.
fn run(folder: &Path, config: TrainConfig, stop: Option<u64>) -> End {
    let flag = Arc::new(AtomicBool::new(false));
    let mut watcher = StopAfter(stop.unwrap_or(u64::MAX), flag.clone());
    let mut trainer = Trainer::new(NextToken::new(tiny(0.1)), config)
        .unwrap()
        .in_folder(folder)
        .interrupted_by(flag)
        .observed_by(&mut watcher);
    trainer.fit(&examples(20), &examples(6)).unwrap().end
}

/// Whether the last checkpoints of two runs hold the same bytes, in every file.
fn same_end(a: &Path, b: &Path) -> bool {
    let files = |folder: &Path| {
        let folder = folder.join("checkpoints/step-00000017");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert_eq!(files(a).len(), 4);
    files(a) == files(b)
}

/// The log without what a clock measured.
fn log(folder: &Path) -> Vec<serde_json::Value> {
    std::fs::read_to_string(folder.join("log.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("seconds");
            line
        })
        .collect()
}

#[test]
fn stopped_and_killed_runs_end_in_the_same_bytes() {
    for (precision, gradient_checkpointing) in
        [(Precision::Fp32, false), (Precision::Bf16, false), (Precision::Fp32, true)]
    {
        let config = TrainConfig { precision, gradient_checkpointing, ..settings() };
        let whole = tempfile::tempdir().unwrap();
        assert_eq!(run(whole.path(), config.clone(), None), End::Finished);

        let stopped = tempfile::tempdir().unwrap();
        assert_eq!(run(stopped.path(), config.clone(), Some(3)), End::Interrupted);
        assert_eq!(run(stopped.path(), config.clone(), Some(11)), End::Interrupted);
        assert_eq!(run(stopped.path(), config.clone(), None), End::Finished);
        assert!(same_end(whole.path(), stopped.path()));
        assert_eq!(log(whole.path()), log(stopped.path()));

        // Killed: the last checkpoint is behind the log, and a half-written checkpoint lies about.
        let killed = tempfile::tempdir().unwrap();
        assert_eq!(run(killed.path(), config.clone(), Some(10)), End::Interrupted);
        std::fs::remove_dir_all(killed.path().join("checkpoints/step-00000010")).unwrap();
        let half = killed.path().join("checkpoints/.unfinished-00000012");
        std::fs::create_dir(&half).unwrap();
        std::fs::write(half.join("weights.safetensors"), "half").unwrap();
        assert_eq!(run(killed.path(), config.clone(), None), End::Finished);
        assert!(!half.exists());
        assert!(same_end(whole.path(), killed.path()));
        assert_eq!(log(whole.path()), log(killed.path()));
        assert_eq!(checkpoints(whole.path()), ["step-00000016", "step-00000017"], "only the last are kept");
    }
}

fn checkpoints(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
