//! Losses of single responses against a reference.

use std::fmt;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::log_probs::{check_finite, same_shape};
use crate::losses;
use crate::metrics::{Metric, PreferenceMetrics, Sums};
use crate::options;

/// Summed log-probabilities of single responses under one model, in nats, and of responses that belong to other prompts.
///
/// # Shapes
/// `[B]` each; there may be another number of mismatched ones.
#[derive(Debug)]
pub struct UnpairedLogProbs {
    sums: Tensor,
    mismatched: Option<Tensor>,
}

impl UnpairedLogProbs {
    /// From sums `[B]` over each response's tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] unless this is a vector that holds anything.
    pub fn from_sums(sums: Tensor) -> Result<Self> {
        Ok(Self { sums: vector("log-probabilities", sums)?, mismatched: None })
    }

    /// Log-probabilities of prompts with the responses to other prompts, `[K]`, from which KTO estimates how far the
    /// policy is from its reference. No gradient flows through them; compute them without one.
    ///
    /// # Errors
    /// [`Error::Shape`] unless this is a vector that holds anything.
    pub fn with_mismatched(mut self, sums: Tensor) -> Result<Self> {
        self.mismatched = Some(vector("mismatched log-probabilities", sums)?);
        Ok(self)
    }

    /// The sums, `[B]`.
    pub fn sums(&self) -> &Tensor {
        &self.sums
    }
}

fn vector(what: &'static str, sums: Tensor) -> Result<Tensor> {
    if sums.dim() != 1 || sums.numel() == 0 {
        return Err(Error::Shape { what, found: sums.size(), expected: vec![-1] });
    }
    Ok(sums.f_to_kind(Kind::Float)?)
}

/// A loss of responses that are desirable or not, each on its own: KTO, APO-zero. The loss is a mean over responses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnpairedLoss {
    kto: bool,
    beta: f64,
    desirable: f64,
    undesirable: f64,
}

impl UnpairedLoss {
    /// KTO (Ethayarajh et al. 2024): [`losses::kto`], measured from [`losses::kl_estimate`].
    #[must_use]
    pub fn kto(beta: f64) -> Self {
        Self { kto: true, beta, desirable: 1.0, undesirable: 1.0 }
    }

    /// APO-zero of single responses (D'Oosterlinck et al. 2024): [`losses::apo_zero_unpaired`], without an estimate.
    #[must_use]
    pub fn apo_zero(beta: f64) -> Self {
        Self { kto: false, ..Self::kto(beta) }
    }

    /// Weights of the desirable and the undesirable responses' losses. Where there are many more of one kind, TRL advises,
    /// after the paper, to keep weight times number of the two kinds between 1:1 and 4:3. They do not enter the divisor.
    #[must_use]
    pub fn with_weights(mut self, desirable: f64, undesirable: f64) -> Self {
        (self.desirable, self.undesirable) = (desirable, undesirable);
        self
    }

    /// The factor on log-ratios.
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// Whether it needs mismatched log-probabilities.
    #[must_use]
    pub fn needs_kl(&self) -> bool {
        self.kto
    }

    /// Checks all options.
    ///
    /// # Errors
    /// [`Error::Option`] for one out of range.
    pub fn check(&self) -> Result<()> {
        options::positive("beta", self.beta)?;
        options::not_negative("desirable weight", self.desirable)?;
        options::not_negative("undesirable weight", self.undesirable)
    }

    /// The loss of every response, their mean, and the rewards. `desirable` says of each response whether it is.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`Error::Shape`] where numbers differ; [`Error::NonFinite`] for NaN and infinity;
    /// [`Error::Missing`] when KTO has no mismatched log-probabilities.
    pub fn evaluate(
        &self,
        policy: &UnpairedLogProbs,
        reference: &UnpairedLogProbs,
        desirable: &[bool],
    ) -> Result<UnpairedOutput> {
        self.check()?;
        check_finite("the policy's log-probabilities", &policy.sums)?;
        check_finite("the reference's log-probabilities", &reference.sums)?;
        let kl = if self.kto {
            let missing = || Error::Missing {
                what: "mismatched log-probabilities, of policy and reference",
                needed_by: "the loss `kto`".to_owned(),
                how: "add them by UnpairedLogProbs::with_mismatched",
            };
            let ours = policy.mismatched.as_ref().ok_or_else(missing)?;
            let theirs = reference.mismatched.as_ref().ok_or_else(missing)?;
            same_shape("the reference's mismatched log-probabilities", theirs, ours)?;
            check_finite("the policy's mismatched log-probabilities", ours)?;
            check_finite("the reference's mismatched log-probabilities", theirs)?;
            losses::kl_estimate(ours, theirs)?.f_double_value(&[])?
        } else {
            0.0
        };
        self.evaluate_part(&policy.sums, &reference.sums, desirable, kl)
    }

    /// As [`evaluate`](Self::evaluate) with the estimate given, and NaN let through.
    pub(crate) fn evaluate_part(
        &self,
        policy: &Tensor,
        reference: &Tensor,
        desirable: &[bool],
        kl: f64,
    ) -> Result<UnpairedOutput> {
        self.check()?;
        same_shape("the reference's log-probabilities", reference, policy)?;
        if policy.size() != [desirable.len() as i64] {
            let expected = vec![desirable.len() as i64];
            return Err(Error::Shape {
                what: "the policy's log-probabilities",
                found: policy.size(),
                expected,
            });
        }
        let column = |yes: f64, no: f64| -> Result<Tensor> {
            let values: Vec<f32> = desirable.iter().map(|&good| if good { yes } else { no } as f32).collect();
            Ok(Tensor::f_from_slice(&values)?.f_to_device(policy.device())?)
        };
        let ratios = policy.f_sub(reference)?;
        let signs = column(1.0, -1.0)?;
        let mut losses = match self.kto {
            true => losses::kto(&ratios, &signs, kl, self.beta)?,
            false => losses::apo_zero_unpaired(&ratios, &signs, self.beta)?,
        };
        if (self.desirable, self.undesirable) != (1.0, 1.0) {
            losses = losses.f_mul(&column(self.desirable, self.undesirable)?)?;
        }
        let rewards = ratios.f_detach()?.f_mul_scalar(self.beta)?;
        let mut sums = Sums::default();
        for (names, kept) in [
            (["rewards/chosen", "logps/chosen"], column(1.0, 0.0)?),
            (["rewards/rejected", "logps/rejected"], column(0.0, 1.0)?),
        ] {
            sums.add(names[0], &rewards.f_mul(&kept)?, &kept)?;
            sums.add(names[1], &policy.f_detach()?.f_mul(&kept)?, &kept)?;
        }
        Ok(UnpairedOutput { loss: losses.f_mean(Kind::Float)?, losses, rewards, kl, sums, kto: self.kto })
    }
}

/// As in logs and in the description of a run: `kto beta=0.1 weights=1,1.5`.
impl fmt::Display for UnpairedLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.kto { "kto" } else { "apo_zero_unpaired" };
        write!(f, "{name} beta={} weights={},{}", self.beta, self.desirable, self.undesirable)
    }
}

/// What a loss gives for B single responses.
#[derive(Debug)]
pub struct UnpairedOutput {
    /// The mean over responses, a scalar with its graph.
    pub loss: Tensor,
    /// The loss of each response, `[B]`, with its graph.
    pub losses: Tensor,
    /// `beta * A` of each response, `[B]`, without a graph.
    pub rewards: Tensor,
    /// The KL divergence that gains and losses are measured from.
    pub kl: f64,
    sums: Sums,
    kto: bool,
}

impl UnpairedOutput {
    /// The metrics by TRL's names: `rewards/chosen` and `logps/chosen` over the desirable responses, `rewards/rejected`
    /// and `logps/rejected` over the others, `rewards/margins` the difference of the two means, `kl`. A kind of
    /// response that is not there has no metrics.
    ///
    /// # Errors
    /// libtorch's.
    pub fn metrics(&self) -> Result<PreferenceMetrics> {
        let fetched = self.sums.fetch()?;
        let mut metrics: Vec<Metric> =
            fetched.sums().iter().filter(|metric| metric.count > 0.0).copied().collect();
        if let (Some(chosen), Some(rejected)) =
            (fetched.get("rewards/chosen"), fetched.get("rewards/rejected"))
            && metrics.len() == fetched.sums().len()
        {
            metrics.push(Metric { name: "rewards/margins", sum: chosen - rejected, count: 1.0 });
        }
        if self.kto {
            metrics.push(Metric { name: "kl", sum: self.kl, count: 1.0 });
        }
        Ok(metrics.into())
    }
}
