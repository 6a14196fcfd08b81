//! The preference objective for the loop of persona-train.

use std::cell::Cell;
use std::marker::PhantomData;

use persona_data::EncodedPair;
use persona_model::{CausalLm, Parameters, TargetBatch, token_log_probs};
use persona_train::{Contribution, Mean, Objective};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::log_probs::{PairLogProbs, TokenLogProbs};
use crate::loss::PreferenceLoss;
use crate::metrics::PreferenceMetrics;
use crate::reference::{LiveReference, ReferencedPair, batch_of, digest};
use crate::reference_free::ReferenceFreeLoss;
use crate::statistics::TokenStatistics;

/// Stage 2 of PAL: any loss of pairs. Dropout is off, as in the reference. The loss is a mean over pairs, and where the
/// chosen responses' likelihood is part of it a mean over their tokens beside it; both over the whole step.
///
/// Items are [`ReferencedPair`]s where the reference's log-probabilities were computed before
/// ([`PreferenceLoss::on`]), and [`EncodedPair`]s where the reference is live ([`PreferenceLoss::against`]) or there is
/// none ([`ReferenceFreeLoss::on`]).
#[derive(Debug)]
pub struct Preference<M, I = ReferencedPair> {
    loss: PairLoss,
    policy: M,
    reference: Option<LiveReference>,
    statistics: bool,
    /// The mean length of the chosen responses of the step in progress.
    tokens_per_pair: Cell<Option<f64>>,
    items: PhantomData<fn(&I)>,
}

#[derive(Debug)]
enum PairLoss {
    Against(PreferenceLoss),
    Free(ReferenceFreeLoss),
}

/// A pair as the objective takes it.
pub trait PairItem {
    /// The pair.
    fn pair(&self) -> &EncodedPair;

    /// The reference's log-probabilities, where they were computed before.
    fn referenced(&self) -> Option<&ReferencedPair>;
}

impl PairItem for EncodedPair {
    fn pair(&self) -> &EncodedPair {
        self
    }

    fn referenced(&self) -> Option<&ReferencedPair> {
        None
    }
}

impl PairItem for ReferencedPair {
    fn pair(&self) -> &EncodedPair {
        &self.pair
    }

    fn referenced(&self) -> Option<&ReferencedPair> {
        Some(self)
    }
}

impl PreferenceLoss {
    /// The objective of training a policy with this loss, on pairs whose reference log-probabilities are known.
    pub fn on<M: CausalLm>(self, policy: M) -> Preference<M> {
        Preference::new(PairLoss::Against(self), policy, None)
    }

    /// The objective of training a policy with this loss against a reference that is computed at every step.
    ///
    /// # Errors
    /// [`Error::Combination`] for a moving reference of a policy that is an adapter.
    pub fn against<M: CausalLm>(
        self,
        policy: M,
        reference: LiveReference,
    ) -> Result<Preference<M, EncodedPair>> {
        reference.check(&policy)?;
        Ok(Preference::new(PairLoss::Against(self), policy, Some(reference)))
    }
}

impl ReferenceFreeLoss {
    /// The objective of training a policy with this loss.
    pub fn on<M: CausalLm>(self, policy: M) -> Preference<M, EncodedPair> {
        Preference::new(PairLoss::Free(self), policy, None)
    }
}

impl<M: CausalLm, I: PairItem> Preference<M, I> {
    fn new(loss: PairLoss, policy: M, reference: Option<LiveReference>) -> Self {
        let tokens_per_pair = Cell::new(None);
        Self { loss, policy, reference, statistics: false, tokens_per_pair, items: PhantomData }
    }

    /// Measures entropy, mean logits and token accuracy too, which costs some passes over the logits.
    #[must_use]
    pub fn with_statistics(mut self) -> Self {
        self.statistics = true;
        self
    }

    /// The model, after training.
    pub fn into_model(self) -> M {
        self.policy
    }

    fn contribution(&self, items: &[&I]) -> Result<Contribution> {
        let batch = batch_of(items.iter().map(|item| item.pair()), &self.policy)?;
        let tokens_per_pair = self.tokens_per_pair.get();
        let output = match &self.loss {
            PairLoss::Free(loss) => {
                loss.evaluate_part(&self.scores(&batch, &self.policy, self.statistics)?, tokens_per_pair)?
            }
            PairLoss::Against(loss) => {
                let reference = self.reference_sums(items, &batch, loss.ld_alpha())?;
                let statistics = self.statistics || loss.has_wpo_weighting();
                let policy = self.scores(&batch, &self.policy, statistics)?;
                loss.evaluate_part(&policy, reference, tokens_per_pair)?
            }
        };
        let means = means(&output.metrics()?);
        Ok(Contribution { numerator: output.losses.f_sum(Kind::Float)?, means })
    }

    /// The log-probabilities of chosen and rejected responses under a model.
    fn scores(&self, batch: &TargetBatch, model: &dyn CausalLm, statistics: bool) -> Result<PairLogProbs> {
        let logits = batch.logits(model, false)?;
        let log_probs = token_log_probs(&logits, batch.ids())?;
        let mut tokens = TokenLogProbs::ragged(&log_probs, batch.lens())?;
        if statistics {
            let statistics = TokenStatistics::from_logits(&logits, batch.ids())?;
            tokens = tokens.with_statistics(statistics.ragged(batch.lens())?)?;
        }
        let [chosen, rejected] = tokens.in_turn()?;
        PairLogProbs::from_tokens(&chosen, &rejected)
    }

    /// The reference's log-probabilities of chosen and rejected responses, tails weighted by `ld_alpha`.
    fn reference_sums(
        &self,
        items: &[&I],
        batch: &TargetBatch,
        ld_alpha: Option<f64>,
    ) -> Result<[Tensor; 2]> {
        if let Some(reference) = &self.reference {
            let (ours, theirs) = (self.policy.precision(), reference.model.precision());
            if ours != theirs {
                return Err(Error::Combination(format!(
                    "the policy computes in {ours:?} and the reference in {theirs:?}; give the reference the policy's \
                     precision by set_precision"
                )));
            }
            let _no_grad = tch::no_grad_guard();
            return self.scores(batch, reference.model.as_ref(), false)?.desensitised(ld_alpha);
        }
        let tails = 1.0 - ld_alpha.unwrap_or(1.0);
        let tapered = |sum: f32, tail: f32| (f64::from(sum) - tails * f64::from(tail)) as f32;
        let mut sums = [Vec::with_capacity(items.len()), Vec::with_capacity(items.len())];
        for item in items {
            let pair = item.referenced().ok_or_else(|| Error::Missing {
                what: "the reference's log-probabilities",
                needed_by: format!("pair {}", item.pair().id),
                how: "compute them by reference_log_probs",
            })?;
            sums[0].push(tapered(pair.chosen, pair.chosen_tail));
            sums[1].push(tapered(pair.rejected, pair.rejected_tail));
        }
        let column = |values: &[f32]| Tensor::f_from_slice(values)?.f_to_device(self.policy.device());
        Ok([column(&sums[0])?, column(&sums[1])?])
    }
}

/// Metrics as the loop adds them up.
pub(crate) fn means(metrics: &PreferenceMetrics) -> Vec<(String, Mean)> {
    let mean =
        |metric: &crate::Metric| (metric.name.to_owned(), Mean { sum: metric.sum, count: metric.count });
    metrics.sums().iter().map(mean).collect()
}

/// An error as the loop takes it.
pub(crate) fn objective_error(error: Error) -> persona_train::Error {
    match error {
        Error::Model(error) => error.into(),
        other => persona_train::Error::objective(other),
    }
}

impl<M: CausalLm, I: PairItem> Objective for Preference<M, I> {
    type Item = I;
    type Model = M;

    fn model(&self) -> &M {
        &self.policy
    }

    fn model_mut(&mut self) -> &mut M {
        &mut self.policy
    }

    fn describe(&self) -> String {
        match &self.loss {
            PairLoss::Against(loss) => {
                let reference = self.reference.as_ref().map(LiveReference::describe);
                format!("preference {loss}{}", reference.unwrap_or_default())
            }
            PairLoss::Free(loss) => format!("preference {loss}"),
        }
    }

    fn unit(&self) -> &'static str {
        "pairs"
    }

    fn id<'a>(&self, item: &'a I) -> &'a str {
        &item.pair().id
    }

    fn tokens(&self, item: &I) -> usize {
        let pair = item.pair();
        pair.prompt.len() + pair.chosen.len() + pair.rejected.len()
    }

    fn digest(&self, item: &I, sink: &mut dyn FnMut(&[u8])) {
        digest(item.pair(), sink);
        if let Some(pair) = item.referenced() {
            for value in [pair.chosen, pair.rejected, pair.chosen_tail, pair.rejected_tail] {
                sink(&value.to_le_bytes());
            }
        }
    }

    fn count(&self, items: &[&I]) -> f64 {
        items.len() as f64
    }

    fn couples_batch(&self) -> bool {
        matches!(&self.loss, PairLoss::Against(loss) if loss.couples_batch())
    }

    fn begin(&self, items: &[&I], _micro_batch_size: usize) -> persona_train::Result<()> {
        let tokens: usize = items.iter().map(|item| item.pair().chosen.len()).sum();
        self.tokens_per_pair.set(Some(tokens as f64 / items.len() as f64));
        Ok(())
    }

    fn evaluate(&self, items: &[&I], _train: bool) -> persona_train::Result<Contribution> {
        self.contribution(items).map_err(objective_error)
    }

    fn after_step(&mut self, step: u64) -> persona_train::Result<()> {
        let Some(reference) = &mut self.reference else { return Ok(()) };
        reference.after_step(step, &self.policy).map_err(objective_error)
    }

    fn state(&self) -> Option<&Parameters> {
        self.reference
            .as_ref()
            .filter(|reference| reference.moves())
            .map(|reference| reference.model.parameters())
    }

    fn state_mut(&mut self) -> Option<&mut Parameters> {
        let reference = self.reference.as_mut().filter(|reference| reference.moves());
        reference.map(|reference| reference.model.parameters_mut())
    }
}
