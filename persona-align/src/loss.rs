//! Preference losses: pure functions of log-probabilities.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::log_probs::{PairLogProbs, same_shape};

/// A preference loss with its options.
///
/// Notation: for a pair, `A_c` and `A_r` are the policy's minus the reference's summed log-probability of the chosen and
/// the rejected response; `h = A_c - A_r`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreferenceLoss {
    beta: f64,
}

impl PreferenceLoss {
    /// DPO (Rafailov et al. 2023), as TRL's `sigmoid`: `-log sigmoid(beta * h)` a pair, log-probabilities summed over
    /// the response's tokens and not divided by its length.
    #[must_use]
    pub fn sigmoid(beta: f64) -> Self {
        Self { beta }
    }

    /// The factor on log-ratios: how dear it is to leave the reference.
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// The loss of every pair, their mean, and the rewards.
    ///
    /// # Shapes
    /// All log-probabilities `[B]`; see [`PreferenceOutput`].
    ///
    /// # Errors
    /// [`Error::Option`] unless `beta` is above 0 and finite; [`Error::Shape`] when policy and reference hold different
    /// numbers of pairs, or none.
    pub fn evaluate(&self, policy: &PairLogProbs, reference: &PairLogProbs) -> Result<PreferenceOutput> {
        if !(self.beta > 0.0 && self.beta.is_finite()) {
            return Err(Error::Option {
                name: "beta",
                value: self.beta,
                range: "it must be above 0 and finite",
            });
        }
        if policy.pairs() == 0 {
            return Err(Error::Shape {
                what: "policy log-probabilities",
                found: vec![0],
                expected: vec![-1],
            });
        }
        same_shape("reference log-probabilities", &reference.chosen, &policy.chosen)?;
        let chosen = policy.chosen.f_sub(&reference.chosen)?;
        let rejected = policy.rejected.f_sub(&reference.rejected)?;
        let margin = chosen.f_sub(&rejected)?.f_mul_scalar(self.beta)?;
        let losses = margin.f_log_sigmoid()?.f_neg()?;
        Ok(PreferenceOutput {
            loss: losses.f_mean(Kind::Float)?,
            losses,
            chosen_rewards: chosen.f_detach()?.f_mul_scalar(self.beta)?,
            rejected_rewards: rejected.f_detach()?.f_mul_scalar(self.beta)?,
        })
    }
}

/// What a preference loss gives for B pairs.
#[derive(Debug)]
pub struct PreferenceOutput {
    /// The mean over pairs, a scalar with its graph.
    pub loss: Tensor,
    /// The loss of each pair, `[B]`, with its graph.
    pub losses: Tensor,
    /// `beta * A_c` of each pair, `[B]`, without a graph.
    pub chosen_rewards: Tensor,
    /// `beta * A_r` of each pair, `[B]`, without a graph.
    pub rejected_rewards: Tensor,
}

/// Means over pairs, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreferenceMetrics {
    /// `rewards/chosen`.
    pub chosen: f64,
    /// `rewards/rejected`.
    pub rejected: f64,
    /// `rewards/margins`: the mean difference.
    pub margins: f64,
    /// `rewards/accuracies`: the share of pairs whose chosen reward is strictly greater.
    pub accuracies: f64,
}

impl PreferenceMetrics {
    /// The values with TRL's names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, f64); 4] {
        [
            ("rewards/chosen", self.chosen),
            ("rewards/rejected", self.rejected),
            ("rewards/margins", self.margins),
            ("rewards/accuracies", self.accuracies),
        ]
    }
}

impl PreferenceOutput {
    /// The means over pairs.
    ///
    /// # Errors
    /// libtorch's.
    pub fn metrics(&self) -> Result<PreferenceMetrics> {
        let mean = |tensor: &Tensor| -> Result<f64> { Ok(tensor.f_mean(Kind::Float)?.f_double_value(&[])?) };
        let better = self.chosen_rewards.f_gt_tensor(&self.rejected_rewards)?.f_to_kind(Kind::Float)?;
        let (chosen, rejected) = (mean(&self.chosen_rewards)?, mean(&self.rejected_rewards)?);
        let margins = mean(&self.chosen_rewards.f_sub(&self.rejected_rewards)?)?;
        Ok(PreferenceMetrics { chosen, rejected, margins, accuracies: mean(&better)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(chosen: f64, rejected: f64) -> PairLogProbs {
        PairLogProbs::from_sums(Tensor::from_slice(&[chosen as f32]), Tensor::from_slice(&[rejected as f32]))
            .unwrap()
    }

    #[test]
    fn a_worked_example() {
        // A_c = 1, A_r = -0.5, h = 1.5: -log sigmoid(0.15) = ln(1 + exp(-0.15)).
        let output = PreferenceLoss::sigmoid(0.1).evaluate(&pair(-12.0, -15.0), &pair(-13.0, -14.5)).unwrap();
        approx::assert_relative_eq!(
            output.loss.double_value(&[]),
            (1.0 + (-0.15f64).exp()).ln(),
            epsilon = 1e-6
        );
        let metrics = output.metrics().unwrap();
        approx::assert_relative_eq!(metrics.chosen, 0.1, epsilon = 1e-6);
        approx::assert_relative_eq!(metrics.rejected, -0.05, epsilon = 1e-6);
        approx::assert_relative_eq!(metrics.margins, 0.15, epsilon = 1e-6);
        assert_eq!(metrics.accuracies, 1.0);
    }

    #[test]
    fn a_policy_that_is_its_reference_has_loss_ln_2_and_no_margin() {
        let output = PreferenceLoss::sigmoid(0.5).evaluate(&pair(-3.0, -40.0), &pair(-3.0, -40.0)).unwrap();
        assert_eq!(output.loss.double_value(&[]) as f32, std::f32::consts::LN_2);
        assert_eq!(output.metrics().unwrap().accuracies, 0.0, "a tie is not an accuracy");
    }

    #[test]
    fn far_margins_stay_finite() {
        for sign in [-1.0, 1.0] {
            let output =
                PreferenceLoss::sigmoid(1.0).evaluate(&pair(sign * 1e4, 0.0), &pair(0.0, 0.0)).unwrap();
            assert!(output.loss.double_value(&[]).is_finite());
        }
    }

    #[test]
    fn the_gradient_is_minus_beta_times_the_doubt() {
        let chosen = Tensor::from_slice(&[-12.0f32]).set_requires_grad(true);
        let policy =
            PairLogProbs::from_sums(chosen.shallow_clone(), Tensor::from_slice(&[-15.0f32])).unwrap();
        PreferenceLoss::sigmoid(0.1).evaluate(&policy, &pair(-13.0, -14.5)).unwrap().loss.backward();
        let expected = -0.1 / (1.0 + (0.15f64).exp());
        approx::assert_relative_eq!(chosen.grad().double_value(&[0]), expected, epsilon = 1e-6);
    }

    #[test]
    fn bad_options_and_shapes_are_errors() {
        let reference = pair(0.0, 0.0);
        for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(PreferenceLoss::sigmoid(beta).evaluate(&pair(0.0, 0.0), &reference).is_err());
        }
        let two = PairLogProbs::from_sums(Tensor::from_slice(&[0.0f32; 2]), Tensor::from_slice(&[0.0f32; 2]))
            .unwrap();
        let error = PreferenceLoss::sigmoid(0.1).evaluate(&two, &reference).unwrap_err().to_string();
        assert!(error.contains("reference") && error.contains("[2]"), "{error}");
        assert!(
            PairLogProbs::from_sums(Tensor::from_slice(&[0.0f32; 2]), Tensor::from_slice(&[0.0f32])).is_err()
        );
        let none = || Tensor::from_slice::<f32>(&[]);
        let none = PairLogProbs::from_sums(none(), none()).unwrap();
        assert!(PreferenceLoss::sigmoid(0.1).evaluate(&none, &none).is_err());
    }
}
