//! The multi-task next-token objective: stage 1 of PAL, and plain fine-tuning.

use std::collections::BTreeMap;

use persona_data::{EncodedExample, Task};
use persona_model::{CausalLm, TargetBatchBuilder};
use tch::Kind;

use crate::error::{Error, Result};
use crate::objective::{Contribution, Mean, Objective};

/// The mean negative log-likelihood of target tokens over all tasks of the pool, each task's tokens weighted (1 by
/// default). A weight enters numerator and count alike.
#[derive(Debug)]
pub struct NextToken<M> {
    model: M,
    weights: BTreeMap<Task, f64>,
}

impl<M: CausalLm> NextToken<M> {
    /// With weight 1 for every task.
    pub fn new(model: M) -> Self {
        Self { model, weights: BTreeMap::new() }
    }

    /// Sets a task's weight.
    ///
    /// # Errors
    /// [`Error::Config`] unless the weight is above 0 and finite; a task to be left out is left out of the data.
    pub fn weight(mut self, task: Task, weight: f64) -> Result<Self> {
        if !(weight > 0.0 && weight.is_finite()) {
            let reason = format!("task {} has weight {weight}; it must be above 0", task.name());
            return Err(Error::Config { key: "task_weights", reason });
        }
        self.weights.insert(task, weight);
        Ok(self)
    }

    /// The model, after training.
    pub fn into_model(self) -> M {
        self.model
    }

    fn weight_of(&self, task: Task) -> f64 {
        self.weights.get(&task).copied().unwrap_or(1.0)
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
        let weights: Vec<String> =
            self.weights.iter().map(|(task, weight)| format!(" {}={weight}", task.name())).collect();
        format!("next token{}", weights.concat())
    }

    fn unit(&self) -> &'static str {
        "target tokens"
    }

    fn id<'a>(&self, item: &'a EncodedExample) -> &'a str {
        &item.id
    }

    fn tokens(&self, item: &EncodedExample) -> usize {
        item.source.len() + item.target.len()
    }

    fn digest(&self, item: &EncodedExample, sink: &mut dyn FnMut(&[u8])) {
        sink(item.task.name().as_bytes());
        for ids in [&item.source, &item.target] {
            sink(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| sink(&id.to_le_bytes()));
        }
    }

    fn count(&self, items: &[&EncodedExample]) -> f64 {
        items.iter().map(|item| self.weight_of(item.task) * item.target.len() as f64).sum()
    }

    fn evaluate(&self, items: &[&EncodedExample], train: bool) -> Result<Contribution> {
        let mut builder = TargetBatchBuilder::default();
        for item in items {
            builder.prompt(&item.source, &[&item.target]);
        }
        let batch = builder.build(self.model.limits(), self.model.device())?;
        let per_token = batch.log_probs(&self.model, train)?.f_neg()?;
        let sums = Vec::<f64>::try_from(batch.sums(&per_token.detach())?)?;
        let mut means: BTreeMap<Task, Mean> = BTreeMap::new();
        for (item, sum) in items.iter().zip(sums) {
            let mean = means.entry(item.task).or_default();
            mean.sum += sum;
            mean.count += item.target.len() as f64;
        }
        let numerator = if self.weights.is_empty() {
            per_token.f_sum(Kind::Float)?
        } else {
            let weights: Vec<f32> = items
                .iter()
                .flat_map(|item| std::iter::repeat_n(self.weight_of(item.task) as f32, item.target.len()))
                .collect();
            let weights = tch::Tensor::f_from_slice(&weights)?.f_to_device(per_token.device())?;
            per_token.f_mul(&weights)?.f_sum(Kind::Float)?
        };
        let means = means.into_iter().map(|(task, mean)| (format!("loss/{}", task.name()), mean)).collect();
        Ok(Contribution { numerator, means })
    }
}
