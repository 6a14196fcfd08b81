//! The one loop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use persona_model::Model;
use sha2::{Digest, Sha256};
use tch::Tensor;

use crate::adamw::{AdamW, gradient_norm};
use crate::checkpoint::{self, Best, Checkpoints, FORMAT, State, Versions};
use crate::config::{Better, TrainConfig};
use crate::error::{Error, Result};
use crate::objective::{Contribution, Evaluator, Means, Objective, Observer, StepRecord};
use crate::order::{Order, generator};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Steps taken, those of earlier calls included.
    pub steps: u64,
    /// Why it ended.
    pub end: End,
    /// The best evaluation, where early stopping watches one.
    pub best: Option<Best>,
    /// The last evaluation, by name.
    pub evaluation: Vec<(String, f64)>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps were taken.
    Finished,
    /// The watched value no longer improved; the model holds the best weights.
    EarlyStopped,
    /// Somebody asked it to stop; the next call continues.
    Interrupted,
}

/// Trains a model on an objective.
///
/// With a folder, the run writes `log.jsonl`, `checkpoints/` and, with early stopping, `best.safetensors`; called again
/// on the same folder it continues, and a finished run is only loaded. Dropout is drawn from libtorch's generator, which
/// every micro-batch seeds anew: nothing else in the process may draw from it meanwhile.
pub struct Trainer<'a, O: Objective> {
    objective: O,
    config: TrainConfig,
    folder: Option<PathBuf>,
    observer: Option<&'a mut dyn Observer>,
    evaluators: Vec<&'a mut dyn Evaluator<O::Model>>,
    interrupt: Option<Arc<AtomicBool>>,
}

impl<O: Objective> std::fmt::Debug for Trainer<'_, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("config", &self.config)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl<'a, O: Objective> Trainer<'a, O> {
    /// A run that leaves no files.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of range, and for steps in parts of an objective that
    /// [couples](Objective::couples_batch) the examples of a step.
    pub fn new(objective: O, config: TrainConfig) -> Result<Self> {
        config.validate()?;
        if objective.couples_batch() && config.micro_batch_size < config.batch_size {
            let reason = format!(
                "is {} and `batch_size` {}: the loss of an example depends on the others of its step (`{}`), which \
                 therefore cannot be computed in parts; make the two equal",
                config.micro_batch_size,
                config.batch_size,
                objective.describe()
            );
            return Err(Error::Config { key: "micro_batch_size", reason });
        }
        Ok(Self { objective, config, folder: None, observer: None, evaluators: Vec::new(), interrupt: None })
    }

    /// Writes log and checkpoints to a folder, and continues what is there.
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Who watches.
    #[must_use]
    pub fn observed_by(mut self, observer: &'a mut dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Adds a measurement at every evaluation; early stopping can watch what it names.
    #[must_use]
    pub fn evaluated_by(mut self, evaluator: &'a mut dyn Evaluator<O::Model>) -> Self {
        self.evaluators.push(evaluator);
        self
    }

    /// A flag that stops the run after the step in progress, with a checkpoint.
    #[must_use]
    pub fn interrupted_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.interrupt = Some(flag);
        self
    }

    /// The objective with its model.
    pub fn into_objective(self) -> O {
        self.objective
    }

    /// Trains on `train`, evaluating on `valid`.
    ///
    /// # Errors
    /// [`Error::NoData`], [`Error::OtherRun`] and [`Error::Checkpoint`] before anything is changed;
    /// [`Error::NonFinite`] with step and rows, the weights being those of the step before; file errors.
    pub fn fit(&mut self, train: &[O::Item], valid: &[O::Item]) -> Result<Outcome> {
        if train.is_empty() {
            return Err(Error::NoData);
        }
        if self.config.early_stopping.is_some() && self.folder.is_none() {
            let reason = "the best weights are kept in the run's folder; give one with in_folder".to_owned();
            return Err(Error::Config { key: "early_stopping", reason });
        }
        let model = self.objective.model_mut();
        model.set_precision(self.config.precision);
        model.set_gradient_checkpointing(self.config.gradient_checkpointing)?;
        let parameters = self.objective.model().trainable();
        let mut optimizer = AdamW::new(self.config.optimizer, parameters)?.with_groups(
            &self.config.groups,
            self.config.lora_plus_ratio,
            parameters,
        )?;
        let mut state = self.fresh_state(train, valid)?;
        let mut files = match &self.folder {
            Some(folder) => Some(RunFiles::open(folder)?),
            None => None,
        };
        if let Some(files) = &mut files {
            if let Some((folder, held)) = files.checkpoints.last()? {
                if let Some(difference) = checkpoint::difference(&held, &state) {
                    return Err(Error::OtherRun { path: folder, difference });
                }
                Checkpoints::restore(&folder, held.step, self.objective.model_mut(), &mut optimizer)?;
                self.objective
                    .state_mut()
                    .map(|state| checkpoint::restore_state(&folder, state))
                    .transpose()?;
                files.cut_log(held.log_bytes)?;
                if held.versions != state.versions {
                    let (held, now) = (&held.versions, &state.versions);
                    self.note(&format!(
                        "the checkpoint is of {held}, this is {now}: the run may end in other last digits"
                    ));
                }
                state = State { files: Vec::new(), versions: Versions::current(), ..held };
                self.note(&format!("continuing after step {} of {}", state.step, self.config.steps));
            } else {
                files.begin_log()?;
            }
        }
        self.objective.model().trainable().set_trainable(true)?;
        let outcome = self.run(train, valid, &mut optimizer, &mut state, &mut files);
        self.objective.model().trainable().set_trainable(false)?;
        outcome
    }

    fn run(
        &mut self,
        train: &[O::Item],
        valid: &[O::Item],
        optimizer: &mut AdamW,
        state: &mut State,
        files: &mut Option<RunFiles>,
    ) -> Result<Outcome> {
        let lengths = train.iter().map(|item| self.objective.tokens(item)).collect();
        let mut order = Order::new(lengths, self.config.batch_size, self.config.seed);
        let held = state.evaluation.iter();
        let mut evaluation: Vec<_> =
            held.map(|(name, value)| (name.clone(), value.unwrap_or(f64::NAN))).collect();
        let mut saved = state.step;
        while state.step < self.config.steps && !state.stopped {
            if self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                self.save(files, state, optimizer, &mut saved)?;
                return Ok(Outcome {
                    steps: state.step,
                    end: End::Interrupted,
                    best: state.best.clone(),
                    evaluation,
                });
            }
            let step = state.step + 1;
            let items: Vec<&O::Item> = order.batch(step).iter().map(|&at| &train[at]).collect();
            let record = self.step(step, &items, optimizer)?;
            state.step = step;
            if let Some(files) = files {
                files.log_step(&record)?;
            }
            if let Some(observer) = &mut self.observer {
                observer.step(&record);
            }
            let last = step == self.config.steps;
            if last || due(step, self.config.eval_every) {
                evaluation = self.evaluate(valid, step)?;
                let finite = |value: f64| value.is_finite().then_some(value);
                state.evaluation =
                    evaluation.iter().map(|(name, value)| (name.clone(), finite(*value))).collect();
                if let Some(files) = files {
                    files.log_evaluation(step, &evaluation)?;
                }
                if let Err(error) = self.watch(&evaluation, state, files) {
                    // The steps are not lost with the measurement.
                    self.save(files, state, optimizer, &mut saved)?;
                    return Err(error);
                }
            }
            if last || state.stopped || due(step, self.config.checkpoint_every) {
                self.save(files, state, optimizer, &mut saved)?;
            }
        }
        let end = if state.stopped { End::EarlyStopped } else { End::Finished };
        if let (Some(best), Some(files)) = (&state.best, &files)
            && best.step != state.step
        {
            checkpoint::read_weights(&files.best(), self.objective.model_mut().trainable_mut())?;
        }
        Ok(Outcome { steps: state.step, end, best: state.best.clone(), evaluation })
    }

    /// One optimiser step over its micro-batches.
    fn step(&mut self, step: u64, items: &[&O::Item], optimizer: &mut AdamW) -> Result<StepRecord> {
        let began = Instant::now();
        let ids = |items: &[&O::Item]| {
            items.iter().map(|item| self.objective.id(item)).collect::<Vec<_>>().join(", ")
        };
        let count = self.objective.count(items);
        self.objective
            .begin(items, self.config.micro_batch_size)
            .map_err(|error| in_rows(&self.objective, &format!("step {step}"), items, error))?;
        let mut gradients: Vec<Option<Tensor>> = Vec::new();
        let mut means = Means::default();
        let mut loss = 0.0;
        for (micro, part) in items.chunks(self.config.micro_batch_size).enumerate() {
            let turn = self.turn();
            let contribution = self.seeded_evaluate(part, &[step, micro as u64]);
            let contribution = contribution
                .map_err(|error| in_rows(&self.objective, &format!("step {step}"), part, error))?;
            let share = contribution.numerator.f_div_scalar(count)?;
            let value = share.f_double_value(&[])?;
            if !value.is_finite() {
                return Err(Error::NonFinite { step, what: "loss", value, rows: ids(part) });
            }
            loss += value;
            means.add(contribution.means);
            let turn = turn.filter(|_| self.config.gradient_checkpointing);
            let parts = self.objective.model().gradients(&share)?;
            drop(turn);
            if gradients.is_empty() {
                gradients = parts;
                continue;
            }
            let _no_grad = tch::no_grad_guard();
            for (sum, part) in gradients.iter_mut().zip(parts) {
                match (sum.as_mut(), part) {
                    (Some(sum), Some(part)) => drop(sum.f_add_(&part)?),
                    (None, part @ Some(_)) => *sum = part,
                    (_, None) => {}
                }
            }
        }
        let grad_norm = gradient_norm(&gradients)?;
        if !grad_norm.is_finite() {
            return Err(Error::NonFinite { step, what: "gradient norm", value: grad_norm, rows: ids(items) });
        }
        // The 1e-6 is torch's, in clip_grad_norm_.
        let scale = self.config.max_grad_norm.map_or(1.0, |limit| (limit / (grad_norm + 1e-6)).min(1.0));
        let learning_rate = self.config.rate_at(step);
        optimizer.step(self.objective.model_mut().trainable_mut(), &gradients, scale, learning_rate)?;
        self.objective.after_step(step)?;
        Ok(StepRecord {
            step,
            steps: self.config.steps,
            loss,
            learning_rate,
            grad_norm,
            tokens: items.iter().map(|item| self.objective.tokens(item)).sum(),
            seconds: began.elapsed().as_secs_f64(),
            values: means.values().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    /// libtorch draws dropout from one generator of the whole process, so two trainings take turns between seeding it and
    /// having drawn.
    fn turn(&self) -> Option<MutexGuard<'static, ()>> {
        static GENERATOR: Mutex<()> = Mutex::new(());
        let drawn = self.objective.model().has_dropout();
        drawn.then(|| GENERATOR.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A forward pass in training whose dropout follows from the seed and `place` alone.
    fn seeded_evaluate(&self, items: &[&O::Item], place: &[u64]) -> Result<Contribution> {
        if self.objective.model().has_dropout() {
            let seed: u64 = rand::RngExt::random(&mut generator(self.config.seed, place));
            tch::manual_seed(seed as i64);
        }
        self.objective.evaluate(items, true)
    }

    /// The loss and the objective's values on the validation data, prefixed `eval_`, and what the evaluators measure.
    fn evaluate(&mut self, valid: &[O::Item], step: u64) -> Result<Vec<(String, f64)>> {
        let _no_grad = tch::no_grad_guard();
        let mut values = Vec::new();
        if !valid.is_empty() {
            values = evaluate(&self.objective, valid, self.config.micro_batch_size)?
                .into_iter()
                .map(|(name, value)| (format!("eval_{name}"), value))
                .collect();
        }
        for evaluator in &mut self.evaluators {
            values.extend(evaluator.evaluate(self.objective.model(), step)?);
        }
        if let Some(observer) = &mut self.observer {
            observer.evaluation(step, &values);
        }
        Ok(values)
    }

    /// Early stopping: notes an improvement and keeps its weights, or counts towards the end.
    fn watch(&self, values: &[(String, f64)], state: &mut State, files: &Option<RunFiles>) -> Result<()> {
        let Some(stopping) = &self.config.early_stopping else { return Ok(()) };
        let Some(&(_, value)) = values.iter().find(|(name, _)| *name == stopping.metric) else {
            let known: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
            let reason = format!("nothing measures `{}`; there is {}", stopping.metric, known.join(", "));
            return Err(Error::Config { key: "early_stopping", reason });
        };
        if !value.is_finite() {
            return Err(Error::Watched { step: state.step, metric: stopping.metric.clone(), value });
        }
        let improved = state.best.as_ref().is_none_or(|best| match stopping.better {
            Better::Lower => value < best.value,
            Better::Higher => value > best.value,
        });
        if improved {
            state.best = Some(Best { step: state.step, value, since: 0 });
            if let Some(files) = files {
                checkpoint::write_weights(&files.best(), self.objective.model().trainable())?;
            }
        } else if let Some(best) = &mut state.best {
            best.since += 1;
            state.stopped = best.since >= stopping.patience;
        }
        Ok(())
    }

    fn save(
        &self,
        files: &mut Option<RunFiles>,
        state: &mut State,
        optimizer: &AdamW,
        saved: &mut u64,
    ) -> Result<()> {
        let Some(files) = files else { return Ok(()) };
        if *saved == state.step && state.step > 0 {
            return Ok(());
        }
        state.log_bytes = files.log_bytes()?;
        state.model = self.objective.model().fingerprint()?;
        files.checkpoints.save(
            state.clone(),
            self.objective.model(),
            self.objective.state(),
            optimizer,
            self.config.keep_checkpoints,
        )?;
        *saved = state.step;
        Ok(())
    }

    fn fresh_state(&self, train: &[O::Item], valid: &[O::Item]) -> Result<State> {
        let mut hash = Sha256::new();
        for part in [train, valid] {
            hash.update((part.len() as u64).to_le_bytes());
            for item in part {
                self.objective.digest(item, &mut |bytes| hash.update(bytes));
            }
        }
        let start = self.objective.model().fingerprint()?;
        Ok(State {
            format: FORMAT,
            step: 0,
            config: self.config.clone(),
            objective: self.objective.describe(),
            data: checkpoint::hex(&hash.finalize()),
            model: start.clone(),
            start,
            evaluation: Vec::new(),
            best: None,
            log_bytes: 0,
            stopped: false,
            versions: Versions::current(),
            files: Vec::new(),
        })
    }

    fn note(&mut self, text: &str) {
        if let Some(observer) = &mut self.observer {
            observer.note(text);
        }
    }
}

/// The loss of an objective over any number of examples without training, as `loss`, and what else it measures.
///
/// # Errors
/// The objective's; [`Error::NonFinite`] with the rows.
pub fn evaluate<O: Objective>(
    objective: &O,
    items: &[O::Item],
    micro_batch_size: usize,
) -> Result<Vec<(String, f64)>> {
    let _no_grad = tch::no_grad_guard();
    let all: Vec<&O::Item> = items.iter().collect();
    let mut means = Means::default();
    let mut sum = 0.0;
    objective
        .begin(&all, micro_batch_size.max(1))
        .map_err(|error| in_rows(objective, "evaluation", &all, error))?;
    for part in all.chunks(micro_batch_size.max(1)) {
        let contribution = objective.evaluate(part, false);
        let contribution = contribution.map_err(|error| in_rows(objective, "evaluation", part, error))?;
        let value = contribution.numerator.f_double_value(&[])?;
        if !value.is_finite() {
            let rows = part.iter().map(|item| objective.id(item)).collect::<Vec<_>>().join(", ");
            return Err(Error::NonFinite { step: 0, what: "loss", value, rows });
        }
        sum += value;
        means.add(contribution.means);
    }
    let mut values = vec![("loss".to_owned(), sum / objective.count(&all))];
    values.extend(means.values().map(|(name, value)| (name.to_owned(), value)));
    Ok(values)
}

/// An error of the objective with the examples that it was computing.
fn in_rows<O: Objective>(objective: &O, place: &str, items: &[&O::Item], error: Error) -> Error {
    let rows = items.iter().map(|item| objective.id(item)).collect::<Vec<_>>().join(", ");
    Error::Rows { place: place.to_owned(), rows, error: Box::new(error) }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The files of a run.
#[derive(Debug)]
struct RunFiles {
    folder: PathBuf,
    log: std::fs::File,
    checkpoints: Checkpoints,
    /// Held for as long as the run goes on; the system lets go of it when the process ends.
    _lock: std::fs::File,
}

impl RunFiles {
    fn open(folder: &Path) -> Result<Self> {
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
        Ok(Self { folder: folder.to_path_buf(), log, checkpoints, _lock: lock })
    }

    fn best(&self) -> PathBuf {
        self.folder.join("best.safetensors")
    }

    /// Empties the log of a run that was killed before its first checkpoint.
    fn begin_log(&mut self) -> Result<()> {
        let path = self.folder.join("log.jsonl");
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let ours = serde_json::from_slice::<serde_json::Value>(first).is_ok_and(|line| line["step"].is_u64());
        // A line that a kill left unfinished is ours too.
        if !first.is_empty() && !ours && !first.starts_with(b"{\"") {
            let reason = "is no log of a training; move it away, or train in another folder".to_owned();
            return Err(Error::Checkpoint { path, reason });
        }
        self.cut_log(0)
    }

    /// Cuts off what a killed run logged after its last checkpoint.
    fn cut_log(&mut self, bytes: u64) -> Result<()> {
        let path = self.folder.join("log.jsonl");
        if self.log_bytes()? > bytes {
            self.log.set_len(bytes).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    fn log_bytes(&self) -> Result<u64> {
        Ok(self.log.metadata().map_err(Error::io(self.folder.join("log.jsonl")))?.len())
    }

    fn log_step(&mut self, record: &StepRecord) -> Result<()> {
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
        self.write(&line)
    }

    fn log_evaluation(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let mut line = serde_json::json!({ "step": step });
        for (name, value) in values {
            line[name.as_str()] = (*value).into();
        }
        self.write(&line)
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        writeln!(self.log, "{line}").map_err(Error::io(self.folder.join("log.jsonl")))
    }
}
