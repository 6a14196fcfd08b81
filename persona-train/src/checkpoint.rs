//! Checkpoints: everything that a run needs to continue as if it had never stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use persona_model::{Model, Parameters, read_tensors, write_tensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::adamw::AdamW;
use crate::config::TrainConfig;
use crate::data::Part;
use crate::error::{Error, Result};

/// The small part of a checkpoint: `state.json`. Nothing in it is measured by a clock, so that the same steps give the
/// same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The layout of checkpoints; another one is refused.
    pub(crate) format: u32,
    /// Steps taken. Order, schedule and randomness follow from it.
    pub(crate) step: u64,
    /// How many of them were skipped because something was not finite.
    pub(crate) skipped: u64,
    pub(crate) config: TrainConfig,
    /// What the objective says of itself.
    pub(crate) objective: String,
    /// The training and the validation examples.
    pub(crate) data: [Part; 2],
    /// Fingerprints of what else the run was made with, by name: the tokenizer, the prompts.
    pub(crate) made_with: BTreeMap<String, String>,
    /// Fingerprint of the model that the run began with.
    pub(crate) start: String,
    /// Fingerprint of the model at this step.
    pub(crate) model: String,
    /// What was measured last; JSON has no number for NaN and infinity.
    pub(crate) evaluation: Vec<(String, Option<f64>)>,
    /// Whether the evaluation after this step failed and is still to be done.
    #[serde(default)]
    pub(crate) evaluation_due: bool,
    /// The best evaluation so far, and how many have passed since.
    pub(crate) best: Option<Best>,
    /// Lines of the log when this was written: what a killed run logged afterwards is cut off.
    pub(crate) log_lines: u64,
    /// Whether the run ended here by early stopping.
    pub(crate) stopped: bool,
    pub(crate) versions: Versions,
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
    /// Not said by older checkpoints, as is the device.
    #[serde(default)]
    pub(crate) libtorch: Option<String>,
    #[serde(default)]
    pub(crate) device: Option<String>,
}

impl Versions {
    pub(crate) fn current(device: Device) -> Self {
        Self {
            persona_train: env!("CARGO_PKG_VERSION").to_owned(),
            threads: tch::get_num_threads(),
            libtorch: Some(persona_model::libtorch_version()),
            device: Some(format!("{device:?}")),
        }
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [libtorch, device] =
            [&self.libtorch, &self.device].map(|part| part.as_deref().unwrap_or("unknown"));
        let Self { persona_train, threads, .. } = self;
        write!(
            f,
            "persona-train {persona_train} with {threads} threads, libtorch {libtorch}, device {device}"
        )
    }
}

pub(crate) const FORMAT: u32 = 3;
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const OBJECTIVE: &str = "objective.safetensors";
const STATE: &str = "state.json";
/// The SHA-256 of every other file, as `sha256sum -c` reads it. Written last.
const SUMS: &str = "SHA256SUMS";
const UNFINISHED: &str = ".unfinished-";
/// What a checkpoint is called at the end of its name while another one takes its place.
const REPLACED: &str = "-replaced";

/// The checkpoints of a run, `step-NNNNNNNN` each, in one folder.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
}

/// A checkpoint that is whole.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) folder: PathBuf,
    pub(crate) state: State,
    /// What is wrong with the later ones.
    pub(crate) damaged: Vec<Error>,
}

impl Checkpoints {
    /// Opens the folder, makes it where it is not there, and removes what a killed run left unfinished.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            let name = name(&path);
            let Some(step) = name.strip_prefix(UNFINISHED) else { continue };
            // A kill while a checkpoint was replaced: it is still the one of its step.
            let replaced = step.strip_suffix(REPLACED).map(|step| folder.join(format!("step-{step}")));
            let cleared = match replaced.filter(|target| !target.exists()) {
                Some(target) => std::fs::rename(&path, &target),
                None => std::fs::remove_dir_all(&path),
            };
            cleared.map_err(Error::io(&path))?;
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

    fn of_step(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Writes a checkpoint under a temporary name, renames it when it is whole, and removes those that are too old.
    pub(crate) fn save(
        &self,
        state: &State,
        model: &(impl Model + ?Sized),
        objective: Option<&Parameters>,
        optimizer: &AdamW,
        keep: usize,
    ) -> Result<()> {
        let target = self.of_step(state.step);
        let unfinished = self.folder.join(format!("{UNFINISHED}{:08}", state.step));
        let replaced = self.folder.join(format!("{UNFINISHED}{:08}{REPLACED}", state.step));
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
            let text = serde_json::to_vec_pretty(state).map_err(|error| damaged(&unfinished, error))?;
            persona_model::write_atomically(&unfinished.join(STATE), &text)?;
            let mut sums = String::new();
            for file in [WEIGHTS, OPTIMIZER, STATE].into_iter().chain(objective.map(|_| OBJECTIVE)) {
                sums.push_str(&format!("{}  {file}\n", file_hash(&unfinished.join(file))?));
            }
            persona_model::write_atomically(&unfinished.join(SUMS), sums.as_bytes())?;
            // One of this step that is there already is damaged, or lacks an evaluation.
            if target.exists() {
                std::fs::rename(&target, &replaced).map_err(Error::io(&target))?;
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
        if replaced.exists() {
            std::fs::remove_dir_all(&replaced).map_err(Error::io(&replaced))?;
        }
        self.prune(state, keep)
    }

    /// Removes all but the last `keep` checkpoints and what these know as the best one. Those of later steps are damaged:
    /// otherwise the run would have continued from them.
    fn prune(&self, state: &State, keep: usize) -> Result<()> {
        let (held, later): (Vec<_>, Vec<_>) =
            self.list()?.into_iter().partition(|(step, _)| *step <= state.step);
        let (old, last) = held.split_at(held.len().saturating_sub(keep));
        let best: Vec<u64> = last
            .iter()
            .filter_map(|(_, folder)| Some(read_state(&folder.join(STATE)).ok()?.best?.step))
            .collect();
        for (step, folder) in later.iter().chain(old) {
            if !best.contains(step) || *step > state.step {
                std::fs::remove_dir_all(folder).map_err(Error::io(folder))?;
            }
        }
        Ok(())
    }

    /// The last checkpoint that is whole.
    pub(crate) fn last(&self) -> Result<Option<Held>> {
        let mut damaged_ones = Vec::new();
        for (_, folder) in self.list()?.into_iter().rev() {
            match verified(&folder) {
                Ok(state) => return Ok(Some(Held { folder, state, damaged: damaged_ones })),
                Err(error @ Error::Checkpoint { .. }) => damaged_ones.push(error),
                Err(error) => return Err(error),
            }
        }
        match damaged_ones.into_iter().next() {
            None => Ok(None),
            Some(Error::Checkpoint { path, reason }) => {
                let reason = format!(
                    "{reason}; no checkpoint before it is whole: put back a copy, or move the run's folder away to \
                     begin anew"
                );
                Err(Error::Checkpoint { path, reason })
            }
            Some(error) => Err(error),
        }
    }

    /// Fills the model and the optimiser from a checkpoint.
    pub(crate) fn restore(
        held: &Held,
        model: &mut (impl Model + ?Sized),
        optimizer: &mut AdamW,
    ) -> Result<()> {
        read_weights(&held.folder.join(WEIGHTS), model.trainable_mut())?;
        let path = held.folder.join(OPTIMIZER);
        let (moments, _) = read_tensors(&path)?;
        let (Some(mean), Some(square)) = (moments.get("exp_avg"), moments.get("exp_avg_sq")) else {
            return Err(damaged(&path, "holds no exp_avg and exp_avg_sq"));
        };
        optimizer.restore(held.state.step.saturating_sub(held.state.skipped), mean, square)
    }

    /// Fingerprint of the model in the checkpoint of a step.
    pub(crate) fn model_after(&self, step: u64) -> Option<String> {
        read_state(&self.of_step(step).join(STATE)).ok().map(|state| state.model)
    }

    /// Fills the model from the checkpoint of a step.
    pub(crate) fn restore_weights(&self, step: u64, model: &mut (impl Model + ?Sized)) -> Result<()> {
        let folder = self.of_step(step);
        verified(&folder)?;
        read_weights(&folder.join(WEIGHTS), model.trainable_mut())
    }
}

/// The state of a checkpoint whose files are all there, with the bytes that were written.
fn verified(folder: &Path) -> Result<State> {
    let path = folder.join(SUMS);
    let sums = std::fs::read_to_string(&path).map_err(missing(&path))?;
    let mut listed = Vec::new();
    for line in sums.lines() {
        let Some((hash, file)) = line.split_once("  ") else {
            return Err(damaged(&path, "is no list of SHA-256 sums"));
        };
        let path = folder.join(name(Path::new(file)));
        if file_hash(&path)? != hash {
            return Err(damaged(&path, format!("its SHA-256 is not the one in {SUMS}")));
        }
        listed.push(file);
    }
    if let Some(file) = [WEIGHTS, OPTIMIZER, STATE].iter().find(|file| !listed.contains(file)) {
        return Err(damaged(&path, format!("does not list {file}")));
    }
    let path = folder.join(STATE);
    let state = read_state(&path)?;
    if state.format != FORMAT {
        let reason = format!("layout {} of checkpoints; this version reads {FORMAT}", state.format);
        return Err(damaged(&path, reason));
    }
    Ok(state)
}

fn read_state(path: &Path) -> Result<State> {
    let text = std::fs::read(path).map_err(missing(path))?;
    serde_json::from_slice(&text).map_err(|error| damaged(path, error))
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

/// Settings that may change between two calls: no step that was taken depends on them.
const FREE: [&str; 3] = ["skip_non_finite", "keep_checkpoints", "checkpoint_every"];

/// What differs between two runs, or nothing. `best` is the fingerprint of the held run's best model, and `first_other` says
/// which of the `training` or `validation` examples is the first to differ.
pub(crate) fn difference(
    held: &State,
    now: &State,
    best: Option<&str>,
    first_other: &dyn Fn(&str) -> String,
) -> Option<String> {
    // Early stopping is free before it has found anything, and may be left out before it has stopped the run.
    let stopping_is_free = held.best.is_none() || (now.config.early_stopping.is_none() && !held.stopped);
    let is_free = |key: &str| FREE.contains(&key) || (key == "early_stopping" && stopping_is_free);
    let mut differences = Vec::new();
    let json = |config: &TrainConfig| serde_json::to_value(config).unwrap_or_default();
    let (held_config, now_config) = (json(&held.config), json(&now.config));
    if let (Some(held), Some(now)) = (held_config.as_object(), now_config.as_object()) {
        for (key, value) in held {
            if now.get(key) != Some(value) && !is_free(key) {
                let other = now.get(key).map_or("absent".to_owned(), ToString::to_string);
                differences.push(format!("`{key}` was {value} and is now {other}"));
            }
        }
    }
    if held.objective != now.objective {
        differences.push(format!("the objective was `{}` and is now `{}`", held.objective, now.objective));
    }
    let names: BTreeSet<&String> = held.made_with.keys().chain(now.made_with.keys()).collect();
    for name in names {
        let [held, now] =
            [held, now].map(|state| state.made_with.get(name).map_or("not said", String::as_str));
        if held != now {
            differences.push(format!("the {name} was {held} and is now {now}"));
        }
    }
    for ((what, held), now) in ["training", "validation"].iter().zip(&held.data).zip(&now.data) {
        if held != now {
            let place = first_other(what);
            differences.push(format!(
                "the {what} examples are others (data, prompts or tokenizer): {} then, {} now{place}",
                held.examples, now.examples
            ));
        }
    }
    // A run is continued from the model that it began with, or by whoever still holds the one that it had reached or ended
    // with.
    if now.start != held.start && now.start != held.model && best != Some(now.start.as_str()) {
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

/// A file that is not there is damage of the checkpoint, not of the disk.
fn missing(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidData => damaged(&path, source),
        _ => Error::Io { path, source },
    }
}

fn file_hash(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(missing(path))?;
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
