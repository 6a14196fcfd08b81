//! Checkpoints that are damaged, and disks that are full: the run goes on from the last checkpoint that is whole.

use std::path::{Path, PathBuf};

use persona_train::{Error, NextToken, Observer, TrainConfig, Trainer};
use sha2::{Digest, Sha256};

use crate::{config, examples, tiny};

fn settings(steps: u64) -> TrainConfig {
    TrainConfig { checkpoint_every: 4, keep_checkpoints: 3, ..config(steps) }
}

#[derive(Default)]
struct Notes(Vec<String>);

impl Observer for Notes {
    fn note(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

/// Trains to the end in a folder, and gives what was said.
fn run(folder: &Path) -> Result<String, Error> {
    let mut notes = Notes::default();
    let trainer = Trainer::new(NextToken::new(tiny(0.1)), settings(14)).unwrap().in_folder(folder);
    trainer.observed_by(&mut notes).fit(&examples(20), &[])?;
    Ok(notes.0.join("\n"))
}

fn checkpoint(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoints/step-{step:08}"))
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().into(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_recognised_and_the_one_before_it_used() {
    let whole = tempfile::tempdir().unwrap();
    run(whole.path()).unwrap();
    let end = files(&checkpoint(whole.path(), 14));
    assert_eq!(end.len(), 4);
    type Damage = fn(&Path);
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    let empty = |path: &Path| std::fs::write(path, "").unwrap();
    let cases: [(&str, Damage); 10] = [
        ("weights.safetensors", flip),
        ("weights.safetensors", truncate),
        ("optimizer.safetensors", flip),
        ("optimizer.safetensors", remove),
        ("state.json", flip),
        ("state.json", truncate),
        ("state.json", empty),
        ("SHA256SUMS", flip),
        ("SHA256SUMS", empty),
        ("SHA256SUMS", remove),
    ];
    for (at, (file, damage)) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        copy(whole.path(), folder.path());
        damage(&checkpoint(folder.path(), 14).join(file));
        let notes = run(folder.path()).unwrap_or_else(|error| panic!("case {at}, {file}: {error}"));
        assert!(notes.contains("step-00000014") && notes.contains("damaged"), "case {at}, {file}: {notes}");
        assert!(notes.contains("continuing after step 12 of 14"), "case {at}, {file}: {notes}");
        assert_eq!(files(&checkpoint(folder.path(), 14)), end, "case {at}, {file}");
    }

    // A log that somebody has cut, in the middle of a line: said, and written on.
    let folder = tempfile::tempdir().unwrap();
    copy(whole.path(), folder.path());
    std::fs::remove_dir_all(checkpoint(folder.path(), 14)).unwrap();
    let log = folder.path().join("log.jsonl");
    let lines = std::fs::read_to_string(&log).unwrap();
    let tenth: usize = lines.split_inclusive('\n').take(10).map(str::len).sum();
    std::fs::write(&log, &lines[..tenth + 5]).unwrap();
    let notes = run(folder.path()).unwrap();
    assert!(notes.contains("log.jsonl lacks 2 of its 12 lines"), "{notes}");
    assert_eq!(
        std::fs::read_to_string(&log).unwrap().lines().count(),
        10 + 3,
        "two steps and the evaluation"
    );
    assert_eq!(files(&checkpoint(folder.path(), 14)), end);

    // Two damaged: the third is used. All damaged: nothing is guessed, and nothing is touched.
    let folder = tempfile::tempdir().unwrap();
    copy(whole.path(), folder.path());
    flip(&checkpoint(folder.path(), 14).join("weights.safetensors"));
    std::fs::remove_dir_all(checkpoint(folder.path(), 12)).unwrap();
    std::fs::create_dir(checkpoint(folder.path(), 12)).unwrap();
    let notes = run(folder.path()).unwrap();
    assert!(notes.contains("step-00000012") && notes.contains("after step 8"), "{notes}");
    assert_eq!(files(&checkpoint(folder.path(), 14)), end);
    for step in [8, 12, 14] {
        truncate(&checkpoint(folder.path(), step).join("weights.safetensors"));
    }
    let error = run(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("step-00000014/weights.safetensors") && error.contains("no checkpoint before"),
        "{error}"
    );
    assert!(checkpoint(folder.path(), 8).exists());
}

/// Where the child process of the test below trains.
const FOLDER: &str = "PERSONA_TEST_FOLDER";

/// The child: trains where the parent says. Alone, it has nothing to do.
#[test]
fn child_with_a_full_disk() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        run(Path::new(&folder)).unwrap();
    }
}

/// Writes that end in the middle, as on a full disk: a shell limits the size of files for the process that it becomes.
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let whole = tempfile::tempdir().unwrap();
    run(whole.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy(whole.path(), folder.path());
    for step in [12, 14] {
        std::fs::remove_dir_all(checkpoint(folder.path(), step)).unwrap();
    }
    let before = files(&checkpoint(folder.path(), 8));
    let weights = std::fs::metadata(checkpoint(whole.path(), 8).join("weights.safetensors")).unwrap().len();
    // In blocks of 512 bytes or 1 KiB, by the shell: less than the moments in both.
    let blocks = weights / 1024 + 4;
    let script =
        format!("ulimit -f {blocks} && trap '' XFSZ && exec \"$0\" --exact damage::child_with_a_full_disk");
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
    let output = shell.env(FOLDER, folder.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{message}");
    assert!(message.contains(".safetensors") && message.contains("File too large"), "{message}");
    assert_eq!(files(&checkpoint(folder.path(), 8)), before);
    assert_eq!(
        std::fs::read_dir(folder.path().join("checkpoints")).unwrap().count(),
        1,
        "nothing half-written"
    );
    let notes = run(folder.path()).unwrap();
    assert!(notes.contains("continuing after step 8"), "{notes}");
    assert_eq!(files(&checkpoint(folder.path(), 14)), files(&checkpoint(whole.path(), 14)));
}

#[test]
fn a_checkpoint_that_was_being_replaced_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path()).unwrap();
    let last = checkpoint(folder.path(), 14);
    let before = files(&last);
    std::fs::rename(&last, folder.path().join("checkpoints/.unfinished-00000014-replaced")).unwrap();
    assert!(run(folder.path()).unwrap().contains("continuing after step 14 of 14"));
    assert_eq!(files(&last), before);
}

#[test]
fn a_checkpoint_of_an_older_version_is_continued_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path()).unwrap();
    assert!(!run(folder.path()).unwrap().contains("the checkpoint is of"));
    let last = checkpoint(folder.path(), 14);
    let path = last.join("state.json");
    let text = std::fs::read(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&text).unwrap();
    state.as_object_mut().unwrap().remove("evaluation_due").unwrap();
    for key in ["libtorch", "device"] {
        state["versions"].as_object_mut().unwrap().remove(key).unwrap();
    }
    let older = serde_json::to_vec(&state).unwrap();
    let hash =
        |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
    let sums = std::fs::read_to_string(last.join("SHA256SUMS")).unwrap();
    std::fs::write(last.join("SHA256SUMS"), sums.replace(&hash(&text), &hash(&older))).unwrap();
    std::fs::write(&path, &older).unwrap();
    let notes = run(folder.path()).unwrap();
    assert!(notes.contains("libtorch unknown, device unknown, this is"), "{notes}");
    assert!(notes.contains("device Cpu:") && notes.contains("continuing after step 14"), "{notes}");
}
