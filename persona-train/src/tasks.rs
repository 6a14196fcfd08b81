//! What the objectives over encoded examples share: weights of tasks, counts, and the weighted sum.

use std::collections::BTreeMap;

use persona_data::{EncodedExample, Task};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::objective::{Contribution, Mean};

/// What the losses of encoded examples are a mean over.
pub(crate) const UNIT: &str = "target tokens";

/// A weight for each task, 1 where none was set.
#[derive(Debug, Default)]
pub(crate) struct TaskWeights(BTreeMap<Task, f64>);

impl TaskWeights {
    pub(crate) fn set(&mut self, task: Task, weight: f64) -> Result<()> {
        if !(weight > 0.0 && weight.is_finite()) {
            let reason = format!("task {} has weight {weight}; it must be above 0", task.name());
            return Err(Error::Config { key: "task_weights", reason });
        }
        self.0.insert(task, weight);
        Ok(())
    }

    fn of(&self, task: Task) -> f64 {
        self.0.get(&task).copied().unwrap_or(1.0)
    }

    /// An objective's name with the weights that were set.
    pub(crate) fn describe(&self, objective: &str) -> String {
        let weights: Vec<String> =
            self.0.iter().map(|(task, weight)| format!(" {}={weight}", task.name())).collect();
        format!("{objective}{}", weights.concat())
    }

    /// The weighted number of target tokens.
    pub(crate) fn count(&self, items: &[&EncodedExample]) -> f64 {
        items.iter().map(|item| self.of(item.task) * item.target.len() as f64).sum()
    }

    /// The weighted sum of losses, and each task's own mean, from the loss of every target token, `[M]`, and its sums
    /// per example.
    pub(crate) fn contribution(
        &self,
        items: &[&EncodedExample],
        per_token: &Tensor,
        sums: &[f64],
    ) -> Result<Contribution> {
        let mut means: BTreeMap<Task, Mean> = BTreeMap::new();
        for (item, sum) in items.iter().zip(sums) {
            let mean = means.entry(item.task).or_default();
            mean.sum += sum;
            mean.count += item.target.len() as f64;
        }
        let numerator = if self.0.is_empty() {
            per_token.f_sum(Kind::Float)?
        } else {
            let weights: Vec<f32> = items
                .iter()
                .flat_map(|item| std::iter::repeat_n(self.of(item.task) as f32, item.target.len()))
                .collect();
            let weights = Tensor::f_from_slice(&weights)?.f_to_device(per_token.device())?;
            per_token.f_mul(&weights)?.f_sum(Kind::Float)?
        };
        let means = means.into_iter().map(|(task, mean)| (format!("loss/{}", task.name()), mean)).collect();
        Ok(Contribution { numerator, means })
    }
}

/// Source and target together, in tokens.
pub(crate) fn tokens(item: &EncodedExample) -> usize {
    item.source.len() + item.target.len()
}

/// Everything of an example that is trained on, as bytes.
pub(crate) fn digest(item: &EncodedExample, sink: &mut dyn FnMut(&[u8])) {
    sink(item.task.name().as_bytes());
    for ids in [&item.source, &item.target] {
        sink(&(ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| sink(&id.to_le_bytes()));
    }
}
