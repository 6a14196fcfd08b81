//! What is logged of a batch, by TRL's names.

use tch::{Kind, Tensor};

use crate::error::Result;
use crate::log_probs::TokenLogProbs;

/// A mean that is still a sum and a count, so that batches can be added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// TRL's name.
    pub name: &'static str,
    /// The sum.
    pub sum: f64,
    /// What it is divided by.
    pub count: f64,
}

impl Metric {
    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.count
    }
}

/// The metrics of a batch, each once.
///
/// | name | what |
/// |---|---|
/// | `rewards/chosen`, `rewards/rejected` | mean over pairs of `beta * A_c`, `beta * A_r`, whatever the loss or divergence |
/// | `rewards/margins` | mean over pairs of their difference |
/// | `rewards/accuracies` | share of pairs whose chosen reward is strictly greater |
/// | `logps/chosen`, `logps/rejected` | mean over responses of the policy's log-probability as the loss takes it |
/// | `entropy` | mean over all tokens of the entropy, in nats |
/// | `logits/chosen`, `logits/rejected` | mean over tokens of the vocabulary's mean logit |
/// | `mean_token_accuracy` | share of the chosen tokens that are the most probable ones |
/// | `nll_loss` | negative log-likelihood of the chosen responses, mean over tokens; reference-free losses |
/// | `log_odds_chosen`, `log_odds_ratio` | mean over pairs of the log odds ratio, and of its log-sigmoid; ORPO |
/// | `kl` | the estimate that KTO takes |
///
/// Entropy, logits and token accuracy need [`TokenStatistics`](crate::TokenStatistics).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PreferenceMetrics(Vec<Metric>);

impl PreferenceMetrics {
    /// The mean of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|metric| metric.name == name).map(Metric::mean)
    }

    /// Names and means.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|metric| (metric.name, metric.mean()))
    }

    /// Sums and counts.
    #[must_use]
    pub fn sums(&self) -> &[Metric] {
        &self.0
    }

    /// Adds those of another batch.
    pub fn add(&mut self, other: &Self) {
        for metric in &other.0 {
            match self.0.iter_mut().find(|held| held.name == metric.name) {
                Some(held) => {
                    held.sum += metric.sum;
                    held.count += metric.count;
                }
                None => self.0.push(*metric),
            }
        }
    }
}

impl From<Vec<Metric>> for PreferenceMetrics {
    fn from(metrics: Vec<Metric>) -> Self {
        Self(metrics)
    }
}

/// Collects sums and counts on their device, and fetches them all at once.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    names: Vec<&'static str>,
    /// Sum and count of each in turn.
    scalars: Vec<Tensor>,
}

impl Sums {
    /// The sum of `values` over `count`.
    pub(crate) fn add(&mut self, name: &'static str, values: &Tensor, count: &Tensor) -> Result<()> {
        self.names.push(name);
        for part in [values, count] {
            self.scalars.push(part.f_detach()?.f_sum(Kind::Double)?.f_to_device(values.device())?);
        }
        Ok(())
    }

    /// The mean of `values`.
    pub(crate) fn mean(&mut self, name: &'static str, values: &Tensor) -> Result<()> {
        self.add(name, values, &values.f_ones_like()?)
    }

    /// Rewards of pairs.
    pub(crate) fn rewards(&mut self, chosen: &Tensor, rejected: &Tensor) -> Result<()> {
        self.mean("rewards/chosen", chosen)?;
        self.mean("rewards/rejected", rejected)?;
        self.mean("rewards/margins", &chosen.f_sub(rejected)?)?;
        self.mean("rewards/accuracies", &chosen.f_gt_tensor(rejected)?.f_to_kind(Kind::Float)?)
    }

    /// What the tokens' statistics say, where there are any.
    pub(crate) fn statistics(&mut self, [chosen, rejected]: &[TokenLogProbs; 2]) -> Result<()> {
        let (Some(of_chosen), Some(of_rejected)) = (chosen.statistics(), rejected.statistics()) else {
            return Ok(());
        };
        let tokens = chosen.lengths().f_add(rejected.lengths())?;
        let entropy = chosen.masked_sums(of_chosen.entropy())?;
        self.add("entropy", &entropy.f_add(&rejected.masked_sums(of_rejected.entropy())?)?, &tokens)?;
        let logits = chosen.masked_sums(of_chosen.mean_logits())?;
        self.add("logits/chosen", &logits, chosen.lengths())?;
        let logits = rejected.masked_sums(of_rejected.mean_logits())?;
        self.add("logits/rejected", &logits, rejected.lengths())?;
        self.add("mean_token_accuracy", &chosen.masked_sums(of_chosen.top1())?, chosen.lengths())
    }

    pub(crate) fn fetch(&self) -> Result<PreferenceMetrics> {
        if self.scalars.is_empty() {
            return Ok(PreferenceMetrics::default());
        }
        let values = Vec::<f64>::try_from(Tensor::f_stack(&self.scalars, 0)?)?;
        let metrics = self.names.iter().zip(values.chunks_exact(2));
        Ok(PreferenceMetrics(
            metrics.map(|(&name, pair)| Metric { name, sum: pair[0], count: pair[1] }).collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up() {
        let of = |values: &[f32]| {
            let mut sums = Sums::default();
            sums.mean("kl", &Tensor::from_slice(values)).unwrap();
            sums.fetch().unwrap()
        };
        let mut metrics = of(&[1.0, 2.0, 3.0]);
        metrics.add(&of(&[10.0]));
        assert_eq!(metrics.get("kl"), Some(4.0));
        assert_eq!(metrics.get("entropy"), None);
        assert_eq!(metrics.named().collect::<Vec<_>>(), [("kl", 4.0)]);
    }
}
