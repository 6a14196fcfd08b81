//! What the loop asks of a task: numerators, counts, and what to log.

use persona_model::{Model, Parameters};
use tch::Tensor;

use crate::error::Result;

/// A task that a model is trained on.
///
/// A step's loss is the sum of numerators over the sum of counts of all its micro-batches, so that the step does not
/// depend on how it was cut up. Counts are known before the forward pass.
pub trait Objective {
    /// One example.
    type Item;

    /// The kind of model that learns.
    type Model: Model + ?Sized;

    /// The model that learns.
    fn model(&self) -> &Self::Model;

    /// The model that learns, to write to.
    fn model_mut(&mut self) -> &mut Self::Model;

    /// A name of the objective and everything about it that changes the numbers, for comparing runs.
    fn describe(&self) -> String;

    /// What the loss is a mean over, in words: `target tokens`, `pairs`.
    fn unit(&self) -> &'static str;

    /// The example's id, for messages.
    fn id<'a>(&self, item: &'a Self::Item) -> &'a str;

    /// The example's length in tokens, for putting similar ones together.
    fn tokens(&self, item: &Self::Item) -> usize;

    /// Everything of the example that is trained on, as bytes, for the fingerprint of the data.
    fn digest(&self, item: &Self::Item, sink: &mut dyn FnMut(&[u8]));

    /// What these examples add to the count by which the loss is divided.
    fn count(&self, items: &[&Self::Item]) -> f64;

    /// Whether an example's loss depends on the other examples of its step, beyond what [`begin`](Self::begin) can tell
    /// them. Such a step is not cut up: the loop refuses a `micro_batch_size` below the `batch_size`. On validation data
    /// the loss then is that of batches of `micro_batch_size`.
    fn couples_batch(&self) -> bool {
        false
    }

    /// Called with all examples of a step, or of an evaluation, before they are computed in parts of `micro_batch_size`:
    /// the place for what the loss of each part needs to know of the whole.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    fn begin(&self, items: &[&Self::Item], micro_batch_size: usize) -> Result<()> {
        let _ = (items, micro_batch_size);
        Ok(())
    }

    /// The forward pass of some or all of the examples that [`begin`](Self::begin) was last called with; of any, where it
    /// was never called. `train` switches dropout on.
    ///
    /// # Errors
    /// The model's, and the objective's own through [`Error::objective`](crate::Error::objective).
    fn evaluate(&self, items: &[&Self::Item], train: bool) -> Result<Contribution>;

    /// Called after each optimiser step, counted from 1 over the whole run, also after one that was skipped because
    /// something was not finite.
    ///
    /// # Errors
    /// The objective's own.
    fn after_step(&mut self, step: u64) -> Result<()> {
        let _ = step;
        Ok(())
    }

    /// Parameters beside the trained ones that [`after_step`](Self::after_step) changes: they are kept in checkpoints, and
    /// a continued run finds them as they were.
    fn state(&self) -> Option<&Parameters> {
        None
    }

    /// The parameters of [`state`](Self::state), to write to.
    fn state_mut(&mut self) -> Option<&mut Parameters> {
        None
    }
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Contribution {
    /// The sum of losses, a scalar in float32 with its graph.
    pub numerator: Tensor,
    /// Sums to be logged as means, by the name they are logged under.
    pub means: Vec<(String, Mean)>,
}

/// A mean that is still a sum and a count, so that parts can be added.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Mean {
    /// The sum.
    pub sum: f64,
    /// What it is divided by in the end.
    pub count: f64,
}

impl Mean {
    /// The mean; NaN for nothing.
    #[must_use]
    pub fn value(self) -> f64 {
        self.sum / self.count
    }
}

/// Named means of several micro-batches, in the order in which the names first appeared.
#[derive(Debug, Default)]
pub(crate) struct Means(Vec<(String, Mean)>);

impl Means {
    pub(crate) fn add(&mut self, means: Vec<(String, Mean)>) {
        for (name, mean) in means {
            match self.0.iter_mut().find(|(held, _)| *held == name) {
                Some((_, held)) => {
                    held.sum += mean.sum;
                    held.count += mean.count;
                }
                None => self.0.push((name, mean)),
            }
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter(|(_, mean)| mean.count > 0.0).map(|(name, mean)| (name.as_str(), mean.value()))
    }
}

/// Something that is measured on the model every so often, such as a score of generated replies.
pub trait Evaluator<M: ?Sized> {
    /// Measures, and names what it measured.
    ///
    /// # Errors
    /// The evaluator's own, through [`Error::objective`](crate::Error::objective).
    fn evaluate(&mut self, model: &M, step: u64) -> Result<Vec<(String, f64)>>;
}

/// A function measures: of replies that it generates, or of whatever else it knows.
impl<M: ?Sized, F: FnMut(&M, u64) -> Result<Vec<(String, f64)>>> Evaluator<M> for F {
    fn evaluate(&mut self, model: &M, step: u64) -> Result<Vec<(String, f64)>> {
        self(model, step)
    }
}

/// Who watches a run: a progress bar, a curve.
pub trait Observer {
    /// A step was taken.
    fn step(&mut self, _record: &StepRecord) {}

    /// The validation data were evaluated.
    fn evaluation(&mut self, _step: u64, _values: &[(String, f64)]) {}

    /// Something worth a line happened, such as continuing from a checkpoint.
    fn note(&mut self, _text: &str) {}
}

/// What is known of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRecord {
    /// The step, from 1.
    pub step: u64,
    /// The steps of the whole run.
    pub steps: u64,
    /// The loss before the update.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The gradient's norm before it was cut.
    pub grad_norm: f64,
    /// Tokens computed.
    pub tokens: usize,
    /// Seconds taken.
    pub seconds: f64,
    /// What else the objective measured.
    pub values: Vec<(String, f64)>,
    /// Why the step changed nothing, with the rows; absent for a step that was taken. Loss and norm are NaN then.
    pub skipped: Option<String>,
}
