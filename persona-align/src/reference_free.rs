//! Losses of pairs without a reference.

use std::fmt;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::log_probs::{PairLogProbs, TokenLogProbs};
use crate::loss::{self, PreferenceOutput};
use crate::losses;
use crate::metrics::Sums;
use crate::options;

/// A loss of pairs that needs no reference: SimPO, CPO, ORPO.
///
/// The loss is a mean over pairs, and with [`with_sft`](Self::with_sft) a mean over the chosen responses' tokens beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferenceFreeLoss {
    kind: Kind,
    beta: f64,
    label_smoothing: f64,
    sft: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    SimPo { gamma: f64 },
    Cpo,
    CpoHinge,
    CpoIpo,
    Orpo,
}

impl ReferenceFreeLoss {
    fn new(kind: Kind, beta: f64, sft: f64) -> Self {
        Self { kind, beta, label_smoothing: 0.0, sft }
    }

    /// SimPO (Meng et al. 2024): [`losses::simpo`] of means over tokens. With [`with_sft`](Self::with_sft) it is CPO-SimPO.
    /// TRL's defaults, `beta` 0.1 and `gamma` 0.5, lie far from the paper's ranges, which [`losses::simpo`] names.
    #[must_use]
    pub fn simpo(beta: f64, gamma: f64) -> Self {
        Self::new(Kind::SimPo { gamma }, beta, 0.0)
    }

    /// CPO (Xu et al. 2024): [`losses::sigmoid`] of `lp_c - lp_r`, log-probabilities summed over tokens, and
    /// the chosen response's negative log-likelihood, a mean over tokens, with weight 1.
    #[must_use]
    pub fn cpo(beta: f64) -> Self {
        Self::new(Kind::Cpo, beta, 1.0)
    }

    /// CPO with the hinge, [`losses::hinge`], of sums over tokens: TRL's `hinge`.
    #[must_use]
    pub fn cpo_hinge(beta: f64) -> Self {
        Self::new(Kind::CpoHinge, beta, 1.0)
    }

    /// CPO with [`losses::ipo`], of means over tokens: TRL's `ipo`.
    #[must_use]
    pub fn cpo_ipo(beta: f64) -> Self {
        Self::new(Kind::CpoIpo, beta, 1.0)
    }

    /// ORPO (Hong et al. 2024): [`losses::orpo`] of means over tokens, where `beta` is the paper's lambda, and the chosen
    /// response's negative log-likelihood, a mean over tokens, with weight 1. TRL's likelihood takes in the prompt; see
    /// [`evaluate_with_nll`](Self::evaluate_with_nll).
    #[must_use]
    pub fn orpo(beta: f64) -> Self {
        Self::new(Kind::Orpo, beta, 1.0)
    }

    /// The weight of the chosen responses' negative log-likelihood; TRL's `cpo_alpha`.
    #[must_use]
    pub fn with_sft(mut self, weight: f64) -> Self {
        self.sft = weight;
        self
    }

    /// The share of labels taken to be wrong, for SimPO and CPO.
    #[must_use]
    pub fn with_label_smoothing(mut self, label_smoothing: f64) -> Self {
        self.label_smoothing = label_smoothing;
        self
    }

    /// Checks all options, and that they go together.
    ///
    /// # Errors
    /// [`Error::Option`] for one out of range; [`Error::Combination`] for label smoothing of a loss that has none.
    pub fn check(&self) -> Result<()> {
        options::positive("beta", self.beta)?;
        options::not_negative("sft weight", self.sft)?;
        options::label_smoothing(self.label_smoothing)?;
        match self.kind {
            Kind::SimPo { gamma } => options::not_negative("gamma", gamma),
            Kind::Cpo => Ok(()),
            Kind::CpoHinge | Kind::CpoIpo | Kind::Orpo if self.label_smoothing == 0.0 => Ok(()),
            Kind::CpoHinge | Kind::CpoIpo | Kind::Orpo => {
                let name = self.name();
                Err(Error::Combination(format!("`{name}` has no label smoothing; take `simpo` or `cpo`")))
            }
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::SimPo { .. } => "simpo",
            Kind::Cpo => "cpo",
            Kind::CpoHinge => "cpo_hinge",
            Kind::CpoIpo => "cpo_ipo",
            Kind::Orpo => "orpo",
        }
    }

    /// The loss of every pair, their mean, and the rewards, which are `beta` times the policy's log-probability as the
    /// loss takes it, sum or mean over tokens.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`Error::Shape`] for no pairs; [`Error::NonFinite`] for NaN and infinity;
    /// [`Error::Missing`] where lengths are needed, by all but plain `cpo` and `cpo_hinge` without likelihood.
    pub fn evaluate(&self, policy: &PairLogProbs) -> Result<PreferenceOutput> {
        self.check()?;
        policy.check(["the chosen log-probabilities", "the rejected log-probabilities"])?;
        self.evaluate_part(policy, None)
    }

    /// As [`evaluate`](Self::evaluate), with the likelihood of other tokens: those of prompt and chosen response for
    /// TRL's ORPO.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and [`Error::Shape`] unless `nll` has a row for each pair.
    pub fn evaluate_with_nll(&self, policy: &PairLogProbs, nll: &TokenLogProbs) -> Result<PreferenceOutput> {
        policy.check(["the chosen log-probabilities", "the rejected log-probabilities"])?;
        let tokens = nll.lengths().f_mean(tch::Kind::Double)?.f_double_value(&[])?;
        crate::log_probs::same_shape("the likelihood's log-probabilities", nll.lengths(), policy.chosen())?;
        self.evaluate_nll(policy, losses::sft(&nll.sums()?, tokens)?)
    }

    /// As [`evaluate`](Self::evaluate), for some pairs of a step and with NaN let through.
    pub(crate) fn evaluate_part(
        &self,
        policy: &PairLogProbs,
        tokens_per_pair: Option<f64>,
    ) -> Result<PreferenceOutput> {
        if self.sft == 0.0 {
            return self.evaluate_nll(policy, policy.chosen().f_zeros_like()?);
        }
        self.evaluate_nll(policy, loss::sft(policy, tokens_per_pair)?)
    }

    fn evaluate_nll(&self, policy: &PairLogProbs, nll: Tensor) -> Result<PreferenceOutput> {
        self.check()?;
        let [chosen, rejected] = match self.kind {
            Kind::Cpo | Kind::CpoHinge => policy.desensitised(None)?,
            Kind::SimPo { .. } | Kind::CpoIpo | Kind::Orpo => {
                policy.means(&format!("the loss `{}`", self.name()))?
            }
        };
        let margins = || chosen.f_sub(&rejected);
        let mut log_odds = None;
        let mut losses = match self.kind {
            Kind::SimPo { gamma } => losses::simpo(&margins()?, self.beta, gamma, self.label_smoothing)?,
            Kind::Cpo => losses::conservative(&margins()?, self.beta, self.label_smoothing)?,
            Kind::CpoHinge => losses::hinge(&margins()?, self.beta)?,
            Kind::CpoIpo => losses::ipo(&margins()?, self.beta)?,
            Kind::Orpo => {
                let odds = log_odds.insert(losses::log_odds(&chosen, &rejected)?);
                losses::orpo(odds, self.beta)?
            }
        };
        if self.sft != 0.0 {
            losses = losses.f_add(&nll.f_mul_scalar(self.sft)?)?;
        }
        let reward = |log_probs: &Tensor| log_probs.f_detach()?.f_mul_scalar(self.beta);
        let metrics = |output: &PreferenceOutput| -> Result<Sums> {
            let mut sums = Sums::default();
            sums.rewards(&output.chosen_rewards, &output.rejected_rewards)?;
            sums.mean("logps/chosen", &chosen)?;
            sums.mean("logps/rejected", &rejected)?;
            if self.sft != 0.0 {
                sums.mean("nll_loss", &nll)?;
            }
            if let Some(odds) = &log_odds {
                sums.mean("log_odds_chosen", odds)?;
                sums.mean("log_odds_ratio", &odds.f_detach()?.f_log_sigmoid()?)?;
            }
            policy.tokens().map(|tokens| sums.statistics(tokens)).transpose()?;
            Ok(sums)
        };
        PreferenceOutput::new(losses, reward(&chosen)?, reward(&rejected)?, metrics)
    }
}

/// As in logs and in the description of a run: `simpo(0.5) beta=2 sft=1`.
impl fmt::Display for ReferenceFreeLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Kind::SimPo { gamma } = self.kind {
            write!(f, "({gamma})")?;
        }
        write!(f, " beta={}", self.beta)?;
        if self.label_smoothing != 0.0 {
            write!(f, " label_smoothing={}", self.label_smoothing)?;
        }
        write!(f, " sft={}", self.sft)
    }
}
