//! The files of a run: its lock, its log, its examples and its checkpoints.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoints;
use crate::data;
use crate::error::{Error, Result};
use crate::objective::StepRecord;

/// The files of a run.
#[derive(Debug)]
pub(crate) struct RunFiles {
    folder: PathBuf,
    log: std::fs::File,
    /// Lines of the log.
    lines: u64,
    pub(crate) checkpoints: Checkpoints,
    /// Held for as long as the run goes on; the system lets go of it when the process ends.
    _lock: std::fs::File,
}

impl RunFiles {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let lock_path = folder.join(".lock");
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let lock = std::fs::File::create(&lock_path).map_err(Error::io(&lock_path))?;
        match lock.try_lock() {
            // A file system without locks is no reason not to train.
            Ok(()) | Err(std::fs::TryLockError::Error(_)) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::InUse { path: folder.to_path_buf() });
            }
        }
        let checkpoints = Checkpoints::open(folder.join("checkpoints"))?;
        let path = folder.join("log.jsonl");
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { folder: folder.to_path_buf(), log, lines: 0, checkpoints, _lock: lock })
    }

    /// What the run's examples are known by, a line each.
    pub(crate) fn examples(&self) -> PathBuf {
        self.folder.join("examples.txt")
    }

    /// Begins a run: notes its examples, and empties the log of one that was killed before its first checkpoint.
    pub(crate) fn begin(&mut self, examples: &str) -> Result<()> {
        let path = self.folder.join("log.jsonl");
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let ours = serde_json::from_slice::<serde_json::Value>(first).is_ok_and(|line| line["step"].is_u64());
        // A line that a kill left unfinished is ours too.
        if !first.is_empty() && !ours && !first.starts_with(b"{\"") {
            let reason = "is no log of a training; move it away, or train in another folder".to_owned();
            return Err(Error::Checkpoint { path, reason });
        }
        data::keep(&self.examples(), examples)?;
        self.cut_log(0).map(drop)
    }

    /// Cuts off what a killed run logged after its last checkpoint: everything behind so many lines. Gives the number of
    /// lines that are missing.
    pub(crate) fn cut_log(&mut self, lines: u64) -> Result<u64> {
        let path = self.folder.join("log.jsonl");
        let mut log = BufReader::new(std::fs::File::open(&path).map_err(Error::io(&path))?);
        let (mut bytes, mut line, mut missing) = (0, Vec::new(), lines);
        while missing > 0 {
            line.clear();
            let read = log.read_until(b'\n', &mut line).map_err(Error::io(&path))?;
            if line.last() != Some(&b'\n') {
                // Somebody has cut the log: what is left of it stays.
                break;
            }
            bytes += read as u64;
            missing -= 1;
        }
        self.log.set_len(bytes).map_err(Error::io(&path))?;
        self.lines = lines;
        Ok(missing)
    }

    /// The lines of the log, all of which are on the disk from now on.
    pub(crate) fn sync_log(&self) -> Result<u64> {
        self.log.sync_data().map_err(Error::io(self.folder.join("log.jsonl")))?;
        Ok(self.lines)
    }

    pub(crate) fn log_step(&mut self, record: &StepRecord) -> Result<()> {
        let mut line = serde_json::json!({
            "step": record.step,
            "loss": record.loss,
            "learning_rate": record.learning_rate,
            "grad_norm": record.grad_norm,
            "tokens": record.tokens,
            "seconds": record.seconds,
        });
        for (name, value) in &record.values {
            line[name.as_str()] = (*value).into();
        }
        if let Some(reason) = &record.skipped {
            line["skipped"] = reason.as_str().into();
        }
        self.write(&line)
    }

    pub(crate) fn log_evaluation(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let mut line = serde_json::json!({ "step": step });
        for (name, value) in values {
            line[name.as_str()] = (*value).into();
        }
        self.write(&line)
    }

    pub(crate) fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        self.lines += 1;
        writeln!(self.log, "{line}").map_err(Error::io(self.folder.join("log.jsonl")))
    }
}
