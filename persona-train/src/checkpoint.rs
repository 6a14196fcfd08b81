//! Checkpoints: everything that a run needs to continue as if it had never stopped.

use std::io::Read;
use std::path::{Path, PathBuf};

use persona_model::{Model, Parameters, read_tensors, write_tensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::Tensor;

use crate::adamw::AdamW;
use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// The small part of a checkpoint: `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The layout of checkpoints; another one is refused.
    pub(crate) format: u32,
    /// Steps taken. Order, schedule and randomness follow from it.
    pub(crate) step: u64,
    pub(crate) config: TrainConfig,
    /// What the objective says of itself.
    pub(crate) objective: String,
    /// SHA-256 of the training and validation examples.
    pub(crate) data: String,
    /// Fingerprint of the model that the run began with.
    pub(crate) start: String,
    /// Fingerprint of the model at this step.
    pub(crate) model: String,
    /// What was measured last; JSON has no number for NaN and infinity.
    pub(crate) evaluation: Vec<(String, Option<f64>)>,
    /// The best evaluation so far, and how many have passed since.
    pub(crate) best: Option<Best>,
    /// Bytes of the log when this was written: what a killed run logged afterwards is cut off.
    pub(crate) log_bytes: u64,
    /// Whether the run ended here by early stopping.
    pub(crate) stopped: bool,
    pub(crate) versions: Versions,
    /// SHA-256 of the other files.
    pub(crate) files: Vec<(String, String)>,
}

/// The best evaluation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which it was measured.
    pub step: u64,
    /// Its value.
    pub value: f64,
    /// Evaluations since then without improvement.
    pub since: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Versions {
    pub(crate) persona_train: String,
    pub(crate) threads: i32,
}

impl Versions {
    pub(crate) fn current() -> Self {
        Self { persona_train: env!("CARGO_PKG_VERSION").to_owned(), threads: tch::get_num_threads() }
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "persona-train {} with {} threads", self.persona_train, self.threads)
    }
}

pub(crate) const FORMAT: u32 = 2;
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const OBJECTIVE: &str = "objective.safetensors";
const STATE: &str = "state.json";

/// The checkpoints of a run, `step-NNNNNNNN` each, in one folder.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Opens the folder, makes it where it is not there, and removes what a killed run left unfinished.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            if name(&path).starts_with(".unfinished-") {
                std::fs::remove_dir_all(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(Self { folder })
    }

    /// The checkpoints that are there, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(Error::io(&self.folder))? {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            if let Some(step) = name(&path).strip_prefix("step-").and_then(|step| step.parse().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Writes a checkpoint under a temporary name, renames it when it is whole, and removes those that are too old.
    pub(crate) fn save(
        &self,
        mut state: State,
        model: &(impl Model + ?Sized),
        objective: Option<&Parameters>,
        optimizer: &AdamW,
        keep: usize,
    ) -> Result<()> {
        let target = self.folder.join(format!("step-{:08}", state.step));
        let unfinished = self.folder.join(format!(".unfinished-{:08}", state.step));
        std::fs::create_dir_all(&unfinished).map_err(Error::io(&unfinished))?;
        let written = (|| {
            write_weights(&unfinished.join(WEIGHTS), model.trainable())?;
            let (mean, square) = optimizer.moments();
            let moments = [
                ("exp_avg".to_owned(), mean.shallow_clone()),
                ("exp_avg_sq".to_owned(), square.shallow_clone()),
            ];
            write_tensors(&unfinished.join(OPTIMIZER), &moments, &[])?;
            if let Some(parameters) = objective {
                write_weights(&unfinished.join(OBJECTIVE), parameters)?;
            }
            for file in [WEIGHTS, OPTIMIZER].into_iter().chain(objective.map(|_| OBJECTIVE)) {
                state.files.push((file.to_owned(), file_hash(&unfinished.join(file))?));
            }
            let text = serde_json::to_vec_pretty(&state).map_err(|error| damaged(&unfinished, error))?;
            persona_model::write_atomically(&unfinished.join(STATE), &text)?;
            if target.exists() {
                std::fs::remove_dir_all(&target).map_err(Error::io(&target))?;
            }
            std::fs::rename(&unfinished, &target).map_err(Error::io(&target))?;
            std::fs::File::open(&self.folder)
                .and_then(|folder| folder.sync_all())
                .map_err(Error::io(&self.folder))
        })();
        if written.is_err() {
            // What could not be finished gives its room back; the error that matters is the first one.
            let _ = std::fs::remove_dir_all(&unfinished);
        }
        written?;
        let all = self.list()?;
        for (_, old) in all.iter().take(all.len().saturating_sub(keep)) {
            std::fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
        Ok(())
    }

    /// The state of the last checkpoint, with its folder.
    pub(crate) fn last(&self) -> Result<Option<(PathBuf, State)>> {
        let Some((_, folder)) = self.list()?.pop() else { return Ok(None) };
        let path = folder.join(STATE);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        let state: State = serde_json::from_slice(&text).map_err(|error| damaged(&path, error))?;
        if state.format != FORMAT {
            return Err(damaged(
                &path,
                format!("layout {} of checkpoints; this version reads {FORMAT}", state.format),
            ));
        }
        for (file, hash) in &state.files {
            let path = folder.join(file);
            if file_hash(&path)? != *hash {
                return Err(damaged(&path, "its SHA-256 is not the one that state.json gives"));
            }
        }
        Ok(Some((folder, state)))
    }

    /// Fills the model and the optimiser from a checkpoint.
    pub(crate) fn restore(
        folder: &Path,
        step: u64,
        model: &mut (impl Model + ?Sized),
        optimizer: &mut AdamW,
    ) -> Result<()> {
        read_weights(&folder.join(WEIGHTS), model.trainable_mut())?;
        let path = folder.join(OPTIMIZER);
        let (moments, _) = read_tensors(&path)?;
        let (Some(mean), Some(square)) = (moments.get("exp_avg"), moments.get("exp_avg_sq")) else {
            return Err(damaged(&path, "holds no exp_avg and exp_avg_sq"));
        };
        optimizer.restore(step, mean, square)
    }
}

/// Writes a model's parameters by name.
pub(crate) fn write_weights(path: &Path, parameters: &Parameters) -> Result<()> {
    let tensors: Vec<(String, Tensor)> = parameters
        .specs()
        .iter()
        .zip(parameters.leaves())
        .map(|(spec, leaf)| (spec.name.clone(), leaf.shallow_clone()))
        .collect();
    Ok(write_tensors(path, &tensors, &[])?)
}

/// Fills an objective's own parameters from a checkpoint.
pub(crate) fn restore_state(folder: &Path, parameters: &mut Parameters) -> Result<()> {
    read_weights(&folder.join(OBJECTIVE), parameters)
}

/// Fills a model's parameters from a file of [`write_weights`].
pub(crate) fn read_weights(path: &Path, parameters: &mut Parameters) -> Result<()> {
    persona_model::load(path, parameters, &|name| persona_model::TensorName::Parameter(name.to_owned()))?;
    Ok(())
}

/// What differs between two runs, or nothing.
pub(crate) fn difference(held: &State, now: &State) -> Option<String> {
    let mut differences = Vec::new();
    let json = |config: &TrainConfig| serde_json::to_value(config).unwrap_or_default();
    let (held_config, now_config) = (json(&held.config), json(&now.config));
    if let (Some(held), Some(now)) = (held_config.as_object(), now_config.as_object()) {
        for (key, value) in held {
            if now.get(key) != Some(value) {
                let other = now.get(key).map_or("absent".to_owned(), ToString::to_string);
                differences.push(format!("`{key}` was {value} and is now {other}"));
            }
        }
    }
    if held.objective != now.objective {
        differences.push(format!("the objective was `{}` and is now `{}`", held.objective, now.objective));
    }
    if held.data != now.data {
        differences.push("the examples are others (data, prompts or tokenizer)".to_owned());
    }
    // A run is continued from the model that it began with, or by whoever still holds the one that it had reached.
    if now.start != held.start && now.start != held.model {
        differences
            .push("the model that the run began with is another (weights, seed or adapter)".to_owned());
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

fn damaged(path: &Path, reason: impl ToString) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason: reason.to_string() }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn file_hash(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io(path))?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
