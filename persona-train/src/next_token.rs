//! The multi-task next-token objective: stage 1 of PAL, and plain fine-tuning.

use persona_data::{EncodedExample, Task};
use persona_model::{CausalLm, TargetBatchBuilder};

use crate::error::Result;
use crate::objective::{Contribution, Objective};
use crate::tasks::{self, TaskWeights};

/// The mean negative log-likelihood of target tokens over all tasks of the pool, each task's tokens weighted (1 by
/// default). A weight enters numerator and count alike.
#[derive(Debug)]
pub struct NextToken<M> {
    model: M,
    weights: TaskWeights,
}

impl<M: CausalLm> NextToken<M> {
    /// With weight 1 for every task.
    pub fn new(model: M) -> Self {
        Self { model, weights: TaskWeights::default() }
    }

    /// Sets a task's weight.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) unless the weight is above 0 and finite; a task to be left out is left
    /// out of the data.
    pub fn weight(mut self, task: Task, weight: f64) -> Result<Self> {
        self.weights.set(task, weight)?;
        Ok(self)
    }

    /// The model, after training.
    pub fn into_model(self) -> M {
        self.model
    }
}

impl<M: CausalLm> Objective for NextToken<M> {
    type Item = EncodedExample;
    type Model = M;

    fn model(&self) -> &M {
        &self.model
    }

    fn model_mut(&mut self) -> &mut M {
        &mut self.model
    }

    fn describe(&self) -> String {
        self.weights.describe("next token")
    }

    fn unit(&self) -> &'static str {
        tasks::UNIT
    }

    fn id<'a>(&self, item: &'a EncodedExample) -> &'a str {
        &item.id
    }

    fn tokens(&self, item: &EncodedExample) -> usize {
        tasks::tokens(item)
    }

    fn digest(&self, item: &EncodedExample, sink: &mut dyn FnMut(&[u8])) {
        tasks::digest(item, sink);
    }

    fn count(&self, items: &[&EncodedExample]) -> f64 {
        self.weights.count(items)
    }

    fn evaluate(&self, items: &[&EncodedExample], train: bool) -> Result<Contribution> {
        let mut builder = TargetBatchBuilder::for_model(&self.model, train);
        for item in items {
            builder.prompt(&item.source, &[&item.target]);
        }
        let batch = builder.build(self.model.limits(), self.model.device())?;
        let per_token = batch.log_probs(&self.model, train)?.f_neg()?;
        let sums = Vec::<f64>::try_from(batch.sums(&per_token.detach())?)?;
        self.weights.contribution(items, &per_token, &sums)
    }
}
