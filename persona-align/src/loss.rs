//! Losses of pairs against a reference.

use std::fmt;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::log_probs::{PairLogProbs, same_shape};
use crate::loss_type::LossType;
use crate::losses::{self, Divergence};
use crate::metrics::{PreferenceMetrics, Sums};
use crate::options;

/// A preference loss with its options: one [`LossType`], or a weighted sum of several, with one `beta`.
///
/// The loss is a mean over pairs. Log-probabilities are sums over the response's tokens and not divided by its length, but
/// in `ipo` and `sigmoid_norm`, which take means over tokens. `beta` says how dear it is to leave the reference.
///
/// Losses of other shapes: [`ReferenceFreeLoss`](crate::ReferenceFreeLoss), [`UnpairedLoss`](crate::UnpairedLoss).
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceLoss {
    beta: f64,
    terms: Vec<(f64, LossType)>,
    divergence: Divergence,
    ld_alpha: Option<f64>,
    weighting: bool,
}

impl PreferenceLoss {
    /// A loss of one type.
    #[must_use]
    pub fn new(loss: LossType, beta: f64) -> Self {
        Self::mixture(beta, &[(1.0, loss)])
    }

    /// DPO (Rafailov et al. 2023), as TRL's `sigmoid`: `-log sigmoid(beta * h)` a pair, log-probabilities summed over
    /// the response's tokens and not divided by its length; `h = A_c - A_r`.
    #[must_use]
    pub fn sigmoid(beta: f64) -> Self {
        Self::new(LossType::Sigmoid, beta)
    }

    /// Conservative DPO (Mitchell 2023): labels are wrong with probability `label_smoothing`, which is below one half.
    #[must_use]
    pub fn conservative(beta: f64, label_smoothing: f64) -> Self {
        Self::new(LossType::Conservative(label_smoothing), beta)
    }

    /// The sum of several losses, each times its weight, as TRL's `loss_type` and `loss_weights`. All have one `beta`.
    #[must_use]
    pub fn mixture(beta: f64, terms: &[(f64, LossType)]) -> Self {
        Self {
            beta,
            terms: terms.to_vec(),
            divergence: Divergence::ReverseKl,
            ld_alpha: None,
            weighting: false,
        }
    }

    /// MPO (Wang et al. 2024, mixed preference optimisation): 0.8 `sigmoid`, 0.2 `bco_pair`, 1 `sft`.
    #[must_use]
    pub fn mpo(beta: f64) -> Self {
        Self::mixture(beta, &[(0.8, LossType::Sigmoid), (0.2, LossType::BcoPair(0.0)), (1.0, LossType::Sft)])
    }

    /// Adds the negative log-likelihood of the chosen responses times a weight, a mean over tokens.
    #[must_use]
    pub fn with_sft(mut self, weight: f64) -> Self {
        self.terms.push((weight, LossType::Sft));
        self
    }

    /// Another divergence from the reference than the reverse KL. Only losses of the margin know it: `sigmoid`,
    /// `conservative`, `hinge`, `ipo`, `exo_pair`, `robust`, `discopop`, `sigmoid_norm`, and beside them `sft`.
    #[must_use]
    pub fn with_divergence(mut self, divergence: Divergence) -> Self {
        self.divergence = divergence;
        self
    }

    /// LD-DPO (Liu et al. 2024, length desensitisation): of the longer response of a pair, the tokens beyond the shorter
    /// one's length count this much, from 0 to 1, under policy and reference. 1 is plain; TRL suggests 0.5. The term
    /// `sft` and lengths stay as they are.
    #[must_use]
    pub fn with_ld_alpha(mut self, ld_alpha: f64) -> Self {
        self.ld_alpha = Some(ld_alpha);
        self
    }

    /// WPO (Zhou et al. 2024, equation 2): each pair's loss times `w_c w_r`, where `w` is the exponential of the mean over
    /// tokens of `ln p(token) - ln sum_v p(v)^2`, without a graph and without the cut at 1 that TRL had until 0.28.
    #[must_use]
    pub fn with_wpo_weighting(mut self) -> Self {
        self.weighting = true;
        self
    }

    /// The factor on log-ratios: how dear it is to leave the reference.
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// What the tails of longer responses count, where they count less.
    #[must_use]
    pub fn ld_alpha(&self) -> Option<f64> {
        self.ld_alpha
    }

    /// Whether pairs are weighted by WPO, which needs [`TokenStatistics`](crate::TokenStatistics).
    #[must_use]
    pub fn has_wpo_weighting(&self) -> bool {
        self.weighting
    }

    /// Whether the loss of a pair depends on the other pairs of its step, so that a step cannot be computed in parts.
    #[must_use]
    pub fn couples_batch(&self) -> bool {
        self.terms.iter().any(|(_, term)| term.couples_batch())
    }

    /// Checks all options, and that they go together.
    ///
    /// # Errors
    /// [`Error::Option`] for one out of range; [`Error::Combination`] for no terms, a divergence that a term does not
    /// know, and WPO weighting of a term that belongs to no one pair.
    pub fn check(&self) -> Result<()> {
        options::positive("beta", self.beta)?;
        self.ld_alpha.map(|alpha| options::share("ld_alpha", alpha)).transpose()?;
        if let Divergence::Alpha(alpha) = self.divergence {
            options::finite("alpha", alpha)?;
        }
        if self.terms.is_empty() {
            return Err(Error::Combination("a mixture of no losses; give at least one".to_owned()));
        }
        for &(weight, term) in &self.terms {
            options::finite("weight", weight)?;
            term.check()?;
            if self.divergence != Divergence::ReverseKl && !term.knows_divergences() {
                let (divergence, name) = (self.divergence, term.name());
                return Err(Error::Combination(format!(
                    "`{name}` is no loss of the margin and knows no divergence `{divergence}`; take it with the reverse KL"
                )));
            }
            if self.weighting && (term.couples_batch() || term == LossType::Sft) {
                return Err(Error::Combination(format!(
                    "WPO weighs pairs, and the parts of `{}` are not those of pairs; leave one of the two out",
                    term.name()
                )));
            }
        }
        Ok(())
    }

    /// The loss of every pair, their mean, and the rewards.
    ///
    /// # Shapes
    /// All log-probabilities `[B]`; see [`PreferenceOutput`].
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`Error::Shape`] when policy and reference hold different numbers of pairs, or
    /// none; [`Error::NonFinite`] for NaN and infinity; [`Error::Missing`] for lengths, tokens or statistics that the
    /// loss needs.
    pub fn evaluate(&self, policy: &PairLogProbs, reference: &PairLogProbs) -> Result<PreferenceOutput> {
        self.check()?;
        policy.check(["the policy's chosen log-probabilities", "the policy's rejected log-probabilities"])?;
        same_shape("reference log-probabilities", reference.chosen(), policy.chosen())?;
        reference.check([
            "the reference's chosen log-probabilities",
            "the reference's rejected log-probabilities",
        ])?;
        self.evaluate_part(policy, reference.desensitised(self.ld_alpha)?, None)
    }

    /// As [`evaluate`](Self::evaluate), for some pairs of a step and with NaN let through: `reference` is weighted by
    /// `ld_alpha` already, and `tokens_per_pair` is the mean length of the step's chosen responses.
    pub(crate) fn evaluate_part(
        &self,
        policy: &PairLogProbs,
        reference: [Tensor; 2],
        tokens_per_pair: Option<f64>,
    ) -> Result<PreferenceOutput> {
        self.check()?;
        let policy_sums = policy.desensitised(self.ld_alpha)?;
        let ratio = |at: usize| policy_sums[at].f_sub(&reference[at]);
        let ratios = [ratio(0)?, ratio(1)?];
        let scores = [self.divergence.scores(&ratios[0])?, self.divergence.scores(&ratios[1])?];
        let inputs =
            Inputs { policy, policy_sums: &policy_sums, reference: &reference, ratios: &ratios, scores };
        let mut losses: Option<Tensor> = None;
        for &(weight, term) in &self.terms {
            let mut part = inputs.losses(term, self.beta, tokens_per_pair)?;
            if weight != 1.0 {
                part = part.f_mul_scalar(weight)?;
            }
            losses = Some(match losses {
                None => part,
                Some(sum) => sum.f_add(&part)?,
            });
        }
        let mut losses = losses.ok_or_else(|| Error::Combination("a mixture of no losses".to_owned()))?;
        if self.weighting {
            losses = losses.f_mul(&policy.weights()?)?;
        }
        let reward = |ratio: &Tensor| ratio.f_detach()?.f_mul_scalar(self.beta);
        let metrics = |output: &PreferenceOutput| -> Result<Sums> {
            let mut sums = Sums::default();
            sums.rewards(&output.chosen_rewards, &output.rejected_rewards)?;
            sums.mean("logps/chosen", &policy_sums[0])?;
            sums.mean("logps/rejected", &policy_sums[1])?;
            policy.tokens().map(|tokens| sums.statistics(tokens)).transpose()?;
            Ok(sums)
        };
        PreferenceOutput::new(losses, reward(&ratios[0])?, reward(&ratios[1])?, metrics)
    }
}

/// As in logs and in the description of a run: `sigmoid beta=0.1`, `0.8*sigmoid + 0.2*bco_pair(0) beta=0.1 ld_alpha=0.5`.
impl fmt::Display for PreferenceLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (weight, term)) in self.terms.iter().enumerate() {
            f.write_str(if at > 0 { " + " } else { "" })?;
            if *weight != 1.0 {
                write!(f, "{weight}*")?;
            }
            write!(f, "{term}")?;
        }
        write!(f, " beta={}", self.beta)?;
        if self.divergence != Divergence::ReverseKl {
            write!(f, " divergence={}", self.divergence)?;
        }
        if let Some(alpha) = self.ld_alpha {
            write!(f, " ld_alpha={alpha}")?;
        }
        f.write_str(if self.weighting { " wpo" } else { "" })
    }
}

/// What the terms of a mixture share.
struct Inputs<'a> {
    policy: &'a PairLogProbs,
    policy_sums: &'a [Tensor; 2],
    reference: &'a [Tensor; 2],
    ratios: &'a [Tensor; 2],
    scores: [Tensor; 2],
}

impl Inputs<'_> {
    fn losses(&self, term: LossType, beta: f64, tokens_per_pair: Option<f64>) -> Result<Tensor> {
        let [chosen, rejected] = self.ratios;
        let difference = |[chosen, rejected]: &[Tensor; 2]| chosen.f_sub(rejected);
        let margins = || difference(&self.scores);
        let mean_margins = || -> Result<Tensor> {
            let [chosen, rejected] = self.policy.lengths(&format!("the loss `{}`", term.name()))?;
            Ok(self.scores[0].f_div(chosen)?.f_sub(&self.scores[1].f_div(rejected)?)?)
        };
        match term {
            LossType::Sigmoid => losses::sigmoid(&margins()?, beta),
            LossType::Conservative(smoothing) => losses::conservative(&margins()?, beta, smoothing),
            LossType::Hinge => losses::hinge(&margins()?, beta),
            LossType::Ipo => losses::ipo(&mean_margins()?, beta),
            LossType::ExoPair(smoothing) => losses::exo_pair(&margins()?, beta, smoothing),
            LossType::NcaPair => losses::nca_pair(chosen, rejected, beta),
            LossType::Robust(smoothing) => losses::robust(&margins()?, beta, smoothing),
            LossType::BcoPair(shift) => losses::bco_pair(chosen, rejected, beta, shift),
            LossType::SppoHard => losses::sppo_hard(chosen, rejected, beta),
            LossType::Aot(smoothing) => {
                losses::aot(&difference(self.policy_sums)?, &difference(self.reference)?, beta, smoothing)
            }
            LossType::AotUnpaired(smoothing) => losses::aot_unpaired(chosen, rejected, beta, smoothing),
            LossType::ApoZero => losses::apo_zero(chosen, rejected, beta),
            LossType::ApoDown => losses::apo_down(chosen, rejected, beta),
            LossType::DiscoPop(tau) => losses::discopop(&margins()?, beta, tau),
            LossType::Sft => sft(self.policy, tokens_per_pair),
            LossType::SigmoidNorm => losses::sigmoid_norm(&mean_margins()?, beta),
        }
    }
}

/// The share of each pair in the mean over tokens.
pub(crate) fn sft(policy: &PairLogProbs, tokens_per_pair: Option<f64>) -> Result<Tensor> {
    let tokens_per_pair = match tokens_per_pair {
        Some(mean) => mean,
        None => policy.lengths("the loss `sft`")?[0].f_mean(Kind::Double)?.f_double_value(&[])?,
    };
    losses::sft(policy.chosen(), tokens_per_pair)
}

/// What a loss gives for B pairs.
#[derive(Debug)]
pub struct PreferenceOutput {
    /// The mean over pairs, a scalar with its graph.
    pub loss: Tensor,
    /// The loss of each pair, `[B]`, with its graph. Those of AOT belong to ranks, not pairs; the term `sft` is each
    /// pair's share in the mean over tokens.
    pub losses: Tensor,
    /// `beta * A_c` of each pair, `[B]`, without a graph.
    pub chosen_rewards: Tensor,
    /// `beta * A_r` of each pair, `[B]`, without a graph.
    pub rejected_rewards: Tensor,
    sums: Sums,
}

impl PreferenceOutput {
    pub(crate) fn new(
        losses: Tensor,
        chosen_rewards: Tensor,
        rejected_rewards: Tensor,
        metrics: impl FnOnce(&Self) -> Result<Sums>,
    ) -> Result<Self> {
        let loss = losses.f_mean(Kind::Float)?;
        let mut output = Self { loss, losses, chosen_rewards, rejected_rewards, sums: Sums::default() };
        output.sums = metrics(&output)?;
        Ok(output)
    }

    /// The metrics by TRL's names, fetched from the device all at once.
    ///
    /// # Errors
    /// libtorch's.
    pub fn metrics(&self) -> Result<PreferenceMetrics> {
        self.sums.fetch()
    }
}
