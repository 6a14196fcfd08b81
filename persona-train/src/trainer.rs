//! The one loop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use persona_model::Model;
use tch::Tensor;

use crate::adamw::{AdamW, gradient_norm};
use crate::checkpoint::{self, Best, Checkpoints, FORMAT, State, Versions};
use crate::config::{Better, TrainConfig};
use crate::data;
use crate::error::{Error, Result};
use crate::evaluation::{evaluate_at, in_rows, rows};
use crate::objective::{Contribution, Evaluator, Means, Objective, Observer, StepRecord};
use crate::order::{Order, generator};
use crate::outcome::{End, Outcome};
use crate::run_files::RunFiles;

/// Trains a model on an objective.
///
/// With a folder, the run writes `log.jsonl`, `examples.txt` and `checkpoints/`; called again on the same folder it
/// continues, from the last checkpoint that is whole, and a finished run is only loaded. Dropout is drawn from libtorch's generator, which
/// every micro-batch seeds anew: nothing else in the process may draw from it meanwhile.
pub struct Trainer<'a, O: Objective> {
    objective: O,
    config: TrainConfig,
    folder: Option<PathBuf>,
    observer: Option<&'a mut dyn Observer>,
    evaluators: Vec<&'a mut dyn Evaluator<O::Model>>,
    interrupt: Option<Arc<AtomicBool>>,
    made_with: BTreeMap<String, String>,
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
        Ok(Self {
            objective,
            config,
            folder: None,
            observer: None,
            evaluators: Vec::new(),
            interrupt: None,
            made_with: BTreeMap::new(),
        })
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

    /// A fingerprint of something that the run is made with, such as the `tokenizer`: a checkpoint of a run with another
    /// one is refused by this name.
    #[must_use]
    pub fn made_with(mut self, name: impl Into<String>, fingerprint: impl Into<String>) -> Self {
        self.made_with.insert(name.into(), fingerprint.into());
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
    /// [`Error::NonFinite`] with step and rows, the weights being those of the step before; an evaluation's, the steps
    /// before it being kept in the run's folder, where the next call begins with it; file errors.
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
        let (mut state, examples) = self.fresh_state(train, valid)?;
        let mut files = match &self.folder {
            Some(folder) => Some(RunFiles::open(folder)?),
            None => None,
        };
        if let Some(files) = &mut files {
            state = self.take_up(files, state, &examples, &mut optimizer)?;
        }
        self.objective.model().trainable().set_trainable(true)?;
        let outcome = self.run(train, valid, &mut optimizer, &mut state, &mut files);
        self.objective.model().trainable().set_trainable(false)?;
        outcome
    }

    /// Fills everything from the last checkpoint that is whole; a run without one begins.
    fn take_up(
        &mut self,
        files: &mut RunFiles,
        state: State,
        examples: &str,
        optimizer: &mut AdamW,
    ) -> Result<State> {
        let Some(held) = files.checkpoints.last()? else {
            files.begin(examples)?;
            return Ok(state);
        };
        let first_other = |part: &str| data::first_other(&files.examples(), examples, part);
        let best = held.state.best.as_ref().and_then(|best| files.checkpoints.model_after(best.step));
        if let Some(difference) = checkpoint::difference(&held.state, &state, best.as_deref(), &first_other) {
            return Err(Error::OtherRun { path: held.folder, difference });
        }
        for error in &held.damaged {
            self.note(&format!("damaged, and not used: {error}; going back to the checkpoint before it"));
        }
        Checkpoints::restore(&held, self.objective.model_mut(), optimizer)?;
        let objective = self.objective.state_mut();
        objective.map(|state| checkpoint::restore_state(&held.folder, state)).transpose()?;
        let missing = files.cut_log(held.state.log_lines)?;
        if missing > 0 {
            self.note(&format!("log.jsonl lacks {missing} of its {} lines", held.state.log_lines));
        }
        if held.state.versions != state.versions {
            let (held, now) = (&held.state.versions, &state.versions);
            self.note(&format!(
                "the checkpoint is of {held}, this is {now}: the run may end in other last digits"
            ));
        }
        let best = held.state.best.filter(|_| self.config.early_stopping.is_some());
        let state = State { config: state.config, best, versions: state.versions, ..held.state };
        self.note(&format!("continuing after step {} of {}", state.step, self.config.steps));
        Ok(state)
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
        if state.evaluation_due {
            self.measure(valid, state, files, &mut evaluation)?;
            // The checkpoint of this step does not know it yet.
            saved = 0;
            self.save(files, state, optimizer, &mut saved)?;
        }
        while state.step < self.config.steps && !state.stopped {
            if self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                self.save(files, state, optimizer, &mut saved)?;
                return Ok(outcome(state, End::Interrupted, evaluation));
            }
            let step = state.step + 1;
            let items: Vec<&O::Item> = order.batch(step).iter().map(|&at| &train[at]).collect();
            let record = self.step(step, &items, optimizer, state)?;
            state.step = step;
            if let Some(files) = files {
                files.log_step(&record)?;
            }
            if let Some(observer) = &mut self.observer {
                observer.step(&record);
            }
            let last = step == self.config.steps;
            let mut improved = false;
            if last || due(step, self.config.eval_every) {
                state.evaluation_due = true;
                match self.measure(valid, state, files, &mut evaluation) {
                    Ok(better) => improved = better,
                    Err(error) => {
                        // The steps are not lost with the measurement.
                        self.save(files, state, optimizer, &mut saved)?;
                        return Err(error);
                    }
                }
            }
            if last || improved || state.stopped || due(step, self.config.checkpoint_every) {
                self.save(files, state, optimizer, &mut saved)?;
            }
        }
        let end = if state.stopped { End::EarlyStopped } else { End::Finished };
        if let (Some(best), Some(files)) = (&state.best, &files)
            && best.step != state.step
        {
            files.checkpoints.restore_weights(best.step, self.objective.model_mut())?;
        }
        Ok(outcome(state, end, evaluation))
    }

    /// One optimiser step, or the record of one that is skipped.
    fn step(
        &mut self,
        step: u64,
        items: &[&O::Item],
        optimizer: &mut AdamW,
        state: &mut State,
    ) -> Result<StepRecord> {
        let began = Instant::now();
        let taken = self.update(step, items, optimizer);
        let mut record = match taken {
            Err(Error::NonFinite { what, value, rows, .. })
                if state.skipped < self.config.skip_non_finite =>
            {
                state.skipped += 1;
                let reason = format!("the {what} is {value}, in rows {rows}");
                let (skipped, allowed) = (state.skipped, self.config.skip_non_finite);
                self.note(&format!("step {step} is skipped, number {skipped} of {allowed}: {reason}"));
                StepRecord { skipped: Some(reason), ..self.record(step, items) }
            }
            other => other?,
        };
        self.objective.after_step(step)?;
        record.seconds = began.elapsed().as_secs_f64();
        Ok(record)
    }

    /// The record of a step of which nothing is known.
    fn record(&self, step: u64, items: &[&O::Item]) -> StepRecord {
        StepRecord {
            step,
            steps: self.config.steps,
            loss: f64::NAN,
            learning_rate: self.config.rate_at(step),
            grad_norm: f64::NAN,
            tokens: items.iter().map(|item| self.objective.tokens(item)).sum(),
            seconds: 0.0,
            values: Vec::new(),
            skipped: None,
        }
    }

    /// Computes a step over its micro-batches, and updates the weights.
    fn update(&mut self, step: u64, items: &[&O::Item], optimizer: &mut AdamW) -> Result<StepRecord> {
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
                return Err(Error::NonFinite {
                    step,
                    what: "loss",
                    value,
                    rows: rows(&self.objective, part),
                });
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
            let rows = rows(&self.objective, items);
            return Err(Error::NonFinite { step, what: "gradient norm", value: grad_norm, rows });
        }
        // The 1e-6 is torch's, in clip_grad_norm_.
        let scale = self.config.max_grad_norm.map_or(1.0, |limit| (limit / (grad_norm + 1e-6)).min(1.0));
        let values = means.values().map(|(name, value)| (name.to_owned(), value)).collect();
        let record = StepRecord { loss, grad_norm, values, ..self.record(step, items) };
        let parameters = self.objective.model_mut().trainable_mut();
        optimizer.step(parameters, &gradients, scale, record.learning_rate)?;
        Ok(record)
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

    /// The evaluation that is due, into state and log. Says whether it is the best so far.
    fn measure(
        &mut self,
        valid: &[O::Item],
        state: &mut State,
        files: &mut Option<RunFiles>,
        evaluation: &mut Vec<(String, f64)>,
    ) -> Result<bool> {
        let values = self.evaluate(valid, state.step)?;
        if let Some(files) = files {
            files.log_evaluation(state.step, &values)?;
        }
        let improved = self.watch(&values, state)?;
        let finite = |value: f64| value.is_finite().then_some(value);
        state.evaluation = values.iter().map(|(name, value)| (name.clone(), finite(*value))).collect();
        state.evaluation_due = false;
        *evaluation = values;
        Ok(improved)
    }

    /// The loss and the objective's values on the validation data, prefixed `eval_`, and what the evaluators measure.
    fn evaluate(&mut self, valid: &[O::Item], step: u64) -> Result<Vec<(String, f64)>> {
        let _no_grad = tch::no_grad_guard();
        let mut values = Vec::new();
        if !valid.is_empty() {
            let place = format!("evaluation after step {step}");
            values = evaluate_at(&place, &self.objective, valid, self.config.micro_batch_size)?
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

    /// Early stopping: notes an improvement, whose checkpoint is kept, or counts towards the end. Says whether it is one.
    fn watch(&self, values: &[(String, f64)], state: &mut State) -> Result<bool> {
        let Some(stopping) = &self.config.early_stopping else { return Ok(false) };
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
        } else if let Some(best) = &mut state.best {
            best.since += 1;
            state.stopped = best.since >= stopping.patience;
        }
        Ok(improved)
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
        state.log_lines = files.sync_log()?;
        state.model = self.objective.model().fingerprint()?;
        files.checkpoints.save(
            state,
            self.objective.model(),
            self.objective.state(),
            optimizer,
            self.config.keep_checkpoints,
        )?;
        *saved = state.step;
        Ok(())
    }

    /// The state of a run that has made no step, and what its examples are known by.
    fn fresh_state(&self, train: &[O::Item], valid: &[O::Item]) -> Result<(State, String)> {
        let (data, examples) = data::describe(&self.objective, train, valid);
        let start = self.objective.model().fingerprint()?;
        let state = State {
            format: FORMAT,
            step: 0,
            skipped: 0,
            config: self.config.clone(),
            objective: self.objective.describe(),
            data,
            made_with: self.made_with.clone(),
            model: start.clone(),
            start,
            evaluation: Vec::new(),
            evaluation_due: false,
            best: None,
            log_lines: 0,
            stopped: false,
            versions: Versions::current(self.objective.model().device()),
        };
        Ok((state, examples))
    }

    fn note(&mut self, text: &str) {
        if let Some(observer) = &mut self.observer {
            observer.note(text);
        }
    }
}

fn outcome(state: &State, end: End, evaluation: Vec<(String, f64)>) -> Outcome {
    Outcome { steps: state.step, skipped: state.skipped, end, best: state.best.clone(), evaluation }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
