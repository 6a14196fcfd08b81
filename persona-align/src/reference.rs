//! References: whose log-probabilities a policy is compared with, computed once or at every step.

use std::path::Path;

use persona_data::EncodedPair;
use persona_model::{AdapterId, CausalLm, Parameters, TargetBatch, TargetBatchBuilder};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::options;

/// A pair with its summed log-probabilities under the reference, in nats.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferencedPair {
    /// The pair as token ids.
    pub pair: EncodedPair,
    /// The reference's log-probability of the chosen response.
    pub chosen: f32,
    /// The reference's log-probability of the rejected response.
    pub rejected: f32,
    /// The part of `chosen` beyond the rejected response's length, for losses with `ld_alpha`.
    pub chosen_tail: f32,
    /// The part of `rejected` beyond the chosen response's length.
    pub rejected_tail: f32,
}

/// Which of the weights that one model holds are the reference of a policy that is an adapter on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// The base, adapters off: the reference of an adapter that begins fresh.
    Base,
    /// An adapter as it is now: the reference of a policy that continues from it, as stage 2 of PAL from stage 1's.
    Adapter(AdapterId),
}

impl Reference {
    /// Runs a computation on the model with these weights, and leaves the model as it was. No copy is made, so compute an
    /// adapter's log-probabilities before it is trained further:
    /// `Reference::Adapter(stage1).with(&mut model, |reference| reference_log_probs(reference, pairs, 8, None))`.
    ///
    /// # Errors
    /// The model's when it does not hold the adapter, and those of the computation.
    pub fn with<M: CausalLm, T>(self, model: &mut M, compute: impl FnOnce(&M) -> Result<T>) -> Result<T> {
        let active = model.adapters().active();
        model.adapters_mut().activate(match self {
            Self::Base => None,
            Self::Adapter(id) => Some(id),
        })?;
        let computed = compute(model);
        model.adapters_mut().activate(active)?;
        computed
    }
}

/// Computes the reference's log-probabilities of every pair once, without dropout. With a cache file they are read from
/// it when it is there, and written to it when it is not; the file remembers model and pairs and is refused for others.
///
/// The reference is the model with its active adapter, in its own precision; give it the one that the policy trains in.
/// [`Reference`] names others that a model holds.
///
/// # Errors
/// [`Error::Reference`] for a cache of another model or other pairs; [`Error::Rows`] with what the model refuses, a pair
/// that is too long for it above all.
pub fn reference_log_probs(
    reference: &dyn CausalLm,
    pairs: Vec<EncodedPair>,
    micro_batch_size: usize,
    cache: Option<&Path>,
) -> Result<Vec<ReferencedPair>> {
    referenced(reference, pairs, micro_batch_size, cache.map(|path| Cache { path, tokenizer: None }))
}

/// As [`reference_log_probs`] with a cache file that remembers the tokenizer too, by a fingerprint such as
/// `TextTokenizer::fingerprint` of persona-data: it is refused for another one, also where the tokens happen to be the
/// same.
///
/// # Errors
/// As [`reference_log_probs`].
pub fn reference_log_probs_of(
    reference: &dyn CausalLm,
    pairs: Vec<EncodedPair>,
    micro_batch_size: usize,
    cache: &Path,
    tokenizer: &str,
) -> Result<Vec<ReferencedPair>> {
    referenced(reference, pairs, micro_batch_size, Some(Cache { path: cache, tokenizer: Some(tokenizer) }))
}

fn referenced(
    reference: &dyn CausalLm,
    pairs: Vec<EncodedPair>,
    micro_batch_size: usize,
    cache: Option<Cache<'_>>,
) -> Result<Vec<ReferencedPair>> {
    let id = |pair: &EncodedPair| pair.id.clone();
    let sums = cached(reference, &pairs, micro_batch_size, cache, (id, digest), |part| {
        let batch = batch_of(part.iter(), reference)?;
        let log_probs = batch.log_probs(reference, false)?.f_to_device(Device::Cpu)?;
        let log_probs = Vec::<f32>::try_from(&log_probs)?;
        let mut tokens = log_probs.as_slice();
        let mut sums = Vec::with_capacity(4 * part.len());
        for pair in part {
            let (chosen, rest) = tokens.split_at(pair.chosen.len().min(tokens.len()));
            let (rejected, rest) = rest.split_at(pair.rejected.len().min(rest.len()));
            tokens = rest;
            let sum = |tokens: &[f32]| tokens.iter().map(|&token| f64::from(token)).sum::<f64>() as f32;
            let tail = |tokens: &[f32], other: &[f32]| sum(tokens.get(other.len()..).unwrap_or_default());
            sums.extend([sum(chosen), sum(rejected), tail(chosen, rejected), tail(rejected, chosen)]);
        }
        Ok(sums)
    })?;
    let referenced =
        pairs.into_iter().zip(sums).map(|(pair, [chosen, rejected, chosen_tail, rejected_tail])| {
            ReferencedPair { pair, chosen, rejected, chosen_tail, rejected_tail }
        });
    Ok(referenced.collect())
}

/// Hands everything of an item that the numbers depend on to a hash.
type DigestOf<T> = fn(&T, &mut dyn FnMut(&[u8]));

/// An item's id.
type IdOf<T> = fn(&T) -> String;

/// A file of log-probabilities, and what is known of the tokenizer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cache<'a> {
    pub(crate) path: &'a Path,
    pub(crate) tokenizer: Option<&'a str>,
}

/// K numbers for each item, computed in parts, or read from the cache.
pub(crate) fn cached<T, const K: usize>(
    reference: &dyn CausalLm,
    items: &[T],
    micro_batch_size: usize,
    cache: Option<Cache<'_>>,
    (id, digest): (IdOf<T>, DigestOf<T>),
    compute: impl Fn(&[T]) -> Result<Vec<f32>>,
) -> Result<Vec<[f32; K]>> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let _no_grad = tch::no_grad_guard();
    let made_of = match cache {
        Some(cache) => made_of(reference, items, digest, cache.tokenizer)?,
        None => Vec::new(),
    };
    let sums = match cache.filter(|cache| cache.path.exists()) {
        Some(cache) => read_cache(cache.path, &made_of, [items.len() as i64, K as i64])?,
        None => {
            let mut sums: Vec<f32> = Vec::with_capacity(K * items.len());
            let size = micro_batch_size.max(1);
            for (number, part) in items.chunks(size).enumerate() {
                let computed = compute(part).map_err(|error| {
                    let name = |(at, item): (usize, &T)| match id(item) {
                        id if id.is_empty() => (number * size + at).to_string(),
                        id => id,
                    };
                    let names: Vec<String> = part.iter().enumerate().map(name).collect();
                    Error::Rows { rows: names.join(", "), error: Box::new(error) }
                });
                sums.extend(computed?);
            }
            if let Some(cache) = cache {
                let tensor = Tensor::f_from_slice(&sums)?.f_view([-1, K as i64])?;
                let tensors = [("sums".to_owned(), tensor)];
                persona_model::write_tensors(cache.path, &tensors, &made_of)?;
            }
            sums
        }
    };
    Ok(sums.as_chunks::<K>().0.to_vec())
}

fn read_cache(path: &Path, made_of: &[(&str, String)], shape: [i64; 2]) -> Result<Vec<f32>> {
    let refuse = |reason: String| Error::Reference { path: path.to_path_buf(), reason };
    let (tensors, metadata) = persona_model::read_tensors(path)?;
    let mut differences = Vec::new();
    for (what, now) in made_of {
        match metadata.get(*what) {
            Some(held) if held == now => {}
            Some(held) => differences.push(format!("the {what} was {held} and is now {now}")),
            None => differences.push(format!("it does not say its {what}")),
        }
    }
    if !differences.is_empty() {
        return Err(refuse(format!("these log-probabilities are of others: {}", differences.join(", "))));
    }
    let sums = tensors.get("sums").filter(|sums| sums.size() == shape);
    let sums = sums.ok_or_else(|| refuse(format!("holds no `sums` of {} values an example", shape[1])))?;
    Ok(Vec::<f32>::try_from(sums.f_view([-1])?)?)
}

/// What log-probabilities are made of: the reference's weights, active adapter and precision, the items' tokens, and the
/// tokenizer where it is known.
fn made_of<T>(
    reference: &dyn CausalLm,
    items: &[T],
    digest: DigestOf<T>,
    tokenizer: Option<&str>,
) -> Result<Vec<(&'static str, String)>> {
    let mut hash = Sha256::new();
    for item in items {
        digest(item, &mut |bytes| hash.update(bytes));
    }
    let data: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut made_of = vec![
        ("model", format!("{} {:?}", reference.fingerprint()?, reference.precision())),
        ("data", format!("{} items {data}", items.len())),
    ];
    made_of.extend(tokenizer.map(|tokenizer| ("tokenizer", tokenizer.to_owned())));
    Ok(made_of)
}

/// The pair's tokens as bytes.
pub(crate) fn digest(pair: &EncodedPair, sink: &mut dyn FnMut(&[u8])) {
    for ids in [&pair.prompt, &pair.chosen, &pair.rejected] {
        digest_ids(ids, sink);
    }
}

pub(crate) fn digest_ids(ids: &[u32], sink: &mut dyn FnMut(&[u8])) {
    sink(&(ids.len() as u64).to_le_bytes());
    ids.iter().for_each(|id| sink(&id.to_le_bytes()));
}

/// Chosen and rejected of every pair in turn, each prompt computed once.
pub(crate) fn batch_of<'a>(
    pairs: impl Iterator<Item = &'a EncodedPair>,
    model: &dyn CausalLm,
) -> Result<TargetBatch> {
    let mut builder = TargetBatchBuilder::for_model(model, false);
    for pair in pairs {
        builder.prompt(&pair.prompt, &[&pair.chosen, &pair.rejected]);
    }
    Ok(builder.build(model.limits(), model.device())?)
}

/// A reference that is computed at every step instead of once before training: one that moves, or one whose
/// log-probabilities are not worth keeping.
pub struct LiveReference {
    pub(crate) model: Box<dyn CausalLm>,
    moving: Option<(f64, u64)>,
    /// What it was at the start of the run.
    start: String,
}

impl LiveReference {
    /// A model that stays as it is.
    ///
    /// # Errors
    /// The model's.
    pub fn frozen(model: impl CausalLm + 'static) -> Result<Self> {
        let start = model.fingerprint()?;
        Ok(Self { model: Box::new(model), moving: None, start })
    }

    /// TR-DPO (Gorbatovski et al. 2024): after every `every` optimiser steps all weights become
    /// `alpha * policy + (1 - alpha) * reference`. TRL's `sync_ref_model` with `ref_model_mixup_alpha` 0.6 and
    /// `ref_model_sync_steps` 512; `alpha` 1 copies the policy. Only for policies whose base weights are trained.
    ///
    /// The reference is part of the run's checkpoints.
    ///
    /// # Errors
    /// [`Error::Option`] unless `alpha` is above 0 and at most 1, and `every` above 0; the model's.
    pub fn moving(model: impl CausalLm + 'static, alpha: f64, every: u64) -> Result<Self> {
        options::positive("alpha", alpha)?;
        options::share("alpha", alpha)?;
        options::positive("every", every as f64)?;
        Ok(Self { moving: Some((alpha, every)), ..Self::frozen(model)? })
    }

    /// Refuses a moving reference of a policy that is an adapter.
    pub(crate) fn check(&self, policy: &dyn CausalLm) -> Result<()> {
        if self.moving.is_some() && !std::ptr::eq(policy.trainable(), policy.parameters()) {
            let reason = "a moving reference follows base weights, and the policy trains an adapter; train the base, \
                          or keep the reference fixed";
            return Err(Error::Combination(reason.to_owned()));
        }
        Ok(())
    }

    /// What a run's description says.
    pub(crate) fn describe(&self) -> String {
        match self.moving {
            None => format!(" against {}", self.start),
            Some((alpha, every)) => format!(" against {} moving alpha={alpha} every={every}", self.start),
        }
    }

    pub(crate) fn moves(&self) -> bool {
        self.moving.is_some()
    }

    pub(crate) fn after_step(&mut self, step: u64, policy: &dyn CausalLm) -> Result<()> {
        let Some((alpha, every)) = self.moving else { return Ok(()) };
        if !step.is_multiple_of(every) {
            return Ok(());
        }
        let _no_grad = tch::no_grad_guard();
        let policy = policy.parameters();
        let reference = self.model.parameters_mut();
        let laid_out = |held: &Parameters| (held.flat().size(), held.offsets().to_vec());
        if laid_out(reference) != laid_out(policy) {
            let reason = "a moving reference is a copy of the policy; these two have other parameters";
            return Err(Error::Combination(reason.to_owned()));
        }
        let target = policy.flat().f_to_device(reference.device())?.f_to_kind(reference.kind())?;
        let _ = reference.flat_mut().f_lerp_(&target, alpha)?;
        Ok(())
    }
}

impl std::fmt::Debug for LiveReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveReference")
            .field("moving", &self.moving)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}
