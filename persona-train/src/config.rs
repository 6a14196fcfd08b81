//! The settings of a training run.

use persona_model::Precision;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The settings of a run. What a step computes follows from these, the model, and the data alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Examples a step.
    pub batch_size: usize,
    /// Examples a forward pass; a step sums the gradients of as many passes as it needs.
    pub micro_batch_size: usize,
    /// The learning rate after warm-up.
    pub learning_rate: f64,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: u64,
    /// What the rate does after warm-up.
    pub schedule: Schedule,
    /// AdamW's settings.
    pub optimizer: AdamWConfig,
    /// Parameters with a learning rate or a weight decay of their own; the first group that names one counts.
    pub groups: Vec<ParameterGroup>,
    /// LoRA+ (Hayou et al. 2024): how many times `learning_rate` the B matrices of an adapter learn at, and what has one
    /// dimension, as PEFT's `loraplus_lr_ratio`; PAL's released code has 16. Parameters that a group names follow that
    /// group. Absent for one rate.
    pub lora_plus_ratio: Option<f64>,
    /// The gradient's global norm is cut to this; absent for no cut.
    pub max_grad_norm: Option<f64>,
    /// The kind of number of the products; weights and optimiser states are float32 in both.
    pub precision: Precision,
    /// Whether activations are computed again in the backward pass instead of being kept
    /// ([`Model::set_gradient_checkpointing`](persona_model::Model::set_gradient_checkpointing)): less memory, a third
    /// more products.
    pub gradient_checkpointing: bool,
    /// Order, dropout and everything else that is drawn comes from this.
    pub seed: u64,
    /// Steps between evaluations on the validation data; 0 for one at the end only.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 for one at the end only.
    pub checkpoint_every: u64,
    /// How many of the last checkpoints are kept, at least 1.
    pub keep_checkpoints: usize,
    /// When to stop before `steps`, by evaluations every `eval_every`; absent for never.
    pub early_stopping: Option<EarlyStopping>,
    /// How many steps of the run may be skipped because their loss or gradient is not finite: such a step changes no
    /// weight and no moment, and is counted in log and outcome. With 0 the first one stops the run.
    pub skip_non_finite: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 32,
            micro_batch_size: 32,
            learning_rate: 5e-5,
            warmup_steps: 100,
            schedule: Schedule::Linear,
            optimizer: AdamWConfig::default(),
            groups: Vec::new(),
            lora_plus_ratio: None,
            max_grad_norm: Some(1.0),
            precision: Precision::Fp32,
            gradient_checkpointing: false,
            seed: 0,
            eval_every: 0,
            checkpoint_every: 0,
            keep_checkpoints: 2,
            early_stopping: None,
            skip_non_finite: 0,
        }
    }
}

/// What the learning rate does after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls in a line to 0 at the end of the run, as transformers' `linear`.
    Linear,
    /// It falls along half a wave of the cosine to 0 at the end of the run, as transformers' `cosine`.
    Cosine,
}

/// Settings of AdamW (Loshchilov and Hutter 2019), with torch's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, in units of the learning rate.
    pub weight_decay: f64,
    /// Which parameters decay.
    pub decay: Decay,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, decay: Decay::All }
    }
}

/// Which parameters weight decay applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Every parameter, as torch does when it is handed them all.
    All,
    /// Those with two or more dimensions: not biases and normalisation.
    Matrices,
    /// As transformers' `Trainer`: [`Matrices`](Self::Matrices) without those called a bias, which T5's relative
    /// positions are.
    Transformers,
}

/// Parameters that are updated in a way of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// Names, in which `*` stands for anything: `*.lora_B.weight`, `transformer.h.0.*`. One that fits no parameter is an
    /// error.
    pub parameters: Vec<String>,
    /// How many times the run's learning rate; 1 where it is left out, and 0 leaves the parameters as they are.
    #[serde(default = "one")]
    pub learning_rate_factor: f64,
    /// Weight decay in place of the optimiser's; absent for the optimiser's, `decay` included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// Stopping when a measured value no longer improves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// The value's name in the log, such as `eval_loss` or an evaluator's.
    pub metric: String,
    /// Whether lower or higher is better.
    pub better: Better,
    /// Evaluations without improvement after which the run stops.
    pub patience: u32,
}

/// Which direction is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// As for a loss.
    Lower,
    /// As for a score.
    Higher,
}

impl TrainConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] with the key.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, reason: &str| Err(Error::Config { key, reason: reason.to_owned() });
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let share = |value: f64| (0.0..1.0).contains(&value);
        if self.steps == 0 {
            return fail("steps", "is 0; give at least one step");
        }
        if self.batch_size == 0 {
            return fail("batch_size", "is 0; give at least 1");
        }
        if self.micro_batch_size == 0 {
            return fail("micro_batch_size", "is 0; give at least 1");
        }
        if !positive(self.learning_rate) {
            return fail("learning_rate", "must be above 0 and finite");
        }
        if self.schedule != Schedule::Constant && self.warmup_steps >= self.steps {
            return fail("warmup_steps", "must be below `steps` where the rate falls afterwards");
        }
        if !share(self.optimizer.beta1) || !share(self.optimizer.beta2) {
            return fail("optimizer", "beta1 and beta2 lie in 0 to 1, without 1");
        }
        if !positive(self.optimizer.epsilon) {
            return fail("optimizer", "epsilon must be above 0 and finite");
        }
        if !(self.optimizer.weight_decay >= 0.0 && self.optimizer.weight_decay.is_finite()) {
            return fail("optimizer", "weight_decay must not be negative");
        }
        for group in &self.groups {
            if group.parameters.is_empty() {
                return fail("groups", "a group names no `parameters`");
            }
            let decay = group.weight_decay.unwrap_or_default();
            if [group.learning_rate_factor, decay].iter().any(|value| !(*value >= 0.0 && value.is_finite())) {
                return fail("groups", "learning_rate_factor and weight_decay must not be negative");
            }
        }
        if self.lora_plus_ratio.is_some_and(|ratio| !positive(ratio)) {
            return fail("lora_plus_ratio", "must be above 0 and finite; leave it out for one rate");
        }
        if self.max_grad_norm.is_some_and(|norm| !positive(norm)) {
            return fail("max_grad_norm", "must be above 0 and finite; leave it out for no cut");
        }
        if self.keep_checkpoints == 0 {
            return fail("keep_checkpoints", "is 0; a run needs its last one to continue");
        }
        if self.early_stopping.as_ref().is_some_and(|stop| stop.patience == 0) {
            return fail("early_stopping", "patience is 0; give at least 1");
        }
        if self.early_stopping.is_some() && (self.eval_every == 0 || self.eval_every >= self.steps) {
            let reason = "nothing is evaluated before the last step; give an `eval_every` below `steps`";
            return fail("early_stopping", reason);
        }
        Ok(())
    }

    /// The learning rate of a step, counted from 1. The first step of a warm-up has rate 0, as in transformers.
    #[must_use]
    pub fn rate_at(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        if done < self.warmup_steps {
            return self.learning_rate * done as f64 / self.warmup_steps as f64;
        }
        let falling = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Linear => self.learning_rate * self.steps.saturating_sub(done) as f64 / falling,
            Schedule::Cosine => {
                let gone = (done - self.warmup_steps) as f64 / falling;
                self.learning_rate * (0.5 * (1.0 + (std::f64::consts::PI * gone).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_rises_from_zero_and_falls_to_zero() {
        let config = TrainConfig { steps: 8, warmup_steps: 3, learning_rate: 5.0, ..TrainConfig::default() };
        let rates: Vec<f64> = (1..=9).map(|step| config.rate_at(step)).collect();
        approx::assert_relative_eq!(
            rates[..],
            [0.0, 5.0 / 3.0, 10.0 / 3.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0],
            epsilon = 1e-12
        );
    }

    fn of(name: &str, learning_rate_factor: f64, weight_decay: Option<f64>) -> ParameterGroup {
        ParameterGroup { parameters: vec![name.to_owned()], learning_rate_factor, weight_decay }
    }

    #[test]
    fn out_of_range_settings_are_named() {
        let base = TrainConfig::default();
        let group = |name, factor, decay| TrainConfig {
            groups: vec![of(name, factor, decay)],
            ..TrainConfig::default()
        };
        let stopping = |eval_every| TrainConfig {
            eval_every,
            early_stopping: Some(EarlyStopping {
                metric: "eval_loss".to_owned(),
                better: Better::Lower,
                patience: 1,
            }),
            ..TrainConfig::default()
        };
        stopping(999).validate().unwrap();
        for (config, key) in [
            (TrainConfig { steps: 0, ..base.clone() }, "steps"),
            (TrainConfig { learning_rate: f64::NAN, ..base.clone() }, "learning_rate"),
            (TrainConfig { warmup_steps: 1000, ..base.clone() }, "warmup_steps"),
            (TrainConfig { max_grad_norm: Some(0.0), ..base.clone() }, "max_grad_norm"),
            (TrainConfig { keep_checkpoints: 0, ..base.clone() }, "keep_checkpoints"),
            (TrainConfig { lora_plus_ratio: Some(0.0), ..base.clone() }, "lora_plus_ratio"),
            (TrainConfig { schedule: Schedule::Cosine, warmup_steps: 1000, ..base.clone() }, "warmup_steps"),
            (stopping(0), "`eval_every`"),
            (stopping(1000), "`eval_every`"),
            (group("", 1.0, Some(-0.1)), "groups"),
            (group("", f64::INFINITY, None), "groups"),
            (
                TrainConfig {
                    groups: vec![ParameterGroup { parameters: vec![], ..of("*", 1.0, None) }],
                    ..base.clone()
                },
                "groups",
            ),
        ] {
            assert!(config.validate().unwrap_err().to_string().contains(key));
        }
        base.validate().unwrap();
    }
}
