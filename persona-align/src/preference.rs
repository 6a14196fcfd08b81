//! The preference objective for the loop of persona-train, and the reference's cached log-probabilities.

use std::path::Path;

use persona_data::EncodedPair;
use persona_model::{CausalLm, TargetBatch, TargetBatchBuilder};
use persona_train::{Contribution, Mean, Objective};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::log_probs::PairLogProbs;
use crate::loss::PreferenceLoss;

/// A pair with its summed log-probabilities under the reference, in nats.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferencedPair {
    /// The pair as token ids.
    pub pair: EncodedPair,
    /// The reference's log-probability of the chosen response.
    pub chosen: f32,
    /// The reference's log-probability of the rejected response.
    pub rejected: f32,
}

/// Computes the reference's log-probabilities of every pair once, without dropout. With a cache file they are read from
/// it when it is there, and written to it when it is not; the file remembers model and pairs and is refused for others.
///
/// # Errors
/// [`Error::Reference`] for a cache of another model or other pairs; the model's errors.
pub fn reference_log_probs(
    reference: &dyn CausalLm,
    pairs: Vec<EncodedPair>,
    micro_batch_size: usize,
    cache: Option<&Path>,
) -> Result<Vec<ReferencedPair>> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let _no_grad = tch::no_grad_guard();
    let fingerprint = fingerprint(reference, &pairs)?;
    if let Some(path) = cache.filter(|path| path.exists()) {
        let sums = read_cache(path, &fingerprint, pairs.len())?;
        return Ok(attach(pairs, &sums));
    }
    let mut sums: Vec<f32> = Vec::with_capacity(2 * pairs.len());
    for part in pairs.chunks(micro_batch_size.max(1)) {
        let batch = batch_of(part.iter(), reference)?;
        let log_probs = batch.log_probs(reference, false)?;
        sums.extend(Vec::<f32>::try_from(batch.sums(&log_probs)?)?);
    }
    if let Some(path) = cache {
        let tensor = Tensor::f_from_slice(&sums)?.f_view([-1, 2])?;
        persona_model::write_tensors(path, &[("sums".to_owned(), tensor)], &[("fingerprint", fingerprint)])?;
    }
    Ok(attach(pairs, &sums))
}

fn attach(pairs: Vec<EncodedPair>, sums: &[f32]) -> Vec<ReferencedPair> {
    pairs
        .into_iter()
        .zip(sums.chunks_exact(2))
        .map(|(pair, sums)| ReferencedPair { pair, chosen: sums[0], rejected: sums[1] })
        .collect()
}

fn read_cache(path: &Path, fingerprint: &str, pairs: usize) -> Result<Vec<f32>> {
    let refuse = |reason: &str| Error::Reference { path: path.to_path_buf(), reason: reason.to_owned() };
    let (tensors, metadata) = persona_model::read_tensors(path)?;
    if metadata.get("fingerprint").map(String::as_str) != Some(fingerprint) {
        return Err(refuse("these log-probabilities are of another model or of other pairs"));
    }
    let sums = tensors.get("sums").filter(|sums| sums.size() == [pairs as i64, 2]);
    let sums = sums.ok_or_else(|| refuse("holds no `sums` of two values a pair"))?;
    Ok(Vec::<f32>::try_from(sums.f_view([-1])?)?)
}

/// A hash of the reference's weights, active adapter and precision, and of the pairs' tokens.
fn fingerprint(reference: &dyn CausalLm, pairs: &[EncodedPair]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("{:?} {}", reference.precision(), reference.fingerprint()?));
    for pair in pairs {
        digest(pair, &mut |bytes| hash.update(bytes));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn digest(pair: &EncodedPair, sink: &mut dyn FnMut(&[u8])) {
    for ids in [&pair.prompt, &pair.chosen, &pair.rejected] {
        sink(&(ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| sink(&id.to_le_bytes()));
    }
}

/// Chosen and rejected of every pair in turn, each prompt computed once.
fn batch_of<'a>(pairs: impl Iterator<Item = &'a EncodedPair>, model: &dyn CausalLm) -> Result<TargetBatch> {
    let mut builder = TargetBatchBuilder::default();
    for pair in pairs {
        builder.prompt(&pair.prompt, &[&pair.chosen, &pair.rejected]);
    }
    Ok(builder.build(model.limits(), model.device())?)
}

/// Stage 2 of PAL: a preference loss against a fixed reference, whose log-probabilities come with the pairs. Dropout is
/// off, as in the reference. The loss is a mean over pairs.
#[derive(Debug)]
pub struct Preference<M> {
    loss: PreferenceLoss,
    policy: M,
}

impl PreferenceLoss {
    /// The objective of training a policy with this loss.
    pub fn on<M: CausalLm>(self, policy: M) -> Preference<M> {
        Preference { loss: self, policy }
    }
}

impl<M: CausalLm> Preference<M> {
    /// The model, after training.
    pub fn into_model(self) -> M {
        self.policy
    }

    fn contribution(&self, items: &[&ReferencedPair]) -> Result<Contribution> {
        let batch = batch_of(items.iter().map(|item| &item.pair), &self.policy)?;
        let sums = batch.sums(&batch.log_probs(&self.policy, false)?)?.f_view([-1, 2])?;
        let sums = sums.f_unbind(1)?;
        let policy = PairLogProbs::from_sums(sums[0].shallow_clone(), sums[1].shallow_clone())?;
        let column = |of: fn(&ReferencedPair) -> f32| -> Result<Tensor> {
            let values: Vec<f32> = items.iter().map(|item| of(item)).collect();
            Ok(Tensor::f_from_slice(&values)?.f_to_device(self.policy.device())?)
        };
        let reference = PairLogProbs::from_sums(column(|item| item.chosen)?, column(|item| item.rejected)?)?;
        let output = self.loss.evaluate(&policy, &reference)?;
        let pairs = items.len() as f64;
        let log_prob = |sums: &Tensor| -> Result<f64> { Ok(sums.f_mean(Kind::Float)?.f_double_value(&[])?) };
        let logps =
            [("logps/chosen", log_prob(policy.chosen())?), ("logps/rejected", log_prob(policy.rejected())?)];
        let means = output
            .metrics()?
            .named()
            .into_iter()
            .chain(logps)
            .map(|(name, mean)| (name.to_owned(), Mean { sum: mean * pairs, count: pairs }))
            .collect();
        Ok(Contribution { numerator: output.losses.f_sum(Kind::Float)?, means })
    }
}

impl<M: CausalLm> Objective for Preference<M> {
    type Item = ReferencedPair;
    type Model = M;

    fn model(&self) -> &M {
        &self.policy
    }

    fn model_mut(&mut self) -> &mut M {
        &mut self.policy
    }

    fn describe(&self) -> String {
        format!("preference sigmoid beta={}", self.loss.beta())
    }

    fn unit(&self) -> &'static str {
        "pairs"
    }

    fn id<'a>(&self, item: &'a ReferencedPair) -> &'a str {
        &item.pair.id
    }

    fn tokens(&self, item: &ReferencedPair) -> usize {
        item.pair.prompt.len() + item.pair.chosen.len() + item.pair.rejected.len()
    }

    fn digest(&self, item: &ReferencedPair, sink: &mut dyn FnMut(&[u8])) {
        digest(&item.pair, sink);
        sink(&item.chosen.to_le_bytes());
        sink(&item.rejected.to_le_bytes());
    }

    fn count(&self, items: &[&ReferencedPair]) -> f64 {
        items.len() as f64
    }

    fn evaluate(&self, items: &[&ReferencedPair], _train: bool) -> persona_train::Result<Contribution> {
        self.contribution(items).map_err(|error| match error {
            Error::Model(error) => error.into(),
            other => persona_train::Error::objective(other),
        })
    }
}
